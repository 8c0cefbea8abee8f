"""The runs of a directory, as a list of what each has reached.

Reads run directories; loads no model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from zotune.errors import RunFolderError
from zotune.pages.run_record import RunRecord
from zotune.pages.verdict_panel import seconds_of
from zotune.runs.run_directory import CONFIG, JOURNAL
from zotune.runs.run_reader import read_run

DEFAULT: Final = "runs"
DEEPEST: Final = 4
"""Directories below the given one that are looked into."""


@dataclass(frozen=True)
class ListedRun:
    """What a run has reached.

    before, after: scores of the base model and of the kept weights or, where nothing is decided yet, of the best ones,
    on the rows that score_of names. gain: after - before, positive where that is better. kept: "tuned", "base model",
    "linear probe", "interrupted" or "running". written: when its files were last written, in seconds since 1970.
    """

    folder: str
    objective: str
    model: str
    before: float | None
    after: float | None
    score_of: Literal["test", "validation"]
    gain: float | None
    kept: str
    steps: int
    seconds: float | None
    written: float

    def json(self) -> dict[str, Any]:
        return asdict(self)


def run_list(folder: str | Path, sort: str = "time") -> list[ListedRun]:
    """The runs at or below a directory. sort: "time", the newest first; "gain" and "score", the best first; "name".
    Raises RunFolderError where the directory does not exist."""
    if str(folder) == DEFAULT and not Path(folder).exists():
        return []  # no run has been made here
    if not Path(folder).is_dir():
        raise RunFolderError(f"{folder} does not exist", hint="zotune ls runs DIR")
    orders: dict[str, Callable[[ListedRun], Any]] = {
        "time": lambda run: (-run.written, run.folder),
        "gain": lambda run: (-_value(run.gain), run.folder),
        "score": lambda run: (run.objective, -_value(run.after), run.folder),
        "name": lambda run: run.folder,
    }
    return sorted((listed(path) for path in _run_folders(Path(folder), DEEPEST)), key=orders[sort])


def listed(folder: Path) -> ListedRun:
    """What the run in a directory has reached. Raises RunFolderError."""
    run = read_run(folder, texts=False)
    before, after, score_of = _scores(run)
    gain = None if before is None or after is None else after - before if run.maximizes else before - after
    times = [p.stat().st_mtime for name in (JOURNAL, CONFIG) if (p := folder / name).is_file()]
    return ListedRun(
        folder=str(folder),
        objective=run.objective,
        model=str(run.header.get("model", "")),
        before=before,
        after=after,
        score_of=score_of,
        gain=gain,
        kept=run.start if run.state == "start" else run.state,
        steps=int(run.result["steps"]) if run.result else run.last_step,
        seconds=seconds_of(run),
        written=max(times),
    )


def _value(score: float | None) -> float:
    return -math.inf if score is None else score


def _scores(run: RunRecord) -> tuple[float | None, float | None, Literal["test", "validation"]]:
    if run.result:
        return run.result["before"]["value"], run.result["after"]["value"], "test"
    scored = [e.score for e in run.evaluations if e.score is not None]
    if not scored:
        return None, None, "validation"
    return scored[0], run.best.score if run.best else scored[-1], "validation"


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Run directories at or below a directory; none is looked for inside of one."""
    if (folder / JOURNAL).is_file():
        yield folder
        return
    if depth == 0:
        return
    try:
        with os.scandir(folder) as entries:
            inside = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    except OSError:  # not readable
        return
    for name in inside:
        yield from _run_folders(folder / name, depth - 1)


__all__ = ["ListedRun", "run_list"]
