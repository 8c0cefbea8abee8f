"""What a person sees: rich on a terminal, plain lines elsewhere. Everything goes to standard error; `--json` alone
writes to standard output. Knows events and nothing of how they come about.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from zotune.runs.model_card import number, scored
from zotune.text import plain

EVERY_SECONDS = 10.0  # a plain progress line at most this often


class Terminal:
    """Receives the events of a run."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self.quiet, self._live = quiet, self.console.is_terminal
        self._progress: Progress | None = None
        self._task: Any = None
        self._start: Mapping[str, Any] = {}
        self._before: list[tuple[str, str, str]] = []
        self._clock = self._last = time.monotonic()
        self._first_step = 0
        self._total: float | None = None
        self._unit = "steps"

    def __call__(self, kind: str, event: Mapping[str, Any]) -> None:
        if not self.quiet:
            getattr(self, f"_on_{kind}")(event)

    def say(self, text: str, style: str = "") -> None:
        if not self.quiet:
            self.console.print(Text(plain(text), style=style))

    def close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    # -- events --------------------------------------------------------------------------------------------------------

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        self.say(f"· {event['text']}", "dim")

    def _on_note(self, event: Mapping[str, Any]) -> None:
        self.say(f"· {event['text']}")

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self._start = event
        train, select, judge = event["rows"]
        self.say(
            f"{event['optimizer']} tunes {event['tuned']:,} weights in {event['tensors']} tensors of "
            f"{event['model']} ({event['head']}, {event['device']})"
        )
        self.say(f"rows: {train} train in batches of {event['batch']}, {select} select, {judge} judge")
        self.say(f"{event['objective']} ({event['better']}) at the start: {number(event['score'])} on the judging rows")
        self.say(f"run folder: {event['folder']}")
        self._begin()

    def _on_init(self, event: Mapping[str, Any]) -> None:
        for line in event["lines"]:
            self.say(f"  {line}")
        self._begin()

    def _on_preflight(self, event: Mapping[str, Any]) -> None:
        for line in event["lines"]:
            self.say(f"  {line}")

    def _begin(self) -> None:
        """Start the clock and, on a terminal, the progress bar."""
        self._clock = self._last = time.monotonic()
        budget = self._start.get("budget", {})
        self._total = budget.get("steps") or budget.get("evals") or budget.get("seconds")
        self._unit = "steps" if budget.get("steps") else "evals" if budget.get("evals") else "seconds"
        if self._live and self._progress is None:
            self._progress = Progress(
                TextColumn("{task.percentage:>3.0f} %"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self.console,
            )
            self._task = self._progress.add_task("", total=self._total, text="")
            self._progress.start()

    def _on_step(self, event: Mapping[str, Any]) -> None:
        now = time.monotonic()
        used = {"steps": event["step"], "evals": event["evaluations"], "seconds": now - self._clock}[self._unit]
        if not self._first_step:
            self._first_step = event["step"]
        rate = (event["step"] - self._first_step + 1) / max(now - self._clock, 1e-9)
        text = f"step {event['step']}  {rate:.1f} steps/s"
        if "dropped" in event:
            self.say(f"step {event['step']} dropped, weights unchanged: {event['dropped']}", "yellow")
        ordered = self._start.get("better", "").startswith("share")  # comparisons have no value of their own
        if "loss" in event and not ordered:
            sign = 1.0 if self._start.get("better", "").startswith("lower") else -1.0
            text += f"  {self._start['objective']} {sign * event['loss']:.4f}"
        if "difference" in event:
            text += f"  |difference| {event['difference']:.2e}"
        if "zero_share" in event:
            text += f"  no signal {100 * event['zero_share']:.0f} %"
        if "scoring" in self._start and (cost := self._start["scoring"](max(now - self._clock, 1e-9))).share > 0.2:
            text += f"  scoring {100 * min(cost.share, 1):.0f} %"
        if self._progress:
            self._progress.update(self._task, completed=min(used, self._total or used), text=text)
        elif now - self._last >= EVERY_SECONDS:
            self._last = now
            left = (now - self._clock) * (self._total / used - 1) if self._total and used else 0
            self.say(f"{100 * used / self._total if self._total else 0:3.0f} %  {text}  {left:.0f} s left")

    def _on_eval(self, event: Mapping[str, Any]) -> None:
        if "failed" in event:
            self.say(f"step {event['step']}: evaluation failed: {event['failed']}", "yellow")
            return
        mark = "  best so far" if event["best"] and event["step"] else ""
        name = self._start.get("objective", "score")
        drift = f"  drift {event['drift']:.3f}" if event["step"] and "drift" in event else ""
        self.say(f"step {event['step']}: {name} {event['score']:.4f} on the selection rows{_parts(event)}{drift}{mark}")
        show = self._start.get("samples")
        if show is None:
            return
        now = show()
        if not self._before:
            self._before = now
        if self._live:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
            for title in ("text", "gold", "start", "now"):
                table.add_column(title, style="dim" if title == "text" else "", overflow="ellipsis", no_wrap=True)
            for (text, gold, then), (_, _, got) in zip(self._before, now, strict=True):
                shown = (" ".join(text.split())[-60:], gold, then, got)
                table.add_row(*(Text(plain(said)) for said in shown))
            self.console.print(table)

    def _on_between(self, event: Mapping[str, Any]) -> None:
        if "score" in event:
            mark, name = "  best so far" if event["best"] else "", self._start.get("objective", "score")
            way = f"at {event['share']:g} of the way from the start"
            self.say(f"step {event['step']}, {way}: {name} {event['score']:.4f} on the selection rows{mark}")

    def _on_rollback(self, event: Mapping[str, Any]) -> None:
        to = f"step {event['to']}" if event["to"] else "the start"
        to = to if event["share"] == 1.0 else f"{event['share']:g} of the way to {to}"
        self.say(f"  {event['why']}: back to {to}, steps are {event['damping']:.2g} of their size from here", "yellow")

    def _on_result(self, event: Mapping[str, Any]) -> None:
        self.close()


def _parts(event: Mapping[str, Any]) -> str:
    """The values of the objectives in a sum."""
    found = dict(event.get("parts", {}))
    return f" ({', '.join(f'{name} {value:.4f}' for name, value in found.items())})" if found else ""


def show_result(terminal: Terminal, name: str, result: Any, verdict: str) -> None:
    """The last lines of `zotune fit`."""
    if result.reason == "interrupted":
        terminal.say(f"interrupted after step {result.steps}; a checkpoint is written", "yellow")
        terminal.say(f"go on with: zotune resume {result.folder}")
        return
    terminal.say("")
    terminal.say(f"{name} on {result.before.rows} rows that chose nothing (± one standard error)", "bold")
    for when, found in (("before", result.before), ("after", result.after)):
        style = "bold green" if when == "after" and result.kept == "tuned" else ""
        terminal.say(f"  {when:<13} {scored(found)}{_parts({'parts': found.parts})}", style)
    if result.probe is not None:
        terminal.say(f"  linear probe  {scored(result.probe)}   logistic regression on the untuned embeddings")
    terminal.say(verdict)
    waste, way = "", ("" if result.best_share == 1.0 else f", {result.best_share:g} of the way")
    if result.zero_share > 0.3:
        waste = " That is much: try --eps auto, a larger --batch-size, or a smoother objective."
    terminal.say(
        f"{result.steps} steps, {result.forwards} forwards in {result.seconds:.0f} s; "
        f"best at step {result.best_step}{way}; "
        f"{100 * result.zero_share:.0f} % of steps without signal.{waste}"
        + (f" {result.dropped} steps dropped." if result.dropped else "")
    )
    spent = result.scoring
    if spent.share > 0.1 or any(spent.faults.values()):
        faults = "".join(f", {count} {name}" for name, count in spent.faults.items() if count)
        known = f", {spent.known} known already" if spent.known else ""
        terminal.say(f"scoring: {100 * spent.share:.0f} % of the time, {spent.rows} rows scored{known}{faults}")
    if result.files:
        terminal.say(f"kept weights: {result.folder}")
    else:
        terminal.say(f"no model was written; its weights come from: zotune replay {result.folder} -o FOLDER")
