"""Scorers outside of this process: a program, a server, a reward model. A failed answer is an error, never a score."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from zotune_objectives import calls
from zotune_objectives.exec_ import Exec
from zotune_objectives.http import Http, Https
from zotune_objectives.reward_model import RewardModel

from zotune.errors import ModelError, ObjectiveError, OptionError
from zotune.scoring import objective_spec
from zotune.scoring.objective import wrap
from zotune.testing import ObjectiveContract

ROWS: dict[str, Any] = {
    "prompts": ["a", "b", "c", "d", "e"],
    "completions": ["x", "xx", "", "xxx", "xxxxx"],
    "references": ["x", ["y", "z"], None, "w", "v"],
}
LENGTHS = [1.0, 2.0, 0.0, 3.0, 5.0]
NOTHING = {"calls": 0, "retries": 0, "restarts": 0}

# -- a program ---------------------------------------------------------------------------------------------------------

EACH = """\
import json, sys, os, time
for line in sys.stdin:
    row = json.loads(line)
    {body}
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Exec]]:
    """Exec of a Python program that runs `body` for each `row`, or of a whole `text`."""
    made: list[Exec] = []

    def make(body: str = "", text: str | None = None, **options: Any) -> Exec:
        path = tmp_path / f"score{len(made)}.py"
        path.write_text(EACH.format(body=body) if text is None else text, encoding="utf-8")
        made.append(Exec(f"{sys.executable} {path}", **{"timeout": 20.0, **options}))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def left_alive(pid: int) -> bool:
    """Whether a process still runs (one that has ended and waits to be collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_program_answers_each_row_in_order(program: Any) -> None:
    scorer = program("print(len(row['completion']))", batch_size=2)
    assert scorer(**ROWS) == LENGTHS
    assert scorer(**ROWS) == LENGTHS
    assert scorer.tally == {"calls": 6, "retries": 0, "restarts": 0}


def test_a_program_sees_the_row_with_its_columns(program: Any) -> None:
    scorer = program("print(json.dumps({'score': 1.0}) if row == json.load(open(sys.argv[0] + '.row')) else 'other')")
    row = {"prompt": 'p\n"q"', "completion": "né 👍\u2028\n\ud800", "references": ["r", "s"], "level": 3, "tags": ["t"]}
    Path(scorer.command.split()[1] + ".row").write_text(json.dumps(row))
    columns = {"level": [3], "tags": [["t"]], "what": [{1, 2}], "number": [float("nan")], "short": [], "labels": [1]}
    assert scorer([row["completion"]], [row["prompt"]], [["r", "s"]], model=object(), batch=[{}], **columns) == [1.0]


def test_answers_of_all_kinds(program: Any) -> None:
    scorer = program("print(row['completion'])")
    said = ["1", "-2.5e1", "null", '{"score": 0.5, "why": "so"}', '{"reward": null}', "true", " 7 "]
    assert scorer(said, said) == [1.0, -25.0, None, 0.5, None, 1.0, 7.0]


@pytest.mark.parametrize("said", ["NaN", "Infinity", "1e999", '"0.5"', "[1]", "{}", "", "loading the model", "1 2"])
def test_what_is_no_score_is_refused(program: Any, said: str) -> None:
    scorer = program("print(row['completion'])")
    with pytest.raises(ObjectiveError, match=r"printed .*, which is no score .*nothing else"):
        scorer([said], ["p"])
    assert scorer(["4"], ["p"]) == [4.0]
    assert scorer.tally["restarts"] == 1


def test_one_number_for_all_rows(program: Any) -> None:
    scorer = program(
        "print(len(row['prompts']) + len(row['rows'][4]['tag']) if row['references'][2] is None else 0)", level="set"
    )
    goal = wrap(scorer, "exec")
    assert goal.info.level == "set"
    assert not scorer.info().cacheable
    score = goal.score(5, {**ROWS, "tag": ["", "", "", "", "!!"]})
    assert (score.value, score.samples) == (7.0, None)
    with pytest.raises(ObjectiveError, match="null where one number"):
        program("print('null')", level="set")(**ROWS)


def test_several_run_at_a_time(program: Any, tmp_path: Path) -> None:
    """Each waits for the other: one alone would not get through."""
    body = f"open({str(tmp_path)!r} + '/' + row['prompt'], 'w')\n" + (
        f"    while not all(os.path.exists({str(tmp_path)!r} + '/' + x) for x in 'ab'): time.sleep(0.005)\n"
        "    print(os.getpid())"
    )
    one, other = program(body, concurrency=2, batch_size=8)(["", ""], ["a", "b"])
    assert one != other
    rows = [str(i) for i in range(40)]
    ordered = program("print(row['prompt'])", concurrency=3, batch_size=4)
    assert ordered(rows, rows) == [float(i) for i in range(40)]
    assert ordered.tally == {"calls": 10, "retries": 0, "restarts": 0}


def test_a_failure_of_one_of_several_is_the_failure(program: Any) -> None:
    scorer = program(
        "sys.exit('I am ill') if row['prompt'] == '5' else print(row['prompt'])", concurrency=2, batch_size=2
    )
    rows = [str(i) for i in range(10)]
    with pytest.raises(ObjectiveError, match="I am ill"):
        scorer(rows, rows)
    assert scorer(rows[:4], rows[:4]) == [0.0, 1.0, 2.0, 3.0]


def test_it_dies_and_is_started_again(program: Any) -> None:
    scorer = program("if row['completion'] == 'die':\n        raise KeyError('weight')\n    print(1)")
    with pytest.raises(ObjectiveError, match=r"exit code 1 after 1 of 3 answers; its last words: KeyError: 'weight'"):
        scorer(["x", "die", "x"], ["p"] * 3)
    assert scorer(["x", "x"], ["p"] * 2) == [1.0, 1.0]
    assert scorer.tally == {"calls": 2, "retries": 0, "restarts": 1}
    with pytest.raises(ObjectiveError, match="ended by SIGKILL after 0 of 1"):
        program("os.kill(os.getpid(), 9)")(["x"], ["p"])


def test_it_hangs_and_is_started_again(program: Any) -> None:
    scorer = program("time.sleep(600) if row['completion'] == 'hang' else print(1)", timeout=0.5)
    with pytest.raises(ObjectiveError, match=r"0 of 1 answers within 0\.5 s"):
        scorer(["hang"], ["p"])
    patient = Exec(scorer.command, timeout=20)
    assert patient(["x"], ["p"]) == [1.0]
    patient.close()


def test_what_it_started_dies_with_it(program: Any, tmp_path: Path) -> None:
    body = "import subprocess; p = subprocess.Popen(['sleep', '600'])"
    scorer = program(f"{body}; open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); os._exit(3)")
    begun = time.monotonic()
    with pytest.raises(ObjectiveError, match="exit code 3 after 0 of 1"):  # though the child holds its output open
        scorer(["x"], ["p"])
    assert time.monotonic() - begun < 10
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not left_alive(pid))


def test_more_lines_than_rows_are_refused(program: Any) -> None:
    for said in ("print('1\\n2')", "print(1); print(2)", "print(1)\n    if row['completion'] == 'c': print(2)"):
        with pytest.raises(ObjectiveError, match=r"printed '[12]', which answers no row"):
            program(said)(["a", "b", "c"], ["p"] * 3)
    with pytest.raises(ObjectiveError, match="printed '2', which answers no row"):
        program("print('1\\n2')")(["x"], ["p"])
    late = program(
        "print(1); open(sys.argv[0] + '.said', 'w')\n    time.sleep(0.05); print(2); open(sys.argv[0] + '.late', 'w')"
    )
    path = Path(late.command.split()[1] + ".late")
    with pytest.raises(ObjectiveError, match="printed '2', which answers no row"):
        late(["x"], ["p"])  # whether it comes before the first call's end or after, it is never the second's answer
        wait_for(path.exists)
        late(["x"], ["p"])


def test_a_flood_without_an_end_is_refused(program: Any) -> None:
    with pytest.raises(ObjectiveError, match="printed 'aaaa"):
        program("sys.stdout.write('a' * (1 << 22))")(["x"], ["p"])


def test_standard_error_neither_blocks_nor_counts(program: Any) -> None:
    scorer = program("sys.stderr.write('w' * (1 << 20) + '\\nthe end\\n'); print(2)")
    assert scorer(["x"] * 3, ["p"] * 3) == [2.0] * 3
    loud = program("sys.stderr.write('w' * (1 << 20) + '\\nthe end\\n'); sys.stderr.flush(); os._exit(4)")
    with pytest.raises(ObjectiveError, match=r"exit code 4 .*its last words: the end$"):
        loud(["x"], ["p"])


def test_it_exits_at_once(program: Any) -> None:
    scorer = program(text="import sys; sys.exit('no licence')")
    for _ in range(2):
        with pytest.raises(ObjectiveError, match="exit code 1 after 0 of 2 answers; its last words: no licence"):
            scorer(["x"] * 2, ["p" * (1 << 20)] * 2)
    assert scorer.tally["restarts"] == 1


def test_one_that_never_reads_does_not_pass(program: Any) -> None:
    with pytest.raises(ObjectiveError, match=r"within 0\.3 s"):
        program(text="import time; print(1, flush=True); time.sleep(600)", timeout=0.3)(["x" * (1 << 21)], ["p"])


def test_large_rows_do_not_block(program: Any) -> None:
    """It answers while it is still being written to, and more than a pipe holds in both directions."""
    scorer = program("print(json.dumps({'score': len(row['completion']), 'why': 'x' * 3000}))")
    rows = ["é" * (1 << 20), *["x"] * 200, "y" * (2 << 20)]
    big = Exec(scorer.command, batch_size=1000)
    assert big(rows, rows) == [float(len(r)) for r in rows]
    big.close()


def test_no_shell_reads_the_command(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "args.py"
    path.write_text(EACH.format(body="print(int(sys.argv[1:] == [';', '$(touch', 'x)', '*', 'a b', '|', 'cat']))"))
    scorer = Exec("args.py ; $(touch x) * 'a b' | cat")  # not executable: run by this Python
    assert scorer(["x"], ["p"]) == [1.0]
    scorer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["args.py"]


def test_commands_are_found_and_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "score.sh"
    script.write_text("#!/bin/sh\nwhile read -r line; do echo 3; done\n")
    with pytest.raises(OptionError, match=r"not executable \(chmod \+x ./score.sh\)"):
        Exec("./score.sh")
    script.chmod(0o755)
    for command in ("./score.sh", "score.sh", str(script), "sh score.sh"):
        scorer = Exec(command)
        monkeypatch.chdir("/")  # it was said in the folder where the run began
        assert scorer(["x"], ["p"]) == [3.0]
        scorer.close()
        monkeypatch.chdir(tmp_path)
    for command, said in (
        ("no-such-program-at-all", "is not on the PATH and no file here"),
        ("./missing.sh", "is no file"),
        (f"{tmp_path}", "is no file"),
        ("", "needs a command"),
        ("'x", "No closing quotation"),
    ):
        with pytest.raises(OptionError, match=said):
            Exec(command)
    for options in ({"timeout": 0}, {"batch_size": 0}, {"concurrency": -1}):
        with pytest.raises(OptionError, match="must be positive"):
            Exec("sh", **options)


def test_closing_ends_its_input_and_may_be_said_twice(program: Any, tmp_path: Path) -> None:
    tidy = program(text=f"for line in open(0): print(1, flush=True)\nopen({str(tmp_path / 'tidy')!r}, 'w')")
    assert tidy(["x"], ["p"]) == [1.0]
    tidy.close()
    tidy.close()
    assert (tmp_path / "tidy").exists()
    assert tidy(["x"], ["p"]) == [1.0]
    stubborn = program("print(os.getpid(), flush=True); time.sleep(600)")
    (pid,) = stubborn(["x"], ["p"])
    stubborn.close()
    assert not left_alive(int(pid))


def test_an_interrupt_leaves_no_answers_behind(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = program("print(row['prompt'])")
    assert scorer(["x"], ["1"]) == [1.0]
    monkeypatch.setattr("zotune_objectives.calls.parse", lambda text: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scorer(["x", "x"], ["2", "3"])
    monkeypatch.undo()
    assert scorer(["x"], ["4"]) == [4.0]


def test_an_interrupt_cuts_several(program: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes to the thread that waits for the others."""
    scorer = program("print(os.getpid()) if row['prompt'] != 'hang' else time.sleep(600)", concurrency=2)
    pids = scorer(["", ""], ["", ""])
    asked = threading.Semaphore(0)

    def hang(body: Any) -> Any:
        asked.release()
        server.hang.wait(20)

    server.answer = hang

    def interrupted(running: Any, **how: Any) -> None:
        asked.acquire(timeout=10)
        raise KeyboardInterrupt

    monkeypatch.setattr("zotune_objectives.calls.wait", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        server.scorer(concurrency=2)(["", ""], ["", ""])
    asked.release()
    with pytest.raises(KeyboardInterrupt):
        scorer(["", ""], ["hang", "hang"])
    assert time.monotonic() - begun < 5
    assert not any(left_alive(int(pid)) for pid in pids)
    monkeypatch.undo()
    assert len(scorer(["", ""], ["", ""])) == 2


class TestExecContract(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _made(self, program: Any) -> None:
        self.scorer = program("print(float(row['completion'] == row['references']))")

    def objective(self) -> Callable[..., Any]:
        made: Callable[..., Any] = self.scorer
        return made


# -- a server ----------------------------------------------------------------------------------------------------------


class Server:
    """Answers by `answer(request) -> (status, headers, body)` or a JSON value; remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[Any], Any] = lambda body: {"scores": [len(c) for c in body["completions"]]}
        self.hang = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.headers.append(dict(self.headers))
                said = outer.answer(body)
                if said is None:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.connection.close()
                    return
                status, headers, text = said if isinstance(said, tuple) else (200, {}, json.dumps(said))
                data = text if isinstance(text, bytes) else text.encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is part of the tests."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.address = f"//127.0.0.1:{self.port}/score"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def scorer(self, **options: Any) -> Http:
        return Http(self.address, **{"backoff": 0.01, "timeout": 10.0, **options})

    def close(self) -> None:
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def in_turn(*answers: Any) -> Callable[[Any], Any]:
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def test_a_server_is_asked_in_parts_and_answers_in_order(server: Server) -> None:
    scorer = server.scorer(batch_size=2)
    assert scorer(**ROWS, topic=["s"] * 5, odd=[object()] * 5) == LENGTHS
    assert server.requests[2] == {
        "prompts": ["e"],
        "completions": ["xxxxx"],
        "references": ["v"],
        "rows": [{"topic": "s"}],
    }
    assert server.requests[0]["references"] == ["x", ["y", "z"]]
    assert scorer.tally == {"calls": 3, "retries": 0, "restarts": 0}
    texts = ["né 👍\n\u2028", "\ud800"]
    assert scorer(texts, texts) == [6.0, 1.0]
    assert server.requests[-1]["completions"] == texts


def test_several_requests_at_a_time(server: Server) -> None:
    together = threading.Barrier(2, timeout=10)

    def answer(body: Any) -> Any:
        together.wait()
        return [float(p) for p in body["prompts"]]

    server.answer = answer
    rows = [str(i) for i in range(8)]
    assert server.scorer(concurrency=2, batch_size=2)(rows, rows) == [float(i) for i in range(8)]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ({"scores": [1, None]}, [1.0, None]),
        ({"rewards": [1, 0.5], "scores": [9, 9], "extra_logs": {"x": [1, 2]}}, [1.0, 0.5]),  # OpenRLHF
        ({"rewards": [[1.5], [2.5]]}, [1.5, 2.5]),
        ([1, True], [1.0, 1.0]),
        ([{"score": 3}, {"reward": 4}], [3.0, 4.0]),
        ({"data": [{"index": 1, "score": 0.1}, {"index": 0, "score": 0.2}]}, [0.2, 0.1]),  # vLLM /score
        (
            {"data": [{"index": 0, "label": "a", "probs": [0.1]}, {"index": 1, "label": "a", "probs": [0.9]}]},
            [0.1, 0.9],
        ),
        ({"data": [{"index": 0, "data": [0.3]}, {"index": 1, "data": 0.4}]}, [0.3, 0.4]),  # vLLM /pooling
        ([{"embedding": [-3.5], "meta_info": {}}, {"embedding": [2.0], "meta_info": {}}], [-3.5, 2.0]),  # SGLang
        ([[{"label": "LABEL_0", "score": 0.7}], [{"label": "LABEL_0", "score": 0.2}]], [0.7, 0.2]),  # TEI
        ([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}], [0.1, 0.9]),  # in order of score, as rerankers do
    ],
)
def test_replies_of_known_servers(server: Server, reply: Any, found: list[float | None]) -> None:
    server.answer = lambda body: reply
    assert server.scorer()(["x", "y"], ["p", "q"]) == found


@pytest.mark.parametrize(
    ("reply", "label", "found"),
    [
        ({"data": [{"index": 0, "probs": [0.1, 0.7, 0.2]}]}, "1", 0.7),
        ([[{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}]], "bad", 0.1),
        ([{"label": "LABEL_1", "score": 0.9}, {"label": "LABEL_0", "score": 0.1}], "0", 0.1),  # TEI, of one text
        ({"score": 2}, None, 2.0),
        (0.5, None, 0.5),
        ({"embedding": [1.0]}, None, 1.0),
    ],
)
def test_replies_of_one_row(server: Server, reply: Any, label: str | None, found: float) -> None:
    server.answer = lambda body: reply
    assert server.scorer(reward_label=label)(["x"], ["p"]) == [found]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"scores": [1]}, "replied 1 scores for 2 rows"),
        ([1, 2, 3], "replied 3 scores for 2 rows"),
        ([1, "2"], "replied 2 is no number"),
        ({"error": "out of memory"}, "replied 1 scores for 2 rows"),
        ([{"error": "x"}, {"score": 1}], "an object without a score; it has error"),
        ([[0.1, 0.9], [0.2, 0.8]], "2 numbers for a row; reward_label says which one counts: 0, 1"),
        ([[[0.1], [0.9]], [[0.2], [0.8]]], "a table where one number belongs"),
        ([{"index": 0, "score": 1}, {"index": 0, "score": 2}], "an index twice"),
        ((200, {}, '{"scores": [NaN, 1]}'), r"no JSON \(NaN is no number\)"),
        ((200, {}, '{"scores": [1e999, 1]}'), "out of range"),
        ((200, {}, "<html>hello</html>"), "replied what is no JSON: <html>hello</html>"),
        ((200, {}, ""), "no JSON: nothing"),
        ((200, {}, b"\xff\xfe"), "no JSON"),
        ((404, {}, "no such model\nand more"), r"answered 404: no such model$"),
        ((401, {}, ""), "answered 401: Unauthorized"),
        ((302, {"Location": "http://elsewhere.example/x?k=1"}, ""), "a redirect to elsewhere.example, which is not"),
        ((307, {"Location": "http://elsewhere.example/x"}, ""), "a redirect to elsewhere.example, which is not"),
        ((307, {"Location": "/score"}, ""), "redirects to itself"),
        ((307, {"Location": "//["}, ""), "a redirect to nowhere, which is not"),
    ],
)
def test_a_bad_reply_fails_at_once(server: Server, reply: Any, said: str) -> None:
    server.answer = lambda body: reply
    scorer = server.scorer()
    with pytest.raises(ObjectiveError, match=f"http://127.0.0.1:{server.port}/score .*{said}"):
        scorer(["x", "y"], ["p", "q"])
    assert scorer.tally == {"calls": 1, "retries": 0, "restarts": 0}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.answer = in_turn((status, {}, "busy"), (status, {}, "busy"), [1.0])
    scorer = server.scorer()
    assert scorer(["x"], ["p"]) == [1.0]
    assert scorer.tally == {"calls": 3, "retries": 2, "restarts": 0}
    server.answer = lambda body: (status, {}, "still busy")
    with pytest.raises(ObjectiveError, match=f"answered {status}: still busy .tried 4 times"):
        scorer(["x"], ["p"])
    with pytest.raises(ObjectiveError, match=r"still busy$"):
        server.scorer(retries=0)(["x"], ["p"])


def test_waits_are_doubled_or_as_the_server_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    class Asked(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    class Stop(calls.Stop):
        def __init__(self) -> None:
            super().__init__()
            self.asked = Asked()

    monkeypatch.setattr("zotune_objectives.calls.Stop", Stop)
    later = "Fri, 31 Dec 2999 23:59:59 GMT"
    server.answer = in_turn(
        (500, {}, ""), (500, {}, ""), (429, {"Retry-After": "7"}, ""), (503, {"Retry-After": later}, ""),
        (503, {"Retry-After": "soon"}, ""), [1.0],
    )  # fmt: skip
    assert server.scorer(retries=5, backoff=0.25)(["x"], ["p"]) == [1.0]
    assert waits == [0.25, 0.5, 7.0, 60.0, 4.0]


def test_a_broken_connection_is_tried_again(server: Server) -> None:
    server.answer = in_turn(None, (200, {"Content-Length": "1000"}, "[1.0]"), [1.0])
    assert server.scorer()(["x"], ["p"]) == [1.0]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    nobody = Http(f"//127.0.0.1:{port}/", backoff=0.0, retries=1)
    with pytest.raises(ObjectiveError, match=r"cannot be reached: Connection refused .tried 2 times"):
        nobody(["x"], ["p"])


def test_a_reply_of_impossible_length_is_a_broken_connection(server: Server) -> None:
    server.answer = lambda body: (200, {"Transfer-Encoding": "chunked"}, "-5\r\n1")
    with pytest.raises(ObjectiveError, match=r"cannot be reached"):
        server.scorer(retries=0)(["x"], ["p"])


def test_no_reply_in_time(server: Server) -> None:
    server.answer = lambda body: server.hang.wait(20) or [1.0]
    scorer = server.scorer(timeout=0.2)
    begun = time.monotonic()
    with pytest.raises(ObjectiveError, match=r"did not reply within 0\.2 s"):
        scorer(["x"], ["p"])
    assert time.monotonic() - begun < 5
    assert scorer.tally["calls"] == 1


def test_a_reply_that_trickles_is_too_late() -> None:
    """Each part of it comes in time, the whole of it never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                try:
                    while not done.wait(0.05):
                        connection.sendall(b"X-Slow: 1\r\n")
                except OSError:
                    pass

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        with pytest.raises(ObjectiveError, match=r"did not reply within 0\.3 s"):
            Http(f"//127.0.0.1:{listening.getsockname()[1]}/", timeout=0.3)(["x"], ["p"])
        done.set()
        thread.join(5)


def test_a_reply_without_an_end_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zotune_objectives.http.LARGEST", 1 << 20)
    server.answer = lambda body: (200, {}, " " * (1 << 21))
    with pytest.raises(ObjectiveError, match="replied more than 1 MB"):
        server.scorer()(["x"], ["p"])


def test_redirects_within_the_server_are_followed(server: Server) -> None:
    server.answer = in_turn((307, {"Location": "/score/"}, ""), [1.0])
    assert server.scorer()(["x"], ["p"]) == [1.0]
    assert server.requests[0] == server.requests[1]


def test_the_token_is_sent_and_never_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"'SCORER_TOKEN'.*is not set"):
        server.scorer(token_env="SCORER_TOKEN")
    for bad in ("se\ncret", "sécret"):
        monkeypatch.setenv("SCORER_TOKEN", bad)
        with pytest.raises(OptionError, match="characters that no token has") as error:
            server.scorer(token_env="SCORER_TOKEN")
        assert "cret" not in str(error.value).replace("SCORER", "")
    monkeypatch.setenv("SCORER_TOKEN", "sk-verysecret\n")
    scorer = server.scorer(token_env="SCORER_TOKEN", retries=1)
    assert scorer(["x"], ["p"]) == [1.0]
    assert server.headers[-1]["Authorization"] == "Bearer sk-verysecret"
    server.scorer(token_env="SCORER_TOKEN", token_header="X-API-Key")(["x"], ["p"])
    assert server.headers[-1]["X-API-Key"] == "sk-verysecret"
    assert "Authorization" not in server.headers[-1]
    said = [repr(scorer), str(vars(scorer))]
    for reply in (
        (401, {}, "who is sk-verysecret?"),
        (500, {}, "sk-verysecret"),
        (200, {}, "sk-verysecret"),
        (200, {}, '[{"sk-verysecret": 1}]'),
        (200, {}, '["sk-verysecret"]'),
        (302, {"Location": "http://sk-verysecret/"}, ""),
    ):
        server.answer = lambda body, reply=reply: reply
        with pytest.raises(ObjectiveError) as failed:
            scorer(["x"], ["p"])
        assert "***" in str(failed.value)
        said.append(str(failed.value))
    assert "verysecret" not in "".join(said)


def test_one_score_for_all_rows(server: Server) -> None:
    scorer = server.scorer(level="set", batch_size=2)
    goal = wrap(scorer, "http")
    assert (goal.info.level, goal.info.cacheable) == ("set", False)
    for reply in ({"score": 0.5}, 0.5, [0.5], {"reward": 0.5}):
        server.answer = lambda body, reply=reply: reply
        assert goal.score(5, ROWS).value == 0.5
    assert server.requests[-1]["completions"] == ROWS["completions"]
    for reply, said in (({"scores": [1, 2]}, "2 scores for 1 rows"), (None, "null where one number")):
        server.answer = lambda body, reply=reply: (200, {}, json.dumps(reply))
        with pytest.raises(ObjectiveError, match=said):
            goal.score(5, ROWS)


@pytest.mark.parametrize(
    ("options", "request_body"),
    [
        ({"format": "openrlhf"}, {"query": ["p c", "q d"], "prompts": ["p ", "q "], "labels": ["r", ""]}),
        ({"format": "vllm", "model": "m"}, {"input": ["p c", "q d"], "model": "m"}),
        ({"format": "vllm", "pair": True}, {"text_1": ["p ", "q "], "text_2": ["c", "d"]}),
        ({"format": "sglang", "extra": {"rid": 1}}, {"text": ["p c", "q d"], "rid": 1}),
        ({"format": "tei"}, {"inputs": [["p c"], ["q d"]]}),
        ({"format": "tei", "pair": True}, {"inputs": [["p ", "c"], ["q ", "d"]]}),
    ],
)
def test_requests_of_known_servers(server: Server, options: Any, request_body: Any) -> None:
    server.answer = lambda body: [1, 2]
    assert server.scorer(**options)(["c", "d"], ["p ", "q "], [["r", "s"], None]) == [1.0, 2.0]
    assert server.requests == [request_body]


def test_conversations_are_sent_as_they_are_or_as_text(server: Server) -> None:
    prompt, completion = [{"role": "user", "content": "p"}], [{"role": "assistant", "content": "c"}]
    server.answer = lambda body: [1]
    server.scorer()([completion], [prompt])
    server.scorer(format="vllm")([completion], [prompt])
    assert server.requests[0]["prompts"] == [prompt]
    assert server.requests[1] == {"input": ["pc"]}


@pytest.mark.parametrize(
    ("address", "options", "said"),
    [
        ("localhost:80/x", {}, "is no address"),
        ("//", {}, "is no address"),
        ("//localhost:x/", {}, "is no address"),
        ("//localhost:99999/", {}, "is no address"),
        ("//local host/", {}, "is no address"),
        ("//me:secret@localhost/", {}, "must not hold a password"),
        ("//localhost/", {"timeout": 0.0}, "timeout must be positive"),
        ("//localhost/", {"retries": -1}, "must be 0 or more"),
        ("//localhost/", {"pair": True}, "has no pairs"),
        ("//localhost/", {"format": "tei", "level": "set"}, "scores rows"),
        ("//localhost/", {"extra": "{x"}, "must be a JSON object"),
        ("//localhost/", {"token_header": "A: b\r\nC"}, "no name of a header"),
    ],
)
def test_addresses_and_options_are_checked_at_once(address: str, options: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said) as error:
        Http(address, **options)
    assert "secret" not in str(error.value)


def test_https_speaks_tls(server: Server) -> None:
    """A server that does not is not talked to in the clear."""
    scorer = Https(server.address, backoff=0.0, retries=0, timeout=5.0)
    assert Https.scheme == "https"
    with pytest.raises(ObjectiveError, match=r"https://127\.0\.0\.1.* cannot be reached"):
        scorer(["x"], ["p"])
    assert server.requests == []


class TestHttpContract(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _made(self, server: Server) -> None:
        server.answer = lambda body: [
            float(c == r) for c, r in zip(body["completions"], body["references"], strict=True)
        ]
        self.server = server

    def objective(self) -> Callable[..., Any]:
        return self.server.scorer()


# -- a reward model ----------------------------------------------------------------------------------------------------

CHAT = "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
TALK: dict[str, list[Any]] = {
    "prompts": ["the film was so", "who saw the dog?", "a", "the cat and the dog and the man ran", "it was"],
    "completions": [" good", " the man", "", " and the cat ran so very fast", " so bad."],
}


@pytest.fixture(scope="module")
def rewarding(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Folders of tiny models with random weights and a classification head."""

    def make(family: str, labels: int = 1, chat: bool = False, pad: bool = True, **config: Any) -> str:
        import transformers
        from families import CONFIGS, tokenizer

        cls, kind, more = CONFIGS[f"{family}-head"]
        coder = tokenizer(family, "bytes")
        coder.chat_template = CHAT if chat else None
        coder.pad_token = "<pad>" if pad else None
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
        ids = {"pad_token_id": 0 if pad else None, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
        names = {"num_labels": labels, **config}
        made = getattr(transformers, f"{kind}Config")(vocab_size=len(coder), **{**more, **sizes, **ids, **names})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = getattr(transformers, cls)(made)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.1))
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        coder.save_pretrained(folder)
        return str(folder)

    return make


def plain(folder: str) -> tuple[Any, Any]:
    """Model and tokenizer as transformers gives them."""
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def logits_of(model: Any, **inputs: Any) -> torch.Tensor:
    found: torch.Tensor = model(**{k: torch.tensor([v]) for k, v in inputs.items()}).logits[0]
    return found


@pytest.mark.parametrize("family", ["llama", "bert", "roberta"])
@pytest.mark.parametrize("chat", [False, True])
def test_a_reward_model_equals_a_plain_loop(rewarding: Any, family: str, chat: bool) -> None:
    folder = rewarding(family, chat=chat)
    model, coder = plain(folder)
    expected = []
    for prompt, said in zip(*TALK.values(), strict=True):
        if chat:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": said}]
            text = coder.apply_chat_template(turns, tokenize=False)
        else:
            text = prompt + said
        expected.append(float(logits_of(model, **coder(text, add_special_tokens=not chat))))
    assert max(expected) - min(expected) > 0.01
    for size in (1, 2, 16):
        scorer = RewardModel(folder, batch_size=size, device="cpu")
        assert scorer(**TALK) == pytest.approx(expected, abs=1e-5)
        assert scorer.tally["calls"] == -(-5 // size)
    assert RewardModel(folder, device="cpu", template="text")(**TALK) == pytest.approx(
        [float(logits_of(model, **coder(p + c))) for p, c in zip(*TALK.values(), strict=True)], abs=1e-5
    )


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_reward_model_of_pairs(rewarding: Any, family: str) -> None:
    folder = rewarding(family, chat=True)
    model, coder = plain(folder)
    expected = [float(logits_of(model, **coder(p, c))) for p, c in zip(*TALK.values(), strict=True)]
    assert RewardModel(folder, pair=True, device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)


def test_the_last_token_counts_where_no_padding_was_saved(rewarding: Any) -> None:
    """The end token is what such a tokenizer is padded with, and what a conversation ends in."""
    folder = rewarding("llama", chat=True, pad=False)
    model, coder = plain(folder)
    assert (model.config.pad_token_id, coder.pad_token_id) == (None, None)
    expected = []
    for prompt, said in zip(*TALK.values(), strict=True):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": said}]
        ids = coder(coder.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
        assert ids[-1] == coder.eos_token_id
        expected.append(float(logits_of(model, input_ids=ids)))
    assert RewardModel(folder, device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)


def test_a_label_of_several(rewarding: Any) -> None:
    names = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    folder = rewarding("bert", labels=3, **names)
    model, coder = plain(folder)
    rows = [logits_of(model, **coder(p + c)) for p, c in zip(*TALK.values(), strict=True)]
    expected = [float(r.softmax(-1)[2]) for r in rows]
    for said in ("good", "2"):
        assert RewardModel(folder, reward_label=said, device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)
    alone = rewarding("bert", labels=3, problem_type="multi_label_classification")
    expected = [float(r.sigmoid()[0]) for r in rows]
    assert RewardModel(alone, reward_label="LABEL_0", device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(OptionError, match=r"has 3 labels: bad, fair, good .*reward_label=good"):
        RewardModel(folder)
    with pytest.raises(OptionError, match=r"no label 'goood' .did you mean 'good'"):
        RewardModel(folder, reward_label="goood")
    with pytest.raises(OptionError, match="no label '3'"):
        RewardModel(folder, reward_label="3")
    with pytest.raises(OptionError, match="has 2 labels: LABEL_0, LABEL_1"):
        RewardModel(rewarding("bert", labels=2))


@pytest.mark.parametrize("chat", [False, True])
def test_a_long_prompt_loses_its_beginning(rewarding: Any, chat: bool) -> None:
    folder = rewarding("llama", chat=chat)
    model, coder = plain(folder)
    long, said = "the dog saw the cat and " * 30, " so good"
    words = coder(long, add_special_tokens=False)["input_ids"]
    for limit, room in ((40, 40), (None, 64)):  # what is said, or what the model takes
        (found,) = RewardModel(folder, max_length=limit, device="cpu")([said], [long])
        frame = coder("<s>user:" if chat else "<s>", add_special_tokens=False)["input_ids"]
        tail = coder("</s><s>assistant: so good</s>" if chat else said, add_special_tokens=False)["input_ids"]
        kept = words[-(room - len(frame) - len(tail)) :]
        assert found == pytest.approx(float(logits_of(model, input_ids=frame + kept + tail)), abs=1e-5)


def test_conversations_go_on(rewarding: Any) -> None:
    """The template of the model that is tuned stays out of what the reward model reads."""
    folder = rewarding("llama", chat=True)
    model, coder = plain(folder)
    turns = [{"role": "system", "content": "good dog"}, {"role": "user", "content": "who ran?"}]
    right = {"role": "assistant", "content": "the cat"}
    text = coder.apply_chat_template([*turns, {"role": "assistant", "content": "the man"}], tokenize=False)
    expected = [float(logits_of(model, **coder(text, add_special_tokens=False)))] * 2
    scorer = RewardModel(folder, device="cpu")
    found = scorer(["the man"] * 2, ["<|other|>who ran?"] * 2, messages=[[*turns, right], turns])
    assert found == pytest.approx(expected, abs=1e-5)
    assert scorer([[{"role": "assistant", "content": "the man"}]], [turns]) == pytest.approx(expected[:1], abs=1e-5)


def test_a_reward_model_leaves_everything_else_alone(rewarding: Any) -> None:
    before = torch.get_rng_state()
    scorer = RewardModel(rewarding("bert"), device="cpu")
    goal = wrap(scorer, "reward-model")
    assert goal.score(5, {**TALK, "model": None, "topic": ["x"] * 5}).samples == tuple(scorer(**TALK))
    assert torch.equal(before, torch.get_rng_state())
    loaded = scorer._forward().loaded
    assert not loaded.model.training
    assert all(p.grad is None for p in loaded.model.parameters())
    scorer.close()
    scorer.close()
    assert scorer(["x"], ["p"]) == scorer(["x"], ["p"])


def test_a_reward_model_is_looked_at_before_it_is_loaded(rewarding: Any, families: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"reward-model './nowhere': no such folder"):
        RewardModel("./nowhere")
    with pytest.raises(ModelError, match="has the head 'causal'"):
        RewardModel(str(families.folder("llama")))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": rewarding("bert")}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"is an adapter .merge it"):
        RewardModel(str(tmp_path))
    folder = rewarding("llama")
    headless = _without(folder, "score.weight", tmp_path / "headless")
    with pytest.raises(ModelError, match=r"reward-model .* has no score\.weight: these weights would be random"):
        RewardModel(headless, device="cpu")(["x"], ["p"])
    for options, said in (
        ({"dtype": "int3"}, "dtype must be auto, float32"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"max_length": -1}, "max_length must be positive"),
        ({"pair": True, "template": "chat"}, "exclude each other"),
        ({"device": "abacus"}, "reward-model: device 'abacus' is not available"),
    ):
        with pytest.raises((OptionError, ModelError), match=said):
            RewardModel(folder, **options)
    with pytest.raises(ObjectiveError, match="its chat template refuses a row"):
        RewardModel(folder, template="chat", device="cpu")(["x"], ["p"])


def _without(folder: str, name: str, to: Path) -> str:
    """A copy of a model whose files lack a tensor."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    del weights[name]
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return str(to)


class TestRewardModelContract(ObjectiveContract):
    """Its weights know nothing of the labels: here only completions that it likes are right."""

    @pytest.fixture(autouse=True)
    def _made(self, rewarding: Any) -> None:
        self.scorer = RewardModel(rewarding("bert"), device="cpu")

    def objective(self) -> Callable[..., Any]:
        return self.scorer

    def inputs(self, rows: int = 12, right: float = 0.5) -> dict[str, Any]:
        given = super().inputs(rows, right)
        liked, other = sorted(["so good", "so bad"], key=lambda said: -self.scorer([said], ["it was "])[0])
        hits = [p == y for p, y in zip(given["predictions"], given["labels"], strict=True)]
        return {**given, "prompts": ["it was "] * rows, "completions": [liked if h else other for h in hits]}


# -- by name -----------------------------------------------------------------------------------------------------------


def test_scorers_by_name(server: Server, program: Any) -> None:
    command = program("print(len(row['completion']))").command
    goal = objective_spec.resolve(f"exec:{command}", {"batch_size": "2"})
    assert goal.score(5, ROWS).samples == tuple(LENGTHS)
    goal.close()
    goal = objective_spec.resolve(f"http:{server.address}", {"format": "zotune", "extra": '{"x": 1}'})
    assert goal.score(5, ROWS).samples == tuple(LENGTHS)
    assert server.requests[-1]["x"] == 1
    assert os.environ.get("SCORER_TOKEN") is None
