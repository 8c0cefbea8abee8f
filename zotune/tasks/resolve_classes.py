"""The classes of a classification task: those of the run, of the model's own head, or of the data.

Knows configuration, task files, records and a model's small files; loads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from zotune.config import RunConfig
from zotune.data import presets
from zotune.data.classes import Classes, find_classes, preset_classes
from zotune.data.model_classes import FixedClasses, match_classes, named_classes
from zotune.data.records import Record
from zotune.errors import DataError, ModelError, UsageError
from zotune.models.class_names import saved_class_names
from zotune.models.heads import LM_HEADS
from zotune.models.model_files import ModelFiles

RecordSets = Mapping[str, Sequence[Record]]


def resolve_classes(
    config: RunConfig,
    file: presets.TaskFile | None,
    record_sets: RecordSets,
    labelled: RecordSets,
    files: ModelFiles,
    *,
    fixed: FixedClasses | None = None,
    draws: bool = True,
) -> tuple[Classes, bool]:
    """The classes, and whether a classification head must be drawn for them.

    labelled: the records and further ones, whose labels are classes where neither the run nor the model has classes.
    fixed: the classes of a run, which go before those of the model's files. draws: whether a head may be drawn. Raises
    DataError for labels that are no class, ModelError where a head is missing and may not be drawn, OptionError.
    """
    synonyms = [(x.values, x.word) for x in file.labels] if file else []
    names = None if config.new_head else saved_class_names(files)
    owner = f"the model {config.model or files.source}"
    if fixed is not None and (names is not None or not config.labels):
        classes = match_classes(record_sets, fixed, config.labels, synonyms)
    elif names is not None:
        try:
            if len(names) < 2:
                raise DataError(f"the head of {owner} has {len(names)} output, which is a score and no class")
            hint = "--labels value=class,… names the model's class of each; zotune fit --new-head draws a new head"
            classes = match_classes(record_sets, named_classes(names, owner, hint), config.labels, synonyms)
        except UsageError:
            if config.init != "linear-probe":  # a linear probe replaces the head
                raise
            classes, names = _data_classes(config, file, labelled, files.head), None
    else:
        classes = _data_classes(config, file, labelled, files.head)
    if files.head != "classification":
        return classes, False
    base = saved_class_names(replace(files, adapter=None)) if files.adapter else names
    size = len(classes.values)
    if not config.new_head and base is not None and len(base) == size:
        return classes, False
    if not draws and not files.adapter:
        raise ModelError(
            f"{config.model or files.source} holds no classification head to score",
            hint="zotune fit draws and tunes one; another --head scores what the model has",
        )
    if files.adapter or config.init == "linear-probe":  # which replace what is drawn
        return classes, True
    why = "--new-head" if config.new_head else "its files hold none"
    note = f"a new classification head of {size} classes is drawn from the seed ({why})"
    return replace(classes, notes=(*classes.notes, note)), True


def _data_classes(config: RunConfig, file: presets.TaskFile | None, record_sets: RecordSets, head: str) -> Classes:
    """The classes of `--labels` or of the data, else those of the task file: a word each for a language model, a
    description for an embedding model, the last of its labels in the data for a classification head."""
    if file is None or config.labels or not file.labels:
        return find_classes(record_sets, config.labels, needs_words=head != "classification")
    described = head == "embedding"
    classes = [(x.values, (x.description or x.word) if described else x.word) for x in file.labels]
    if head in LM_HEADS or described:
        return preset_classes(record_sets, classes)
    return preset_classes(record_sets, [(x.values, x.values[-1]) for x in file.labels])


__all__ = ["resolve_classes"]
