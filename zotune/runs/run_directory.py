"""The run directory: its place and the names of its files.

Knows paths; reads no file.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from zotune import lock
from zotune.config import RunConfig
from zotune.errors import OptionError, RunFolderError

CONFIG: Final = "config.yaml"
ENVIRONMENT: Final = "env.json"
JOURNAL: Final = "journal.jsonl"
METRICS: Final = "metrics.jsonl"
COMPLETIONS: Final = "completions.jsonl"
PREDICTIONS: Final = "predictions.jsonl"
PROGRESS: Final = "progress.jsonl"
REPORT: Final = "report.html"
PENDING_SCORES: Final = "pending_scores.jsonl"
TRACKED: Final = "trackers.json"
DATA: Final = "data"
"""The folder of records that were handed over as objects."""
QUESTIONS: Final = "questions_ahead.json"
ANSWERS: Final = "answered_pairs.jsonl"
RESULT: Final = "result.json"
MODEL_CARD: Final = "README.md"
_BEFORE_A_RUN: Final = {lock.LOCK, f".{CONFIG}.tmp"}
"""Files of a run that was killed before it recorded anything."""


def directory_of(config: RunConfig) -> Path:
    """Where a run goes: `--output-dir`, `--output-dir/--run-name`, or `runs/<objective>-<first free number>`. Raises
    OptionError."""
    if config.run_name:
        if "/" in config.run_name or config.run_name in (".", ".."):
            raise OptionError(f"--run-name {config.run_name!r} must be a plain name, without a slash")
        return Path(config.output_dir or "runs") / config.run_name
    if config.output_dir:
        return Path(config.output_dir)
    objective = config.objective if isinstance(config.objective, str) else config.objective[0]
    letters = "".join(c if c.isalnum() else "-" for c in objective.rpartition(":")[2])
    stem = letters.strip("-")[:40].strip("-") or "run"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"


def check_files(folder: Path) -> None:
    """Raise RunFolderError where a run directory or one of its checkpoints holds a pipe, a socket or a device: reading
    it might never end."""
    try:
        inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.startswith("checkpoint-")]
        paths = [path for directory in (folder, *inside) for path in sorted(directory.iterdir())]
    except OSError:  # no such directory, or not readable: whoever reads a file of it reports that
        return
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError:  # a broken link
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
            raise RunFolderError(f"{path} is {kind}, not a file of a run")


def create(folder: Path, config: RunConfig) -> Path:
    """Create the directory of a new run. Where its name is numbered and another run has taken the number since, the
    next free one is taken."""
    numbered = config.run_name is None and config.output_dir is None
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=not numbered)
        except FileExistsError:
            if not numbered:
                raise
            folder = directory_of(config)
        else:
            return folder


def find_directory(config: RunConfig, resume: str | None) -> Path:
    """The directory of a new run, or of the run to resume. Raises RunFolderError where there is no run to resume, or
    where a new run would overwrite files."""
    folder = directory_of(config)
    if resume and resume != "last":
        folder = Path(resume).resolve().parent
    if resume:
        check_files(folder)
    if resume and not any((folder / name).is_file() for name in (JOURNAL, CONFIG)):
        raise RunFolderError(f"{folder} holds no run to resume")
    if not resume and folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - _BEFORE_A_RUN):
        raise RunFolderError(
            f"{folder} exists already", hint="zotune resume continues it, --run-name starts another run"
        )
    return folder


__all__ = [
    "COMPLETIONS",
    "CONFIG",
    "DATA",
    "ENVIRONMENT",
    "JOURNAL",
    "METRICS",
    "MODEL_CARD",
    "PREDICTIONS",
    "PROGRESS",
    "REPORT",
    "RESULT",
    "TRACKED",
    "check_files",
    "create",
    "directory_of",
    "find_directory",
]
