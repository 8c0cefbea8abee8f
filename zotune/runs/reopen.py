"""The journal of a run: created with its header, or opened again and compared with what is about to be resumed.

Knows journals, headers and checkpoints; takes no step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from zotune import files
from zotune.config import RunConfig
from zotune.errors import RunFolderError
from zotune.events import Emit, Note
from zotune.runs import initial_head
from zotune.runs.provenance import environment, sources_of_users
from zotune.runs.run_directory import CONFIG, ENVIRONMENT, JOURNAL
from zotune.runs.session import Session
from zotune.search import checkpoint
from zotune.search.engine import Engine
from zotune.search.journal import Journal, has_header
from zotune.yaml_file import as_yaml

FIXED: Final = frozenset(
    [
        *("base_weights", "frozen_weights", "tensors", "dtype", "seed", "noise", "drift"),
        *("optimizer", "optimizer_options", "rows", "batch_size", "eval_steps", "population"),
    ]
)
"""Keys of the header that recorded lines cannot be replayed without: `--force` does not change them."""


FILES: Final = frozenset({"model_files", "objective_files", "objective_folders", "optimizer_files", initial_head.KEY})
"""Hashes of small files, and the initial head; a header that lacks them is not compared with the present ones."""

SOURCES: Final = frozenset({"objective_source", "optimizer_source"})
"""Hashes of source files: of code that comes with zotune the version decides, which is compared as well."""


def open_journal(session: Session, folder: Path, resume: bool, header: dict[str, Any], force: bool) -> Journal:
    """The run's journal: a new one beside the run's configuration, or that of the run to resume.

    A run that was killed before its journal had a header starts from the beginning. Process 0 writes the journal, the
    others hold its lines. Raises RunFolderError.
    """
    path, config, processes = folder / JOURNAL, session.plan.config, session.processes
    opened: list[Journal] = []

    def lines() -> list[Any]:
        if resume and has_header(path):
            compared = header.keys() - SOURCES | sources_of_users(session)
            opened.append(_reopen(path, header, compared, config, force, session.emit))
        else:
            if resume:
                path.unlink(missing_ok=True)
            files.write(folder / CONFIG, as_yaml(asdict(config)))
            files.write(folder / ENVIRONMENT, json.dumps({**environment(), "directory": os.getcwd()}, indent=1))
            opened.append(Journal.create(path, header))
        return [list(opened[0].lines), opened[0].cursor]

    recorded, cursor = processes.on_first(lines)
    journal = opened[0] if opened else Journal.of(recorded, cursor)
    journal.share = processes.value_of_first
    return journal


def restore(engine: Engine, folder: Path, resume: str, journal: Journal, session: Session) -> None:
    """Load the checkpoint that `resume` names; for "last" the newest that is whole, or none, where the journal is
    replayed from the base model. Raises RunFolderError."""
    path = resume
    loaded: list[dict[str, Any]] = []

    def note(text: str) -> None:
        session.emit(Note(text))

    def newest() -> str:
        checkpoint_path = ""
        if whole := checkpoint.load_newest(folder, engine.space, journal, note):
            checkpoint_path = str(whole[0])
            loaded.append(whole[1])
        return checkpoint_path

    if resume == "last":
        path = session.processes.on_first(newest)
    if path:
        engine.restore(loaded[0] if loaded else checkpoint.read(Path(path), engine.space, journal))
    note(f"resumed from {path or 'the base model'}, {len(journal.lines) - journal.cursor} journal lines to replay")


def _reopen(
    path: Path, header: dict[str, Any], compared: Set[str], config: RunConfig, force: bool, emit: Emit
) -> Journal:
    """An existing journal, with lines for what has changed since. Raises RunFolderError for forbidden changes."""
    journal = Journal.open(path)
    try:
        _record_changes(journal, path, header, compared, config, force, emit)
    except BaseException:  # Ctrl-C too: nobody else closes it
        journal.close()
        raise
    return journal


def _record_changes(
    journal: Journal,
    path: Path,
    header: dict[str, Any],
    compared: Set[str],
    config: RunConfig,
    force: bool,
    emit: Emit,
) -> None:
    recorded = dict(journal.header)
    for line in journal.lines:
        if line["kind"] == "override":
            recorded |= {key: new for key, (_, new) in line["changed"].items()}
        if line["kind"] == "budget":
            recorded["budget"] = {key: line[key] for key in header["budget"]}
    free = {"budget"} | (FILES - recorded.keys()) | ({"eval_steps"} if config.eval_steps is None else set())
    changed = {key: [recorded.get(key), header[key]] for key in header if key in compared - free}
    changed = {key: values for key, values in changed.items() if values[0] != values[1]}
    for key, (old, new) in changed.items():
        if not force or key in FIXED:
            hint = "" if key in FIXED else "--force resumes all the same; the journal records the change"
            raise RunFolderError(f"{path.parent} was made with another {_change(key, old, new)}", hint=hint)
    if changed:
        journal.append_unread({"kind": "override", "changed": changed})
        emit(Note(f"resumes with another {'; '.join(_change(key, *values) for key, values in changed.items())}"))
    if recorded["budget"] != header["budget"]:
        journal.append_unread({"kind": "budget", **header["budget"]})


def _change(key: str, old: Any, new: Any) -> str:
    """A changed key of the header with both values, shortened."""
    name = key.replace("_", " ")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        inner = next(k for k in {**old, **new} if old.get(k) != new.get(k))
        name = f"{inner if key in FILES else inner.replace('_', ' ')} ({name})"
        old, new = old.get(inner), new.get(inner)
    return f"{name}: {old!r:.60} in the run, {new!r:.60} now"


__all__ = ["FIXED", "open_journal", "restore"]
