"""`zotune export --step`: the model of any step of a run, kept or not.

Knows run directories, models and checkpoints; runs no code that a run directory names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from zotune.core.space import Space, named_tensors
from zotune.errors import ModelError, OptionError, RunFolderError
from zotune.events import Emit, ignore
from zotune.models import adapters
from zotune.runs import export
from zotune.runs.plan import EMBEDDED
from zotune.runs.recorded import complete_header, config_of
from zotune.runs.replay import initial_model, rebuild, recorded_optimizer
from zotune.runs.run_directory import JOURNAL, RESULT, check_files
from zotune.search import checkpoint
from zotune.search.journal import Journal


def export_step(run: str | Path, output: str | Path, step: int, *, merge: bool = False, emit: Emit = ignore) -> Path:
    """Write the model of one step to a new or empty folder: of the best step as the test set scored it, interpolated
    where the run interpolated. The weights come from a checkpoint of the step, or else from a replay.

    merge: write LoRA into its base model. Raises OptionError for a step that the
    run does not have, RunFolderError, ModelError.
    """
    folder, target = Path(run), Path(output)
    export.check_free(target)
    check_files(folder)
    journal = Journal.open(folder / JOURNAL, read_only=True)
    header = complete_header(journal)
    last = sum(line["kind"] == "step" for line in journal.lines)
    if not 0 <= step <= last:
        raise OptionError(f"--step {step}: the journal has steps 0 to {last}")
    config = config_of(header, None if header["model"] == EMBEDDED else header["model"])
    loaded = initial_model(replace(config, device="cpu"), header, folder, emit)
    if merge and not adapters.has_adapter(loaded):
        raise ModelError(f"{folder} holds no adapter to merge; its weights are complete", hint="leave out --merge")
    names = set(header["tensors"])
    tensors = named_tensors(loaded.model)
    others = {n: p for n, p in tensors.items() if n not in names}
    space = Space(loaded.model, header["seed"], lambda t: t.name in names)
    if space.digest() != header["base_weights"] or checkpoint.digest(others) != header["frozen_weights"]:
        raise RunFolderError(f"the weights of {loaded.source} are not the run's initial weights")
    base = space.snapshot()
    try:
        checkpoint.read(folder / f"checkpoint-{step}", space, journal)
    except RunFolderError:
        space, _ = rebuild(loaded, recorded_optimizer(None, header), journal, step)
    share = _share(folder, step)
    if share != 1.0:
        space.load(checkpoint.interpolate(base, space.params, share))
    if merge:
        adapters.merge(loaded)
    return export.write(loaded, target)


def _share(folder: Path, step: int) -> float:
    """How far the best weights lie on the way from the base model to their step; 1 for other steps."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return float(result["best_share"]) if result["best_step"] == step else 1.0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the run has not ended
        return 1.0


__all__ = ["export_step"]
