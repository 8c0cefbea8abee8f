"""The factory of tasks: a model and a task specification to the task that runs it.

Knows every class of task; computes nothing itself.
"""

from __future__ import annotations

from zotune.data.task import TaskSpec
from zotune.errors import OptionError
from zotune.models.heads import LM_HEADS, Head
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.choice import MultipleChoice
from zotune.tasks.classification import HeadClassification, LabelWordClassification
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.generation import GenerationTask
from zotune.tasks.option_task import SAMPLING_TEMPERATURE, OptionTask

Task = OptionTask | GenerationTask


def build(loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, seed: int = 0) -> Task:
    """The task of a specification on a loaded model.

    max_length: tokens a row at most; micro_batch: rows a forward pass at most. Raises OptionError or ModelError.
    """
    return task_class(spec, loaded.head)(loaded, spec, max_length, micro_batch, seed)


def task_class(spec: TaskSpec, head: Head) -> type[OptionTask] | type[GenerationTask]:
    """The class for a task kind and a head. Raises OptionError where they do not fit."""
    if spec.kind == "generation":
        if head not in ("causal", "seq2seq"):
            raise OptionError(f"a model with the head {head!r} generates no text", hint="--head causal or seq2seq")
        return GenerationTask
    if spec.kind == "choice":
        if head not in LM_HEADS:
            raise OptionError(
                f"multiple choice needs a language model, not a model with the head {head!r}", hint="--head causal"
            )
        return MultipleChoice
    return LabelWordClassification if head in LM_HEADS else HeadClassification


__all__ = [
    "SAMPLING_TEMPERATURE",
    "EncodedRows",
    "GenerationTask",
    "HeadClassification",
    "OptionTask",
    "Task",
    "build",
    "task_class",
]
