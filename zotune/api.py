"""`zotune.fit`, `zotune.resume` and `zotune.evaluate`: runs from Python, with loaded models and data in memory.

Joins runs with what only Python has: objects, types and notebooks. Knows the terminal; computes nothing.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, overload

from zotune.config import RunConfig
from zotune.data import memory_data
from zotune.data.memory_data import Data
from zotune.errors import DataError, ModelError, OptionError
from zotune.events import Emit, Event
from zotune.fit_options import FitOptions, ResumeOptions
from zotune.models.memory_model import LentModel, lent
from zotune.runs import evaluate as evaluations
from zotune.runs import fit as runs
from zotune.runs.result import Result, ScoreEstimate
from zotune.runs.resumed import resumed_config
from zotune.scoring.objective_spec import ObjectiveSpec, OneObjective
from zotune.types import Optimizer, Tracker


def _never() -> bool:
    return False


def fit(
    cfg: RunConfig | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    data: Data | None = None,
    dataset: str | Path | None = None,
    objective: ObjectiveSpec | None = None,
    optimizer: str | Optimizer | None = None,
    callbacks: Sequence[Tracker] = (),
    progress: bool | None = None,
    emit: Emit | None = None,
    stop: Callable[[], bool] | str | Sequence[str] = _never,
    resume: str | None = None,
    force: bool = False,
    **options: Unpack[FitOptions],
) -> Result:
    """Tune a model's weights for an objective, with forward passes only.

    model: a path, a hub id, or a loaded model of transformers with its tokenizer. A loaded model ends with the weights
        that are kept, and as it was where the run is interrupted or fails.
    data, dataset: a path or a hub id; or records: a list of mappings, a `datasets.Dataset` or `DatasetDict`, a pandas
        frame, or a mapping from the names of splits to these. The run directory keeps a copy of records.
    objective, optimizer: a name or an object; several objectives are summed.
    callbacks: receive steps and validations (`zotune.types.Tracker`), and may end the run.
    progress: whether progress is shown; None: in notebooks.
    emit: receives the events of the run (`zotune.events`).
    stop: asked after each step; once it is true the run writes a checkpoint and ends. A text or several are the option
        `stop`: texts that end a completion.
    resume, force: see `zotune.resume`, which reads the options of a run from its directory.
    cfg: a complete configuration instead of options.

    The run directory holds the kept weights under their Hugging Face names. Raises UsageError before the first step,
    and ObjectiveFailures where the objective fails too often.
    """
    values: dict[str, Any] = {**options}
    if values.get("output_dir") is not None:
        values["output_dir"] = str(values["output_dir"])
    given = _Given(objective, optimizer, callbacks, stop, force)
    with _model(model, tokenizer) as (name, loaded), _data(data, dataset) as records:
        values |= {} if records is None else {"dataset": str(records)}
        values |= {} if name is None else {"model": name}
        saved = Path(records) if records and not isinstance(data, str | Path | None) else None
        with _progress(progress, emit) as shown:
            return given.run(loaded, shown, cfg, resume=resume, records=saved, **values)


def resume(
    run: str | Path,
    *,
    model: Any = None,
    tokenizer: Any = None,
    objective: ObjectiveSpec | None = None,
    optimizer: str | Optimizer | None = None,
    callbacks: Sequence[Tracker] = (),
    progress: bool | None = None,
    emit: Emit | None = None,
    stop: Callable[[], bool] = _never,
    checkpoint: str | Path = "last",
    force: bool = False,
    **options: Unpack[ResumeOptions],
) -> Result:
    """Resume a run that was stopped or killed, bit for bit as if it had not been, or give it a larger budget.

    model, tokenizer: again, where the run tunes a loaded model: its weights must be those that the run began with.
    objective, optimizer: again, where they were objects. checkpoint: "last", or the path of one. force: resume also
    where versions, data or scoring have changed; the journal records the change. Other options are the run's. Raises
    UsageError, and RunFolderError where the weights are others.
    """
    settings = {key: value for key, value in options.items() if value is not None}
    cfg, directory = resumed_config(run, settings)
    path = str(checkpoint) if checkpoint == "last" else str(Path(checkpoint).absolute())
    given = _Given(objective, optimizer, callbacks, stop, force)
    with _model(model, tokenizer) as (name, loaded), _progress(progress, emit) as shown, contextlib.chdir(directory):
        if name is not None and name != cfg.model:
            raise ModelError(f"the run tunes {cfg.model or 'the embedded encoder'}, not {name}")
        return given.run(loaded, shown, cfg, resume=path)


@overload
def evaluate(
    *,
    model: Any = None,
    tokenizer: Any = None,
    data: Data | None = None,
    dataset: str | Path | None = None,
    objective: OneObjective | None = None,
    **options: Any,
) -> ScoreEstimate: ...
@overload
def evaluate(
    *,
    model: Any = None,
    tokenizer: Any = None,
    data: Data | None = None,
    dataset: str | Path | None = None,
    objective: Sequence[OneObjective | None],
    **options: Any,
) -> dict[str, ScoreEstimate]: ...
def evaluate(
    *,
    model: Any = None,
    tokenizer: Any = None,
    data: Data | None = None,
    dataset: str | Path | None = None,
    objective: Any = None,
    **options: Any,
) -> ScoreEstimate | dict[str, ScoreEstimate]:
    """Score a model, a run directory or an adapter on a split: test, else validation, else all rows.

    model, tokenizer, data, dataset: as in `zotune.fit`. objective: one, or several that share the forward passes; by
    default the task's own metric. options: `split`, `save_completions`, `emit`, and the fields of
    `zotune.config.RunConfig`: task, template, labels, head, columns, shots, calibrate, ….

    Returns a score with its standard error, or a dictionary of scores by objective where several are given. Raises
    UsageError, and ObjectiveFailures where an objective fails.
    """
    with _model(model, tokenizer) as (name, _), _data(data, dataset) as records:
        given = {key: value for key, value in (("model", name), ("dataset", records)) if value is not None}
        texts = {key: str(value) for key, value in given.items()}
        scores: ScoreEstimate | dict[str, ScoreEstimate]
        scores = evaluations.evaluate(objective=objective, **texts, **options)
        return scores


@contextlib.contextmanager
def _model(model: Any, tokenizer: Any) -> Iterator[tuple[str | None, LentModel | None]]:
    """The name of a model, and its record where it is loaded."""
    if model is None or isinstance(model, str | Path):
        if tokenizer is not None:
            raise OptionError("tokenizer belongs to a loaded model; a folder has its own")
        yield None if model is None else str(model), None
        return
    with lent(model, tokenizer) as found:
        yield found


@contextlib.contextmanager
def _data(data: Data | None, dataset: str | Path | None) -> Iterator[Path | str | None]:
    """The path or hub id of the data; of records a temporary folder."""
    if data is not None and dataset is not None:
        raise OptionError("data and dataset exclude each other")
    data = dataset if data is None else data
    if data is None or isinstance(data, str | Path):
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="zotune-") as temporary:
        folder = memory_data.write(data, Path(temporary) / "data")
        try:
            yield folder
        except DataError as error:
            text = memory_data.named(error.args[0], folder, isinstance(data, Mapping))
            raise DataError(text, hint=error.hint) from None


@dataclass(frozen=True)
class _Given:
    """The arguments that `fit` and `resume` share."""

    objective: ObjectiveSpec | None
    optimizer: str | Optimizer | None
    callbacks: Sequence[Tracker]
    stop: Callable[[], bool] | str | Sequence[str]
    force: bool

    def run(self, loaded: LentModel | None, emit: Emit, cfg: RunConfig | None, **more: Any) -> Result:
        """Run to the end. more: further arguments of the run. A loaded model is as it was where the run is interrupted,
        so that it can be resumed, and after an error."""
        try:
            result = runs.fit(
                cfg,
                objective=self.objective,
                optimizer=self.optimizer,
                callbacks=self.callbacks,
                stop=self.stop,
                force=self.force,
                emit=emit,
                **more,
            )
        except BaseException:  # Ctrl-C too
            if loaded:
                loaded.put_back()
            raise
        if loaded and result.reason == "interrupted":
            loaded.put_back()
        return result


@contextlib.contextmanager
def _progress(progress: bool | None, emit: Emit | None) -> Iterator[Emit]:
    """An `Emit` that shows progress where that is wanted, and passes events on."""
    wanted = progress if progress is not None else "ipykernel" in sys.modules
    receivers: list[Emit] = [emit] if emit else []
    with contextlib.ExitStack() as stack:
        if wanted:
            from zotune.cli.terminal import Terminal

            receivers.insert(0, stack.enter_context(Terminal()))

        def send(event: Event) -> None:
            for receiver in receivers:
                receiver(event)

        yield send


__all__ = ["evaluate", "fit", "resume"]
