"""report.html of a run, and one page of several runs beside each other.

Joins the reader of run directories and the page; computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zotune import files
from zotune.errors import OptionError, ZotuneError
from zotune.events import Emit, Note, ignore
from zotune.pages.html_page import html_page
from zotune.pages.run_record import RunRecord
from zotune.runs.result import Result
from zotune.runs.run_directory import REPORT
from zotune.runs.run_reader import read_run


def report(*runs: str | Path | Result, output: str | Path | None = None) -> Path:
    """Write the page of a run, or of several beside each other, and return its path.

    runs: run directories, or results of `zotune.fit`. output: the file; by default report.html in the directory of a
    single run, and report.html in the current directory for several. The page needs no network. Raises RunFolderError
    where a directory holds no run, ZotuneError where the file cannot be written.
    """
    folders = [Path(run) if isinstance(run, str | Path) else Path(run.folder or ".") for run in runs]
    if not folders:
        raise OptionError("report needs a run directory", hint="zotune report RUN")
    path = Path(output) if output is not None else (folders[0] if len(folders) == 1 else Path()) / REPORT
    text = html_page(records(folders))
    with files.writing(path, hint="choose another --output"):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text, hint="zotune report writes it again")
    return path


def records(folders: Sequence[Path]) -> list[RunRecord]:
    """The records of several runs; runs of the same name are called by their directories. Raises RunFolderError."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=run.folder) for run in runs]


def write_report(folder: Path, emit: Emit = ignore) -> Path | None:
    """Write report.html at the end of a run. A page that cannot be written never ends a run: None, and a note."""
    try:
        path = folder / REPORT
        files.write(path, html_page([read_run(folder, ended=True)]))
        return path
    except (ZotuneError, OSError) as error:
        emit(Note(f"no {REPORT}: {error}"))
        return None


__all__ = ["records", "report", "write_report"]
