"""Scorers of the kill harness that live outside of zotune or compare: a program, a server and a judge.

Each notes every row that it is asked for, one line a row, so that scores which are paid twice are seen.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BATCH = 8
"""Rows in a call of a scorer: what may be paid again after a kill is one call that was under way."""
TRAINING = "One train day"
"""How the prompts of training rows begin."""
VOWELS = """
from pathlib import Path

PAID = Path(__file__).with_name("paid")


def note(prompts):
    with PAID.open("a") as file:
        file.write("".join(prompt + "\\n" for prompt in prompts))


def vowels(text):
    return sum(x in "aeiou" for x in text) / max(len(text), 1)
"""
PROGRAM = '''"""Reads rows as JSON lines, writes the share of vowels of each."""
import json
import sys

from vowels import note, vowels

for line in sys.stdin:
    row = json.loads(line)
    note([row["prompt"]])
    print(vowels(row["completion"]), flush=True)
'''
SERVER = '''"""Scores completions by their share of vowels; writes its port to the file `port`."""
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from vowels import note, vowels


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note(body["prompts"])
        data = json.dumps({"scores": [vowels(c) for c in body["completions"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
Path("port.tmp").write_text(str(server.server_address[1]))
os.replace("port.tmp", "port")
server.serve_forever()
'''
JUDGE = '''"""Prefers more vowels."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from vowels import note, vowels


async def judge(prompts, completions):
    note(prompts)
    return [-1 if vowels(a) == vowels(b) else int(vowels(b) > vowels(a)) for a, b in completions]
'''


class Scorer:
    """A scorer in a folder of its own. flags: those of `zotune fit` that name it. Close it in the end."""

    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        self._paid, self._process = folder / "paid", None if kind != "http-text" else _serve(folder)
        (folder / "vowels.py").write_text(VOWELS)
        (folder / "score.py").write_text(PROGRAM)
        (folder / "judge.py").write_text(JUDGE)
        names: dict[str, Callable[[], str]] = {
            "exec-text": lambda: f"exec:{sys.executable} {folder / 'score.py'}",
            "http-text": lambda: f"http://127.0.0.1:{(folder / 'port').read_text()}/score",
            "judge-text": lambda: f"judge:{folder / 'judge.py'}:judge",
        }
        self.flags = ("-o", names[kind](), "--score-batch-size", str(BATCH), "--no-score-cache", "--no-preflight")

    def forget(self) -> None:
        """Begin to count again."""
        self._paid.unlink(missing_ok=True)

    def paid(self) -> int:
        """Training rows that were asked for since."""
        lines = self._paid.read_text().splitlines() if self._paid.exists() else []
        return sum(line.startswith(TRAINING) for line in lines)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


KINDS = ("exec-text", "http-text", "judge-text")


def _serve(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "vowels.py").write_text(VOWELS)
    (folder / "server.py").write_text(SERVER)
    process = subprocess.Popen([sys.executable, "server.py"], cwd=folder)
    while not (folder / "port").exists():
        if process.poll() is not None:
            raise RuntimeError("the server of scores did not start")
        time.sleep(0.02)
    return process


__all__ = ["BATCH", "KINDS", "Scorer"]
