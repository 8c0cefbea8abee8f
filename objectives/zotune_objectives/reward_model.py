"""A reward model as the objective: `-o reward-model:./my-reward-model`, a folder or hub id; larger is better.

Any model with a classification head (…ForSequenceClassification) works. A model with one label scores by its logit. A
model with several labels scores by the probability of `reward_label`: under the softmax of all labels, or by the
label's sigmoid if the model was trained with several labels per row.

If the model's tokenizer has a chat template, prompt and completion are read as a user's and an assistant's turn, or as
the next turn of a row's `messages`. Otherwise they are read as one text, or with pair=true as a pair. A row that is too
long loses the beginning of its prompt; the completion stays.

The model is loaded at the first call, in addition to the tuned model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import zotune
from zotune.errors import ObjectiveError, OptionError, OutOfMemory, nearest
from zotune.types import ObjectiveInfo, RunContext
from zotune_objectives.scorer_calls import Tally, check_positive
from zotune_objectives.scorer_replies import shorten
from zotune_objectives.scorer_rows import as_text

if TYPE_CHECKING:
    from zotune.tasks.text_classifier import Text, TextClassifier

Message = Mapping[str, Any]


@zotune.objective(call_options=("batch_size",))
@dataclass(frozen=True, eq=False)
class RewardModel:
    model: str  # folder or hub id of a model with a classification head
    reward_label: str | None = None  # label whose probability is the score: its name or index
    template: Literal["auto", "chat", "text"] = "auto"  # chat template: if there is one, always, never
    pair: bool = False  # whether prompt and completion are a pair of texts, for encoders trained on pairs
    batch_size: int = 16  # rows in a forward pass
    max_length: int | None = None  # tokens in a row at most; default: as many as the model takes
    device: str = "auto"  # device of the model: auto, cpu, cuda, cuda:1, …
    dtype: str = "auto"  # auto, float32, bfloat16 or float16

    tally: Tally = field(default_factory=Tally, init=False, repr=False)
    _classifier: TextClassifier = field(init=False, repr=False)
    _label: int | None = field(init=False, repr=False)
    _early_messages: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        from zotune.tasks.text_classifier import TextClassifier

        check_positive("reward-model", {"batch_size": self.batch_size, "max_length": self.max_length or 1})
        if self.pair and self.template == "chat":
            raise OptionError("reward-model: template=chat and pair=true exclude each other", hint="set one of them")
        classifier = TextClassifier(
            self.model,
            name="reward-model",
            device=self.device,
            dtype=self.dtype,
            max_length=self.max_length,
            batch_size=self.batch_size,
            pairs=self.pair,
            message=self._early_messages.append,
            on_pass=lambda: self.tally.add("calls"),
        )
        object.__setattr__(self, "_classifier", classifier)
        object.__setattr__(self, "_label", self._label_index(classifier.labels))

    def _label_index(self, labels: Sequence[str]) -> int | None:
        """The index of the label that is the score; None if the model has one label. Raises OptionError."""
        name = None if self.reward_label is None else str(self.reward_label)
        index = labels.index(name) if name in labels else int(name) if name and name.isdigit() else None
        if name is not None and (index is None or index >= len(labels)):
            raise OptionError(f"reward-model {self.model!r} has no label {name!r}", hint=nearest(name, labels))
        if index is None and len(labels) > 1:
            raise OptionError(
                f"reward-model {self.model!r} has {len(labels)} labels: {shorten(', '.join(labels))}",
                hint=f"reward_label={labels[-1]} scores by the probability of that label",
            )
        return index if len(labels) > 1 else None

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo(
            level="sample",
            cacheable=True,
            fast=False,
            start=self._start,
            faults=lambda: dict(self.tally),
            close=self.close,
        )

    def _start(self, run: RunContext) -> None:
        """Show messages to the user of the run, those of earlier calls first."""
        self._classifier.message = run.message
        for text in self._early_messages:
            run.message(text)
        self._early_messages.clear()

    def close(self) -> None:
        """Free the memory of the model; a later call loads it again."""
        self._classifier.close()

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any], messages: Sequence[Any] | None = None
    ) -> list[float]:
        """One score for each row. Raises ObjectiveError.

        messages: conversations before the completion; one that ends with an assistant's turn, the reference, is used
        without that turn.
        """
        histories = [None] * len(completions) if messages is None else messages
        rows = [self._tokens(*row) for row in zip(prompts, completions, histories, strict=True)]
        try:
            return self._classifier.scores(rows, self._label)
        except OutOfMemory as error:
            reason = str(error.args[0])
            raise ObjectiveError(
                f"reward-model {self.model!r}: {reason}", hint="set a smaller max_length, or dtype=bfloat16"
            ) from None

    def _tokens(self, prompt: Any, completion: Any, history: Any) -> tuple[int, ...]:
        """The token ids of a row."""
        ids = self._classifier.encode(self._text(prompt, completion, history))
        if not ids:
            raise ObjectiveError(f"reward-model {self.model!r}: prompt and completion of a row are empty")
        return ids

    def _text(self, prompt: Any, completion: Any, history: Any) -> Text:
        """What the model reads of a row; the part before the completion may be shortened."""
        from zotune.tasks.text_classifier import Text

        has_template = bool(self._classifier.tokenizer.chat_template)
        if self.template == "chat" or (self.template == "auto" and has_template and not self.pair):
            return self._conversation([*_turns_before(prompt, history), *_completion_turns(completion)])
        first, second = as_text(prompt), as_text(completion)
        return Text(first + second, (0, len(first)), len(first) if self.pair else None)

    def _conversation(self, turns: Sequence[Message]) -> Text:
        """A conversation in the chat template; the turns before the last may be shortened."""
        from zotune.tasks.text_classifier import Text

        try:
            text: str = self._classifier.tokenizer.apply_chat_template(list(turns), tokenize=False)
        except Exception as error:  # a template may raise any error
            reason = shorten(str(error).partition("\n")[0])
            raise ObjectiveError(f"reward-model {self.model!r}: its chat template refuses a row: {reason}") from None
        spans = list(_spans(text, [str(t["content"]).strip() for t in turns[:-1]]))
        return Text(text, (spans[0][0], spans[-1][1]) if spans else None, special_tokens=False)


def _turns_before(prompt: Any, history: Any) -> list[Message]:
    """The turns before the completion."""
    if history:
        return list(history[:-1] if history[-1]["role"] == "assistant" else history)
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _completion_turns(completion: Any) -> list[Message]:
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)


def _spans(text: str, parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(start, end) of those parts that occur in the text one after the other."""
    position = 0
    for part in parts:
        start = text.find(part, position)
        if part and start >= 0:
            position = start + len(part)
            yield start, position
