"""A program as the objective: every failure is an error and never a score."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zotune_objectives.exec_ import Exec

from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec
from zotune.scoring.objective import wrap
from zotune.testing import ObjectiveContract

ROWS: dict[str, Any] = {
    "prompts": ["a", "b", "c", "d", "e"],
    "completions": ["x", "xx", "", "xxx", "xxxxx"],
    "references": ["x", ["y", "z"], None, "w", "v"],
}
LENGTHS = [1.0, 2.0, 0.0, 3.0, 5.0]
"""The lengths of the completions in ROWS."""

EACH = """\
import json, sys, os, time
for line in sys.stdin:
    row = json.loads(line)
    {body}
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Exec]]:
    """Makes an Exec of a Python program that runs `body` for each `row`, or of a whole `text`."""
    scorers: list[Exec] = []

    def make(body: str = "", text: str | None = None, **options: Any) -> Exec:
        path = tmp_path / f"score{len(scorers)}.py"
        path.write_text(EACH.format(body=body) if text is None else text, encoding="utf-8")
        scorers.append(Exec(f"{sys.executable} {path}", **{"timeout": 20.0, **options}))
        return scorers[-1]

    yield make
    for scorer in scorers:
        scorer.close()


def left_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_scores_are_in_order(program: Any) -> None:
    scorer = program("print(len(row['completion']))", batch_size=2)
    assert scorer(**ROWS) == LENGTHS
    assert scorer(**ROWS) == LENGTHS
    assert scorer.tally == {"calls": 6, "retries": 0, "restarts": 0}


def test_the_program_reads_the_row_and_its_columns(program: Any) -> None:
    scorer = program("print(json.dumps({'score': 1.0}) if row == json.load(open(sys.argv[0] + '.row')) else 'other')")
    row = {"prompt": 'p\n"q"', "completion": "né 👍\u2028\n\ud800", "references": ["r", "s"], "level": 3, "tags": ["t"]}
    Path(scorer.command.split()[1] + ".row").write_text(json.dumps(row))
    columns = {"level": [3], "tags": [["t"]], "what": [{1, 2}], "number": [float("nan")], "short": [], "labels": [1]}
    assert scorer([row["completion"]], [row["prompt"]], [["r", "s"]], model=object(), batch=[{}], **columns) == [1.0]


def test_all_forms_of_scores(program: Any) -> None:
    scorer = program("print(row['completion'])")
    output = ["1", "-2.5e1", "null", '{"score": 0.5, "why": "so"}', '{"reward": null}', "true", " 7 "]
    assert scorer(output, output) == [1.0, -25.0, None, 0.5, None, 1.0, 7.0]


@pytest.mark.parametrize("output", ["NaN", "Infinity", "1e999", '"0.5"', "[1]", "{}", "", "loading the model", "1 2"])
def test_other_output_is_refused(program: Any, output: str) -> None:
    scorer = program("print(row['completion'])")
    with pytest.raises(ObjectiveError, match=r"wrote .*, which is not a score .*nothing else"):
        scorer([output], ["p"])
    assert scorer(["4"], ["p"]) == [4.0]
    assert scorer.tally["restarts"] == 1


def test_one_score_for_all_rows(program: Any) -> None:
    scorer = program(
        "print(len(row['prompts']) + len(row['rows'][4]['tag']) if row['references'][2] is None else 0)", level="set"
    )
    objective = wrap(scorer, "exec")
    assert objective.info.level == "set"
    assert not scorer.info().cacheable
    score = objective.score(5, {**ROWS, "tag": ["", "", "", "", "!!"]})
    assert (score.value, score.samples) == (7.0, None)
    with pytest.raises(ObjectiveError, match="wrote null; with level=set"):
        program("print('null')", level="set")(**ROWS)


def test_concurrent_processes(program: Any, tmp_path: Path) -> None:
    """Each process waits for the other one, so a single process would not finish."""
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


def test_a_failure_of_one_concurrent_call_fails_the_batch(program: Any) -> None:
    scorer = program(
        "sys.exit('out of paper') if row['prompt'] == '5' else print(row['prompt'])", concurrency=2, batch_size=2
    )
    rows = [str(i) for i in range(10)]
    with pytest.raises(ObjectiveError, match="out of paper"):
        scorer(rows, rows)
    assert scorer(rows[:4], rows[:4]) == [0.0, 1.0, 2.0, 3.0]


def test_a_program_that_exits_is_restarted(program: Any) -> None:
    scorer = program("if row['completion'] == 'die':\n        raise KeyError('weight')\n    print(1)")
    with pytest.raises(ObjectiveError, match=r"exit code 1 after 1 of 3 scores; last line .*: KeyError: 'weight'"):
        scorer(["x", "die", "x"], ["p"] * 3)
    assert scorer(["x", "x"], ["p"] * 2) == [1.0, 1.0]
    assert scorer.tally == {"calls": 2, "retries": 0, "restarts": 1}
    with pytest.raises(ObjectiveError, match="was ended by SIGKILL after 0 of 1"):
        program("os.kill(os.getpid(), 9)")(["x"], ["p"])


def test_a_program_that_hangs_is_restarted(program: Any) -> None:
    scorer = program("time.sleep(600) if row['completion'] == 'hang' else print(1)", timeout=0.5)
    with pytest.raises(ObjectiveError, match=r"0 of 1 scores within 0\.5 s"):
        scorer(["hang"], ["p"])
    patient = Exec(scorer.command, timeout=20)
    assert patient(["x"], ["p"]) == [1.0]
    patient.close()


def test_child_processes_are_killed(program: Any, tmp_path: Path) -> None:
    body = "import subprocess; p = subprocess.Popen(['sleep', '600'])"
    scorer = program(f"{body}; open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); os._exit(3)")
    start = time.monotonic()
    with pytest.raises(ObjectiveError, match="exit code 3 after 0 of 1"):  # although the child keeps its output open
        scorer(["x"], ["p"])
    assert time.monotonic() - start < 10
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not left_alive(pid))


def test_more_lines_than_rows_are_refused(program: Any) -> None:
    for output in ("print('1\\n2')", "print(1); print(2)", "print(1)\n    if row['completion'] == 'c': print(2)"):
        with pytest.raises(ObjectiveError, match=r"wrote '[12]', which belongs to no row"):
            program(output)(["a", "b", "c"], ["p"] * 3)
    with pytest.raises(ObjectiveError, match="wrote '2', which belongs to no row"):
        program("print('1\\n2')")(["x"], ["p"])
    late = program("print(1)\n    time.sleep(0.05); print(2); open(sys.argv[0] + '.late', 'w')")
    path = Path(late.command.split()[1] + ".late")
    with pytest.raises(ObjectiveError, match="wrote '2', which belongs to no row"):
        late(["x"], ["p"])  # whenever the line comes, it is never the score of the second call
        wait_for(path.exists)
        late(["x"], ["p"])


def test_an_endless_line_is_refused(program: Any) -> None:
    with pytest.raises(ObjectiveError, match="wrote 'aaaa"):
        program("sys.stdout.write('a' * (1 << 22))")(["x"], ["p"])


def test_standard_error_does_not_block(program: Any) -> None:
    scorer = program("sys.stderr.write('w' * (1 << 20) + '\\nthe end\\n'); print(2)")
    assert scorer(["x"] * 3, ["p"] * 3) == [2.0] * 3
    loud = program("sys.stderr.write('w' * (1 << 20) + '\\nthe end\\n'); sys.stderr.flush(); os._exit(4)")
    with pytest.raises(ObjectiveError, match=r"exit code 4 .*last line of its standard error: the end$"):
        loud(["x"], ["p"])


def test_a_program_that_exits_at_once(program: Any) -> None:
    scorer = program(text="import sys; sys.exit('no licence')")
    for _ in range(2):
        with pytest.raises(ObjectiveError, match=r"exit code 1 after 0 of 2 scores; last line .*: no licence"):
            scorer(["x"] * 2, ["p" * (1 << 20)] * 2)
    assert scorer.tally["restarts"] == 1


def test_a_program_that_never_reads(program: Any) -> None:
    with pytest.raises(ObjectiveError, match=r"within 0\.3 s"):
        program(text="import time; print(1, flush=True); time.sleep(600)", timeout=0.3)(["x" * (1 << 21)], ["p"])


def test_large_rows_do_not_block(program: Any) -> None:
    """The program writes while it is still being written to, more than a pipe holds in both directions."""
    scorer = program("print(json.dumps({'score': len(row['completion']), 'why': 'x' * 3000}))")
    rows = ["é" * (1 << 20), *["x"] * 200, "y" * (2 << 20)]
    big = Exec(scorer.command, batch_size=1000)
    assert big(rows, rows) == [float(len(r)) for r in rows]
    big.close()


def test_no_shell_is_involved(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "args.py"
    path.write_text(EACH.format(body="print(int(sys.argv[1:] == [';', '$(touch', 'x)', '*', 'a b', '|', 'cat']))"))
    scorer = Exec("args.py ; $(touch x) * 'a b' | cat")  # not executable, so this Python runs it
    assert scorer(["x"], ["p"]) == [1.0]
    scorer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["args.py"]


def test_commands_are_checked_at_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "score.sh"
    script.write_text("#!/bin/sh\nwhile read -r line; do echo 3; done\n")
    with pytest.raises(OptionError, match=r"not executable \(chmod \+x ./score.sh\)"):
        Exec("./score.sh")
    script.chmod(0o755)
    for command in ("./score.sh", "score.sh", str(script), "sh score.sh"):
        scorer = Exec(command)
        monkeypatch.chdir("/")  # the command is relative to the directory at construction
        assert scorer(["x"], ["p"]) == [3.0]
        scorer.close()
        monkeypatch.chdir(tmp_path)
    for command, message in (
        ("no-such-program-at-all", "is neither on the PATH nor a file in this directory"),
        ("./missing.sh", "is not a file"),
        (f"{tmp_path}", "is not a file"),
        ("", "needs a command"),
        ("'x", "No closing quotation"),
    ):
        with pytest.raises(OptionError, match=message):
            Exec(command)
    for options in ({"timeout": 0}, {"batch_size": 0}, {"concurrency": -1}):
        with pytest.raises(OptionError, match="must be positive"):
            Exec("sh", **options)


def test_close_ends_the_input_and_may_be_repeated(program: Any, tmp_path: Path) -> None:
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


def test_an_interrupt_leaves_no_late_scores(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = program("print(row['prompt'])")
    assert scorer(["x"], ["1"]) == [1.0]
    monkeypatch.setattr("zotune_objectives.line_process.parse", lambda text: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scorer(["x", "x"], ["2", "3"])
    monkeypatch.undo()
    assert scorer(["x"], ["4"]) == [4.0]


def test_an_interrupt_ends_concurrent_calls(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the thread that waits for the calls."""
    scorer = program("print(os.getpid()) if row['prompt'] != 'hang' else time.sleep(600)", concurrency=2)
    pids = scorer(["", ""], ["", ""])

    def interrupted(running: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zotune_objectives.scorer_calls.wait", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        scorer(["", ""], ["hang", "hang"])
    assert time.monotonic() - start < 5
    assert not any(left_alive(int(pid)) for pid in pids)
    monkeypatch.undo()
    assert len(scorer(["", ""], ["", ""])) == 2


def test_an_exec_scorer_by_name(program: Any) -> None:
    command = program("print(len(row['completion']))").command
    objective = objective_spec.resolve(f"exec:{command}", {"batch_size": "2"})
    assert objective.score(5, ROWS).samples == tuple(LENGTHS)
    objective.close()


class TestExecContract(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _scorer(self, program: Any) -> None:
        self.scorer = program("print(float(row['completion'] == row['references']))")

    def objective(self) -> Callable[..., Any]:
        scorer: Callable[..., Any] = self.scorer
        return scorer
