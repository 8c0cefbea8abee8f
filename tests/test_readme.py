"""The README cannot rot: its code is the examples' code, its flags exist, its figures were filled in."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *(ROOT / "docs" / name for name in ("objectives.md", "reliability.md")))

pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests")


def blocks(kind: str, page: Path = README) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def test_the_code_is_the_examples() -> None:
    shown = blocks("python")
    for name in ("brevity.py", "sign_sgd.py"):
        source = (ROOT / "examples" / name).read_text()
        code = re.sub(r'^""".*?"""\n+', "", source, flags=re.S).strip()
        assert any(code == b.strip() for b in shown), f"examples/{name} is not what the README shows"


def test_the_python_runs() -> None:
    for code in [b for page in PAGES for b in blocks("python", page)]:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_flag_exists() -> None:
    from zotune.cli.app import app

    commands = app.commands
    shown = "\n".join(b for page in PAGES for b in blocks("sh", page))
    for line in shown.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "zotune":
            known = {o for p in commands[words[1]].params for o in p.opts}
            flags = [w for w in words[2:] if w.startswith("-")]
            assert set(flags) <= known, line
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    known = {o for c in commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= known


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@[A-Z]+@", README.read_text())


def test_objective_and_optimizer_are_as_short_as_promised() -> None:
    def lines(name: str) -> int:
        code = re.sub(r'^""".*?"""\n+', "", (ROOT / "examples" / name).read_text(), flags=re.S)
        return sum(bool(x.strip()) for x in code.splitlines())

    assert lines("brevity.py") <= 6
    assert lines("sign_sgd.py") <= 20
