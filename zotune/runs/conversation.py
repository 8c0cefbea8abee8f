"""`zotune chat`: the answers of a run's base model and of its kept weights to the same prompts.

Each model has a conversation of its own, with its own answers in it. Knows how models are loaded and prompts rendered;
tunes nothing and scores nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from zotune import config as configuration
from zotune.config import RunConfig
from zotune.data.task import TaskSpec
from zotune.data.templates import Template, unescape
from zotune.errors import OptionError, ZotuneError
from zotune.events import Emit, Note, Phase, ignore
from zotune.models.model_files import find_model
from zotune.runs.evaluate import with_recorded_task
from zotune.runs.model_source import load_recorded
from zotune.runs.prompt_settings import recorded_demonstrations
from zotune.runs.recorded import read_header, with_recorded_quantization
from zotune.runs.run_directory import CONFIG, check_files
from zotune.runs.working_directory import working_directory
from zotune.tasks import resolve_task
from zotune.tasks.chat import settle_chat
from zotune.tasks.generation import GenerationTask
from zotune.yaml_file import read_yaml

BASE: Final = "base model"
TUNED: Final = "tuned"
MAX_NEW_TOKENS: Final = 128


class Chat:
    """Conversations with one or two models.

    model: a run directory, or another model, which then answers alone. base: whether a run's base model answers too; a
    note says where it cannot be loaded. options: fields of `RunConfig`, by default those that the run records. Raises
    UsageError, and ModelError where the model generates no text.
    """

    def __init__(self, model: str, *, base: bool = True, emit: Emit = ignore, **options: Any) -> None:
        check_files(Path(model))
        config = with_recorded_task(configuration.resolve({"model": model, **options}, None))
        self._speakers: dict[str, _Speaker] = {}
        recorded = read_yaml(Path(model) / CONFIG) if (Path(model) / CONFIG).is_file() else None
        if base and recorded is not None and recorded.get("model"):
            origin = replace(config, model=str(recorded["model"]), model_revision=recorded.get("model_revision"))
            directory = working_directory(Path(model))
            try:
                with contextlib.chdir(directory):  # a relative path leads where it led in the run
                    self._speakers[BASE] = _Speaker(origin, model, directory, emit)
            except ZotuneError as error:
                emit(Note(f"the base model cannot be loaded, so that the tuned one answers alone: {error}"))
        self._speakers[TUNED if recorded is not None else "model"] = _Speaker(config, model, Path.cwd(), emit)

    @property
    def names(self) -> tuple[str, ...]:
        """Who answers, in order."""
        return tuple(self._speakers)

    @property
    def remembers(self) -> bool:
        """Whether earlier turns are part of a prompt: the model has a chat template."""
        return all(speaker.remembers for speaker in self._speakers.values())

    def ask(self, prompt: str) -> dict[str, str]:
        """The answer of each model. Raises OptionError for an empty prompt."""
        if not prompt.strip():
            raise OptionError("the prompt is empty")
        return {name: speaker.answer(prompt) for name, speaker in self._speakers.items()}

    def reset(self) -> None:
        """Begin new conversations."""
        for speaker in self._speakers.values():
            speaker.messages.clear()


class _Speaker:
    """A model with its conversation. run: the directory whose header and demonstrations it follows."""

    def __init__(self, config: RunConfig, run: str, directory: Path, emit: Emit) -> None:
        folder = Path(run)
        header = read_header(run)
        config = with_recorded_quantization(config, header) if header else config
        files = find_model(config.model, config.head, config.allow_pickle, config.model_revision)
        if files.head not in ("causal", "seq2seq"):
            raise OptionError(f"{config.model}: a model with the head {files.head!r} generates no text to chat with")
        emit(Phase(f"loading {config.model}"))
        self._loaded = load_recorded(config, files, header, initial=config.model != run)
        self._column, spec = _spec(config, header is not None and (folder / CONFIG).is_file(), folder)
        sample = {self._column: "a"}
        spec, _ = settle_chat(self._loaded, spec, [sample])
        least = resolve_task.MAX_LENGTH["generation"]
        length = config.max_length or max(self._loaded.context_length or least, least)
        self._task = GenerationTask(self._loaded, spec, length, 1, config.seed)
        self._turn = 0
        self.remembers = spec.chat_template == "on"
        self.messages: list[Mapping[str, Any]] = []

    def answer(self, prompt: str) -> str:
        record: dict[str, Any] = {self._column: prompt}
        if self.remembers:
            filled = self._task.spec.template.fill(record, "completion", "", "drop").text.strip()
            self.messages.append({"role": "user", "content": filled})
            record = {"messages": [dict(m) for m in self.messages]}
        rows = self._task.rows([record])
        self._task.step = self._turn
        text: str = self._task.outputs(rows, [0], frozenset({"completions"}))["completions"][0]
        self._turn += 1
        if self.remembers:
            self.messages.append({"role": "assistant", "content": text})
        return text


def _spec(config: RunConfig, is_run: bool, folder: Path) -> tuple[str, TaskSpec]:
    """The column of the prompt, and a task of text generation: the run's template where it has a place for one column,
    else the prompt as it is."""
    task = resolve_task.parse_task(config.task)
    text = config.template or (task.file.template.get("default", "") if task.file else "")
    columns = set(Template(unescape(text)).columns) - {"completion"} if text else set()
    column = next(iter(columns)) if len(columns) == 1 and "{" + next(iter(columns)) + "}" in text else "prompt"
    template = Template(unescape(text) if column != "prompt" or columns == {"prompt"} else "{prompt}")
    spec = TaskSpec("generation", template, **resolve_task.generation_options(config, task, MAX_NEW_TOKENS))
    return column, replace(spec, **recorded_demonstrations(folder)) if is_run else spec


__all__ = ["BASE", "MAX_NEW_TOKENS", "TUNED", "Chat"]
