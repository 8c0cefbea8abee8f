"""Chat templates: messages, or the text of a plain prompt, as the text that an instruct model continues.

Decides for a run whether plain prompts get the template. Knows tokenizers and task specifications; runs no model.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.data.templates import FilledTemplate
from zotune.data.tokenization import CONTROL
from zotune.errors import DataError, ModelError, OptionError
from zotune.models.chat_files import has_chat_template
from zotune.models.configuration import config_value
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import ModelFiles

MARK: Final = "zotune0mark0"
"""Text that stands for a message to find its place in a rendered chat; no template changes it."""
RESERVED: Final = frozenset(
    [
        *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
        *("padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
        "return_assistant_tokens_mask",
    ]
)
"""Arguments of `apply_chat_template` that zotune sets."""
MESSAGES: Final = "`messages`"
HEADS: Final = ("causal", "seq2seq")
"""Heads of models that read a chat."""


class ChatTemplate:
    """The chat template of a loaded model with a run's system message and template arguments."""

    def __init__(self, loaded: LoadedModel, spec: TaskSpec) -> None:
        self.tokenizer, self.source, self.spec = loaded.tokenizer, loaded.source, spec
        self._place = functools.lru_cache(64)(self._find_place)
        self._examples: list[Record] = [dict(m) for m in spec.example_messages]

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(config_value(self.tokenizer, "chat_template"))

    @functools.cached_property
    def reads_system(self) -> bool:
        """Whether the template has a system role."""
        messages = [{"role": "system", "content": MARK}, {"role": "user", "content": "a"}]
        try:
            return MARK in self._apply(messages)
        except Exception:  # templates raise errors of any kind for a role that they do not know
            return False

    @functools.cached_property
    def glue(self) -> str:
        """The white space that the template writes between the generation prompt and an answer."""
        user = {"role": "user", "content": "a"}
        try:
            prompt = self._apply([user])
            whole = self._apply([user, {"role": "assistant", "content": MARK}])
        except Exception:  # templates raise errors of any kind
            return ""
        between = whole[len(prompt) : whole.find(MARK)] if whole.startswith(prompt) and MARK in whole else ""
        return between if between.isspace() else ""

    def render(self, messages: Sequence[Record], examples: bool = True, skip: int = 0) -> str:
        """Messages as text up to where the answer starts, with the run's system message and, if `examples`, its
        demonstrations. skip: messages left out at their beginning, demonstrations first. Raises ModelError or
        DataError."""
        try:
            text = self._apply(self._complete(messages, examples, skip))
        except Exception as error:  # templates raise errors of any kind
            if not self.exists:
                raise _no_template(self.source, "--system" if self.spec.system else MESSAGES) from None
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"the model's chat template refuses a record: {line}") from None
        if not text.strip():
            raise ModelError(
                f"the chat template of {self.source} renders an empty text",
                hint="repair its chat_template, or plain prompts with --chat-template off",
            )
        return text

    def conversations(self, messages: Sequence[Record], examples: bool = True) -> Iterator[FilledTemplate]:
        """A conversation up to where the answer starts, then the same without its oldest turns, as long as the last
        turn of the user is left; the system message stays. The column "messages" is the last message."""
        turns = self._turns(messages, examples)
        first = turns[0]["role"] if turns else ""
        starts = [0, *(i for i in range(1, len(turns)) if turns[i]["role"] == first)]
        for skip in starts:
            text = self.render(messages, examples, skip)
            start, end = self._find_last(messages, text, examples, skip)
            spans = {"messages": (start, end)} if end > start else {}
            yield FilledTemplate(text, spans, content=(start, end))

    def wraps(self, filled: FilledTemplate, examples: bool = True) -> Iterator[FilledTemplate]:
        """A filled template as one turn of the user; its answer, if it has one, follows as the model's turn. Then the
        same without its first demonstration, without the first two, and so on."""
        demonstrations = self._examples if examples else ()
        skips = [i for i, message in enumerate(demonstrations) if message["role"] == "user"]
        for skip in [*(skips or [0]), *([len(demonstrations)] if skips else [])]:
            yield self._wrap(filled, examples, skip)

    def _wrap(self, filled: FilledTemplate, examples: bool, skip: int) -> FilledTemplate:
        end = filled.target[0] if filled.target else len(filled.text)
        content = filled.text[:end].rstrip()
        place = self._place(examples, skip)
        text = self.render([{"role": "user", "content": content}], examples, skip)
        inner = content.strip()
        start = text.find(inner, place) if inner else place
        if start < 0:  # the template changes the text
            wrapped = FilledTemplate(text, content=(len(text), len(text)))
        else:
            shift = start - (len(content) - len(content.lstrip()))
            last = start + len(inner)
            spans = {
                name: (max(a + shift, start), min(b + shift, last))
                for name, (a, b) in filled.spans.items()
                if a < len(content) and min(b + shift, last) > max(a + shift, start)
            }
            wrapped = FilledTemplate(text, spans, content=(start, last))
        return wrapped if filled.target is None else self.answer(wrapped, filled.text[slice(*filled.target)])

    def answer(self, prompt: FilledTemplate, text: str) -> FilledTemplate:
        """A prompt with an answer after it."""
        before = prompt.text + self.glue
        text = text.lstrip()
        return replace(prompt, text=before + text, target=(len(before), len(before) + len(text)))

    def control_texts(self) -> list[str]:
        """Texts that only a prompt with a chat template holds: its control tokens, and the words before a message."""
        tokenizer = self.tokenizer
        added = config_value(tokenizer, "added_tokens_decoder") or {}
        special = {str(t) for t in added.values() if config_value(t, "special", False)}
        special |= {str(t) for t in config_value(tokenizer, "all_special_tokens") or ()}
        ordinary = {str(config_value(tokenizer, f"{name}_token")) for name in ("unk", "pad", "mask")}
        try:
            text = self._apply([{"role": "user", "content": MARK}])
        except Exception:  # templates raise errors of any kind
            return sorted(special - ordinary)
        before = text.partition(MARK)[0].rsplit("\n", 2)
        header = next((line.strip() for line in reversed(before) if line.strip()), "")
        headers = {header} if len(header) > 3 and not header.isalnum() else set()
        return sorted((special - ordinary) | set(CONTROL.findall(text)) | headers)

    def check_arguments(self) -> None:
        """Raises OptionError for a template argument that zotune sets itself, or that the template does not read."""
        text = str(config_value(self.tokenizer, "chat_template") or "")
        for name in self.spec.chat_args:
            if name in RESERVED:
                raise OptionError(f"--chat-arg {name}: zotune sets this argument itself")
            if name not in ("tools", "documents") and not re.search(rf"\b{re.escape(name)}\b", text):
                raise OptionError(f"--chat-arg {name}: the chat template of {self.source} does not read it")

    def _apply(self, messages: Sequence[Record]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **self.spec.chat_args
        )
        return text

    def _turns(self, messages: Sequence[Record], examples: bool) -> list[Record]:
        """Demonstrations and messages, without the system message."""
        rest = messages[1:] if messages and messages[0]["role"] == "system" else messages
        return [*(self._examples if examples else ()), *rest]

    def _complete(self, messages: Sequence[Record], examples: bool, skip: int = 0) -> list[Record]:
        """The system message, then demonstrations, then the messages, without the first `skip` of both. Without a
        system role, the system message becomes the beginning of the first user message."""
        first = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
        if not first and self.spec.system:
            first = [{"role": "system", "content": self.spec.system}]
        turns = self._turns(messages, examples)[skip:]
        if not first or not turns or not self.exists or self.reads_system:
            return [*first, *turns]
        content, system = turns[0]["content"], first[0]["content"]
        if not isinstance(content, str) or not isinstance(system, str):
            return [*first, *turns]
        return [{**turns[0], "content": f"{system}\n\n{content}"}, *turns[1:]]

    def _find_place(self, examples: bool, skip: int) -> int:
        """Where the text of a plain prompt starts in its chat."""
        return max(self.render([{"role": "user", "content": MARK}], examples, skip).find(MARK), 0)

    def _find_last(self, messages: Sequence[Record], text: str, examples: bool, skip: int) -> tuple[int, int]:
        """The (start, end) of the last message in a rendered conversation; its end twice where the template changes
        the message."""
        nowhere = len(text), len(text)
        if not messages or not isinstance(inner := messages[-1].get("content"), str) or not inner.strip():
            return nowhere
        inner = inner.strip()
        try:
            marked = self._apply(self._complete([*messages[:-1], {**messages[-1], "content": MARK}], examples, skip))
        except Exception:  # templates raise errors of any kind
            return nowhere
        start = marked.find(MARK)
        return (start, start + len(inner)) if start >= 0 and text.startswith(inner, start) else nowhere


def check_chat_template(
    files: ModelFiles, spec: TaskSpec, records: Iterable[Record], trust_remote_code: bool = False
) -> None:
    """Refuse messages, and options that need a chat template, by the model's small files: before its weights are
    loaded. Raises ModelError where its tokenizer has no template."""
    needs = _options(spec)
    if not needs and spec.kind == "generation" and any("messages" in record for record in records):
        needs = [MESSAGES]
    if needs and files.head in HEADS and not has_chat_template(files, trust_remote_code):
        raise _no_template(files.source, needs[0])


def _options(spec: TaskSpec) -> list[str]:
    """The options that need a chat template."""
    options = ["--chat-template on"] if spec.chat_template == "on" else []
    options += ["--system"] if spec.system and spec.chat_template != "off" else []
    return options + (["--chat-arg"] if spec.chat_args else [])


def _no_template(source: str, needed_for: str) -> ModelError:
    instead = ", or columns `prompt` and `completion` instead of messages" if needed_for == MESSAGES else ""
    return ModelError(f"{source} has no chat template for {needed_for}", hint=f"an instruct model{instead}")


def settle_chat(loaded: LoadedModel, spec: TaskSpec, records: Sequence[Record]) -> tuple[TaskSpec, list[str]]:
    """The task with `chat_template` "on" or "off" for plain prompts, and notes for the user.

    "auto" is "on" for text generation where the tokenizer has a chat template, unless a task file gives the prompts or
    a prompt holds a control token of the template already; `--system` is "on" for every kind. records: those of all
    sets. Raises OptionError or ModelError where the model has no chat template that the options need.
    """
    chat = ChatTemplate(loaded, spec)
    conversational = [r for r in records if "messages" in r]
    options = _options(spec)
    if options and loaded.head not in HEADS:
        raise OptionError(f"{options[0]}: a model with the head {loaded.head!r} reads no chat", hint="--head causal")
    if options and not chat.exists:
        raise _no_template(loaded.source, options[0])
    chat.check_arguments()
    notes = []
    has_system = spec.system or any(m["role"] == "system" for r in conversational for m in r["messages"])
    if has_system and chat.exists and not chat.reads_system:
        notes.append("the chat template has no system role: the system message begins the first user message")
    if conversational and len(conversational) == len(records):
        return spec, notes  # messages always get the template
    state, reason = _choice(chat, spec, records)
    if chat.exists and reason:
        notes.insert(0, f"chat template: {state}, {reason}")
    if state == "off" and spec.chat_args and not conversational:
        raise OptionError("--chat-arg: plain prompts get no chat template here", hint="--chat-template on")
    if state == "off" and spec.system and spec.kind != "generation":
        notes.append("--system is not used: --chat-template off")
    return replace(spec, chat_template=state), notes


def _choice(chat: ChatTemplate, spec: TaskSpec, records: Sequence[Record]) -> tuple[Any, str]:
    """ "on" or "off", and the reason, empty where there was nothing to choose."""
    if spec.chat_template != "auto":
        return spec.chat_template, ""
    if spec.system:
        return "on", "for --system"
    if spec.kind != "generation" or not chat.exists:
        return "off", ""
    if spec.prompt_from_file:
        return "off", "the task file gives the prompts (--chat-template on)"
    texts = chat.control_texts()
    for prompt in _plain_prompts(spec, records):
        if found := next((t for t in texts if t in prompt), None):
            return "off", f"a prompt holds {found!r} already (--chat-template on)"
    return "on", "the tokenizer has one (--chat-template off)"


def _plain_prompts(spec: TaskSpec, records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        if "messages" not in record:
            yield spec.template.fill(record, spec.target, "", "drop").text


def chat_record(spec: TaskSpec) -> dict[str, Any]:
    """What the bits of a run depend on, as JSON values: empty where plain prompts get no chat template."""
    record: dict[str, Any] = {}
    if spec.chat_template == "on":
        record["chat_template"] = "on"
        if spec.kind != "generation" and spec.system:
            record["system"] = spec.system
    if spec.chat_args:
        record["chat_args"] = dict(spec.chat_args)
    if spec.demonstrations or spec.example_messages:
        record["demonstrations"] = {"text": spec.demonstrations, "messages": list(spec.example_messages)}
    if spec.calibration:
        record["calibration"] = spec.calibration.text
    return record


def example_messages(spec: TaskSpec, record: Record) -> list[Record]:
    """A record with its answer as messages: a demonstration in a chat."""
    if "messages" in record:
        return [m for m in record["messages"] if m["role"] != "system"]
    references = spec.references(record)
    filled = spec.template.fill(record, spec.target, "", "drop")
    question = filled.text[: filled.target[0]] if filled.target else filled.text
    answer = references[0] if references else ""
    return [{"role": "user", "content": question.strip()}, {"role": "assistant", "content": answer.strip()}]


__all__ = ["ChatTemplate", "chat_record", "example_messages", "settle_chat"]
