"""Events of a run as lines of text, and results as text."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest
from rich.console import Console

from zotune.cli import terminal as terminals
from zotune.cli.samples import sample_table
from zotune.cli.terminal import Terminal
from zotune.events import (
    Evaluated,
    Example,
    Examples,
    Finished,
    Interpolated,
    Note,
    Phase,
    RolledBack,
    RunStarted,
    StepDone,
)
from zotune.text import number

START = RunStarted(
    folder="runs/f1-1",
    model="MiniLM (embedded)",
    head="embedding",
    device="cpu",
    objective="f1",
    better="higher is better",
    direction="maximize",
    optimizer="auto",
    tuned_weights=4224,
    tensors=8,
    training_rows=400,
    validation_rows=200,
    test_rows=300,
    batch_size=16,
    test_score=0.48992,
    max_steps=1200,
)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, io.StringIO]:
    """A terminal that prints plain lines, every progress line among them."""
    monkeypatch.setattr(terminals, "PROGRESS_SECONDS", 0.0)
    terminal, out = Terminal(), io.StringIO()
    terminal.console = Console(file=out, width=200, highlight=False)
    return terminal, out


def test_scores_stand_in_one_column_with_one_precision(lines: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = lines
    terminal(Phase("loading MiniLM (embedded)"))
    terminal(Note("200 validation rows select the best weights"))
    terminal(START)
    terminal(Evaluated(step=0, score=0.53))
    terminal(StepDone(step=9, evaluations=18, loss=-0.425, difference=0.0231, zero_share=0.0))
    terminal(Evaluated(step=10, score=-0.00001, kl=0.0031, best=True, parts=(("f1", 0.5), ("length", -0.00001))))
    terminal(Interpolated(step=1200, share=0.5, score=0.5236, best=True))
    terminal(Evaluated(step=1200, failed="the scorer is gone"))
    terminal(RolledBack(step=20, to_step=10, share=1.0, damping=0.25, why="4.0 standard errors below the base model"))
    terminal(StepDone(step=21, evaluations=42, dropped="not finite"))
    shown = out.getvalue().splitlines()
    assert shown[:6] == [
        "· loading MiniLM (embedded)",
        "· 200 validation rows select the best weights",
        "auto tunes 4,224 weights (8 tensors) of MiniLM (embedded), embedding head, on cpu",
        "rows: 400 training (batch size 16), 200 validation, 300 test",
        "base model: test f1 0.4899 (higher is better)",
        "run directory: runs/f1-1",
    ]
    scored = [line for line in shown[6:] if " f1 " in line and "length" not in line]
    assert scored[0] == "step    0  validation f1  0.5300"
    assert scored[1].startswith("step    9       batch f1  0.4250  |difference| 2.3e-02  no signal 0 %  ")
    assert scored[2] == (
        "step 1200  validation f1  0.5236  interpolated, 0.5 of the distance from the base model  best so far"
    )
    assert "step   10  validation f1  0.0000 (f1 0.5000, length 0.0000)  KL 0.0031  best so far" in shown
    assert "step 1200  validation failed: the scorer is gone" in shown
    assert (
        "step   20  diverged: 4.0 standard errors below the base model; restored the best checkpoint (step 10), "
        "step size x 0.25" in shown
    )
    assert "step   21  dropped, weights unchanged: not finite" in shown


def test_a_quiet_terminal_prints_nothing(lines: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = lines
    terminal.quiet = True
    terminal(START)
    terminal(Evaluated(step=0, score=0.53))
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "sign", "shown"),
    [
        *[(0.5, False, "0.5000"), (-0.00004, False, "0.0000"), (-0.0, True, "0.0000"), (1234.5, False, "1234")],
        *[(0.03791, True, "+0.0379"), (-0.5, True, "-0.5000"), (12345.0, True, "+1.234e+04")],
    ],
)
def test_numbers(value: float, sign: bool, shown: str) -> None:
    assert number(value, sign) == shown


def test_only_a_phase_that_takes_long_is_shown(
    lines: tuple[Terminal, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "PHASE_SECONDS", 0.3)
    terminal, out = lines
    with terminal:
        terminal(Phase("tokenising the rows", brief=True))
        until = time.monotonic() + 20
        while out.getvalue().count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.05)
        monkeypatch.setattr(terminals, "PHASE_SECONDS", 60.0)
        terminal(Phase("reading the data", brief=True))
        terminal(Note("read"))
    shown = out.getvalue().splitlines()
    assert shown[0] == "· tokenising the rows"
    assert shown[1] == "· tokenising the rows, 2 s so far"
    assert shown[-1] == "· read"
    assert not any("reading the data" in line for line in shown)


def test_nothing_of_a_phase_is_shown_after_closing(
    lines: tuple[Terminal, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "PHASE_SECONDS", 0.5)
    terminal, out = lines
    with terminal:
        terminal(Phase("writing the model", brief=True))
    time.sleep(0.6)
    assert out.getvalue() == ""


def test_the_time_left_is_that_of_the_event(lines: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = lines
    terminal(START)
    for left in (None, 44.6, 600.0, 11_100.0):
        terminal(StepDone(step=600, evaluations=1200, seconds_left=left))
    shown = [line.partition("steps/s")[2].split() for line in out.getvalue().splitlines()[-4:]]
    assert shown == [["50", "%", *text.split()] for text in ("", "45 s left", "10 min left", "3 h 5 min left")]


def test_samples_stand_side_by_side_before_and_after(lines: tuple[Terminal, io.StringIO]) -> None:
    terminal, out = lines
    terminal(START)
    terminal(Evaluated(step=0, score=0.1))
    terminal(Examples(0, (Example("Return JSON.\n\nAnna, 34", "", "Sure!\n{"),), generated=True))
    terminal(StepDone(step=1, evaluations=8, completions=128))
    terminal(StepDone(step=2, evaluations=16, completions=256))
    terminal(Evaluated(step=2, score=0.9, best=True))
    terminal(Examples(2, (Example("Return JSON.\n\nAnna, 34", "", '{"age": 34}' + "x" * 200),), generated=True))
    terminal(Evaluated(step=4, score=0.2))
    terminal(Examples(4, (Example("Return JSON.\n\nAnna, 34", "", "worse"),), generated=True))
    terminal(Finished("runs/json-1", "done", "tuned"))
    shown = out.getvalue().splitlines()
    assert "completions/s" in next(line for line in shown if "step    2 " in line)
    first = shown.index("answers to validation prompts:")
    assert shown[first + 1 : first + 3] == ["  prompt      Return JSON. Anna, 34", "  base model  Sure! {"]
    last = shown.index("answers to the same prompts at step 2:")
    assert shown[last + 2] == "  base model  Sure! {"
    assert shown[last + 3].startswith('  tuned       {"age": 34}xxx')
    assert len(shown[last + 3]) <= 120
    assert not any("worse" in line for line in shown)


def test_a_table_of_samples_has_two_lines_a_cell() -> None:
    old, new = Example("p " * 200, "", "a" * 300), Example("p " * 200, "", "short")
    table = sample_table([old], [new], "tuned", 90)
    assert [c.header for c in table.columns] == ["prompt", "base model", "tuned"]
    out = io.StringIO()
    Console(file=out, width=90).print(table)
    assert len(out.getvalue().splitlines()) == 3
    assert "reference" in [c.header for c in sample_table([old], [Example("p", "r", "c")], "tuned", 90).columns]


def test_a_phase_is_shown_while_the_bars_of_a_library_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zotune.models.library_calls import silent_stderr

    monkeypatch.setattr(terminals, "PHASE_SECONDS", 0.05)
    with Terminal() as shown:
        shown(Phase("loading a model", brief=True))
        with silent_stderr(True):
            print("100 % |####|", file=sys.stderr)
            time.sleep(0.5)
            threading.Thread(target=lambda: print("another bar", file=sys.stderr)).start()
        print("after", file=sys.stderr)
    lines = capsys.readouterr().err
    assert "· loading a model" in lines
    assert "bar" not in lines
    assert "####" not in lines
    assert "after" in lines
