"""`zotune verify`: whether a run directory holds what the run has written.

Reads journal, checkpoints and model; changes nothing and runs no code that the directory names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zotune import files
from zotune.core.space import named_tensors
from zotune.errors import RunFolderError, ZotuneError
from zotune.events import Emit, Phase, ignore
from zotune.models.model_files import find_model
from zotune.runs.frozen_weights import frozen_digest
from zotune.runs.model_source import load_recorded
from zotune.runs.recorded import complete_header, config_of
from zotune.runs.run_directory import JOURNAL, MODEL_CARD, RESULT, check_files
from zotune.search import checkpoint
from zotune.search.journal import Journal


@dataclass(frozen=True)
class Check:
    """The outcome of one check. ok: None where there was nothing to check; detail: one line for the user."""

    name: str
    ok: bool | None
    detail: str

    def json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "said": self.detail}


def verify(run: str | Path, emit: Emit = ignore) -> list[Check]:
    """Check the journal's chain of checksums, every checkpoint, the model's files, and the tuned weights against the
    journal. Raises RunFolderError where the directory holds no run."""
    folder = Path(run)
    check_files(folder)
    if not (folder / JOURNAL).is_file():
        raise RunFolderError(f"{folder} holds no run: there is no {JOURNAL}")
    try:
        journal = Journal.open(folder / JOURNAL, read_only=True)
    except RunFolderError as error:
        return [Check("journal", False, str(error))]
    steps = sum(line["kind"] == "step" for line in journal.lines)
    torn = f"; the last line is torn ({journal.torn} bytes), a resume drops it" if journal.torn else ""
    checks = [Check("journal", True, f"{len(journal.lines)} lines, {steps} steps{torn}")]
    checks += [_checkpoint(folder / f"checkpoint-{step}", journal) for step in checkpoint.checkpoints(folder)]
    kept = next((line for line in reversed(journal.lines) if line["kind"] == "kept"), None)
    if kept is None:
        return [*checks, Check("model", None, "the run has not ended: zotune resume continues it")]
    try:
        recorded = {str(name): str(x) for name, x in json.loads((folder / RESULT).read_text())["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # whatever a stranger wrote
        return [*checks, Check(RESULT, False, "cannot be read: zotune resume writes it again")]
    if not recorded:
        return [*checks, Check("model", None, "no model files were written: zotune replay rebuilds them")]
    recorded.pop(MODEL_CARD, None)  # earlier versions recorded peft's card, which the run's own replaced
    checks += [_model_file(folder, name, checksum) for name, checksum in recorded.items()]
    return [*checks, _weights(folder, complete_header(journal), kept, emit)]


def _checkpoint(path: Path, journal: Journal) -> Check:
    try:
        meta = checkpoint.read_meta(path)
        if meta["mark"] != journal.checksum(min(meta["lines"], len(journal.lines))):
            return Check(path.name, False, "it does not belong to this journal")
    except RunFolderError as error:
        return Check(path.name, False, str(error))
    return Check(path.name, True, f"{len(meta['files'])} files, at line {meta['lines']} of the journal")


def _model_file(folder: Path, name: str, checksum: str) -> Check:
    try:
        inside = "\0" not in name and (folder / name).parent.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # not a path, or a link to itself
        inside = False
    if not inside:
        return Check(name, False, "is not a file of this directory")
    try:
        same = files.checksum(folder / name) == checksum
    except OSError as error:
        return Check(name, False, f"cannot be read: {error.strerror}")
    return Check(name, same, "unchanged" if same else "changed since it was written (checksum differs)")


def _weights(folder: Path, header: Mapping[str, Any], kept: Mapping[str, Any], emit: Emit) -> Check:
    """The weights that `from_pretrained` would load, against the journal."""
    emit(Phase("loading the kept model"))
    config = config_of(header, str(folder))
    try:
        loaded = load_recorded(config, find_model(config.model, config.head, revision=config.model_revision), header)
    except ZotuneError as error:
        return Check("weights", False, str(error))
    tuned = {n: p for n, p in named_tensors(loaded.model).items() if n in header["tensors"]}
    same = checkpoint.digest(tuned) == kept["weights"]
    outcome = "equal to the journal's" if same else "different from the journal's"
    frozen = header.get("frozen_weights")
    if frozen is not None and frozen != frozen_digest(loaded.model, tuned):
        return Check("weights", False, "frozen tensors differ from those of the model that was tuned")
    return Check("weights", same, f"{len(tuned)} tuned tensors of step {kept['step']}, {outcome}")


__all__ = ["Check", "verify"]
