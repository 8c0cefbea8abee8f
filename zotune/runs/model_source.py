"""The model as tuning starts from it, and its initial weights again.

Knows how a base model, a fitted linear probe and a new adapter are joined; knows no objective and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from zotune.config import RunConfig
from zotune.core.space import Space
from zotune.data.model_classes import has_default_names
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.errors import DataError
from zotune.events import Emit, Note, Phase
from zotune.models import adapters, loading
from zotune.models.class_names import saved_class_names
from zotune.models.loaded_model import LoadedModel
from zotune.models.memory_model import lent_model
from zotune.models.model_files import ModelFiles
from zotune.models.trainable import base_weights
from zotune.runs.plan import Plan
from zotune.runs.recorded import class_names
from zotune.runs.set_sizes import draw
from zotune.tasks import build, linear_probe

PROBE_ROWS: Final = 10_000
"""Training rows that the initial head is fitted on at most, whatever the budget: a resumed run has the same head."""
COPY_BYTES: Final = 64 << 20
COPY_SHARE: Final = 1 / 16
"""Bytes of tuned weights, and their share of the model's, up to which a copy of the initial ones stays in memory."""


class ModelSource:
    """Loads the model as tuning starts from it: the base model, with a linear probe in its head once `write_head` was
    called, and with a new adapter, as the configuration wants them. With an adapter the probe is written at once.

    make_task: builds the task of a loaded model, to fit the probe. head: the tensors of a probe that an earlier process
    of the run has fitted.
    """

    def __init__(
        self,
        plan: Plan,
        make_task: Callable[[LoadedModel], build.Task],
        emit: Emit,
        head: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._plan, self._make_task, self._emit = plan, make_task, emit
        self.head, self._with_head = head, plan.adapter.method != "none"

    @property
    def initialised(self) -> bool:
        """Whether the models that are loaded have the probe."""
        return self._with_head and self.head is not None

    def load(self, config: RunConfig | None = None) -> LoadedModel:
        """Load the model, by the plan's configuration or another one. Raises ModelError."""
        plan = self._plan
        config = config or plan.config
        loaded = load_model(config, plan.model_files, plan.spec)
        if self._with_head and (self.head is not None or config.init == "linear-probe"):
            self.write_head(loaded, draw(plan.splits.train, PROBE_ROWS, config.seed, "initial probe"))
        adapters.attach(loaded, plan.adapter, config.seed)
        return loaded

    def write_head(self, loaded: LoadedModel, rows: list[Record]) -> None:
        """Write the probe into a model's head, and into those that are loaded from here on. It is fitted to the rows
        where it is not known yet. Raises OptionError and DataError as `linear_probe.write` does."""
        if self.head is None:
            train = self._plan.splits.train
            self._emit(Phase("fitting a linear probe as the initial head"))
            if len(rows) < len(train):
                self._emit(Note(f"the initial head is fitted on {len(rows):,} of {len(train):,} training rows"))
            task = self._make_task(loaded)
            layer = linear_probe.write(task, task.rows(rows))
            self.head = {name: x.detach().cpu().clone() for name, x in layer.state_dict().items()}
        else:
            linear_probe.load(loaded, self.head)
        self._with_head = True
        if loaded.linear_head is not None and self._plan.spec.classes:
            loaded.set_class_names(list(self._plan.spec.classes.words))

    def try_head(self, loaded: LoadedModel, rows: list[Record], fit: bool) -> Callable[[], None] | None:
        """`write_head`, and a function that takes the probe back; None where none can be fitted to the rows, and the
        model is as it was. fit: whether the probe is fitted; else the head is only shaped for it, with zeros."""
        undo = linear_probe.undo(loaded)

        def take_back() -> None:
            undo()
            self.head, self._with_head = None, False

        try:
            if fit:
                self.write_head(loaded, rows)
            else:
                linear_probe.head_layer(loaded, len(self._plan.spec.classes.words) if self._plan.spec.classes else 0)
        except DataError:
            take_back()
            return None
        return take_back


class InitialWeights:
    """Call it for the tuned weights as they were before the first step.

    Made before the first step. It keeps a copy where the tuned weights are few; else it loads the model's files again
    into the host's memory, for the device may have no room for a second model.
    """

    def __init__(self, source: ModelSource, config: RunConfig, space: Space) -> None:
        self._source, self._config, self._space = source, config, space
        few = _bytes(space.params.values()) <= max(COPY_BYTES, COPY_SHARE * _bytes(space.module.parameters()))
        self._copy: Mapping[str, torch.Tensor] | None = None
        lent = lent_model(config.model)
        if few or config.quantize or lent:
            self._copy = {n: p.detach().cpu().clone() for n, p in space.params.items()}
        if lent and self._copy:
            lent.initial = self._copy

    @property
    def copied(self) -> bool:
        """Whether a copy is kept, so that no model is loaded again."""
        return self._copy is not None

    def __call__(self) -> Mapping[str, torch.Tensor]:
        if self._copy is not None:
            return self._copy
        dtype = str(next(iter(self._space.params.values())).dtype).removeprefix("torch.")
        config = replace(self._config, device="cpu", device_map=None, dtype=dtype, attn_implementation=None)
        return base_weights(self._space.params, self._source.load(config))


def load_model(config: RunConfig, files: ModelFiles, spec: TaskSpec) -> LoadedModel:
    """A model with its class names, and its adapter where it has one. Raises ModelError."""
    return load_with_classes(config, files, spec.classes.words if spec.classes else ())


def load_recorded(
    config: RunConfig, files: ModelFiles, header: Mapping[str, Any] | None, *, initial: bool = False
) -> LoadedModel:
    """`load_model` for the model that the header of a journal describes, or for one without a run. A head that the run
    drew is drawn again from the run's seed. initial: whether the files are those that the run started from."""
    names = class_names(header) if header else saved_class_names(files) or []
    if names and files.head == "classification":
        base = saved_class_names(replace(files, adapter=None))
        new_head = base is None or len(base) != len(names)
        if header is None:
            return load_with_classes(config, replace(files, new_head=new_head), names)
        if initial or files.adapter:
            new_head |= bool(header["task"].get("new_head"))
        files = replace(files, new_head=new_head, head_seed=header["seed"])
    return load_with_classes(config, files, names)


def load_with_classes(config: RunConfig, files: ModelFiles, class_names: Sequence[str]) -> LoadedModel:
    """`load_model` where of the task only the names of the classes are known."""
    loaded = loading.load(
        files.source,
        files.folder,
        files.head,
        device=config.device,
        dtype=config.dtype,
        classes=len(class_names) or None,
        seed=config.seed if files.head_seed is None else files.head_seed,
        new_head=files.new_head,
        trust_remote_code=config.trust_remote_code,
        revision=config.model_revision,
        attn_implementation=config.attn_implementation,
        device_map=config.device_map,
        allow_pickle=config.allow_pickle,
        quantize=config.quantize,
        quantized=files.quantized,
    )
    headed = files.head == "classification" or loaded.linear_head is not None
    if class_names and headed and (loaded.drawn or has_default_names(loaded.class_names)):
        loaded.set_class_names(list(class_names))
    if files.head_seed is not None:  # drawn from the seed of the run that the adapter belongs to
        loaded.drawn = frozenset()
    if files.adapter:
        adapters.load(loaded, files.adapter)
        if class_names and loaded.linear_head is not None and has_default_names(loaded.class_names):
            loaded.set_class_names(list(class_names))  # the adapter brought the head
    return loaded


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


__all__ = ["InitialWeights", "ModelSource", "load_model", "load_recorded", "load_with_classes"]
