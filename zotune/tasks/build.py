"""What a model is asked: the task of a spec and a model.

Knows every kind of task; computes nothing itself.
"""

from __future__ import annotations

from zotune.data.task import TaskSpec
from zotune.errors import OptionError
from zotune.models.heads import LM_HEADS, Head
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.classification import SAMPLING_TEMPERATURE, EncodedRows, HeadClassification, LabelWordTask, OptionTask
from zotune.tasks.generation import GenerationTask

Task = OptionTask


def build(loaded: LoadedModel, spec: TaskSpec, max_length: int, micro: int, seed: int = 0) -> Task:
    """The task that asks this model what the spec says. micro: rows a forward at most. Raises OptionError."""
    return task_class(spec, loaded.head)(loaded, spec, max_length, micro, seed)


def task_class(spec: TaskSpec, head: Head) -> type[Task]:
    """Which class of task, from the spec and the head alone. Raises OptionError where they do not fit."""
    if spec.kind == "generation":
        if head not in ("causal", "seq2seq"):
            raise OptionError(f"a model with the head {head!r} generates no text", hint="--head causal or seq2seq")
        return GenerationTask
    if head in LM_HEADS:
        return LabelWordTask
    if spec.kind == "choice":
        raise OptionError(
            f"multiple choice needs a model that scores words, not the head {head!r}", hint="--head causal"
        )
    return HeadClassification


__all__ = [
    "SAMPLING_TEMPERATURE",
    "EncodedRows",
    "GenerationTask",
    "HeadClassification",
    "LabelWordTask",
    "OptionTask",
    "Task",
    "build",
    "task_class",
]
