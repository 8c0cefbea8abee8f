"""A reward model as the objective: `-o reward-model:./my-reward-model`, a folder or hub id.

Any model with a classification head (…ForSequenceClassification). Of one label the logit is the score; of several the
probability of `reward_label`: under the softmax of all, or by itself where the model was trained on several labels a
row. Larger is better.

It reads prompt and completion in its own chat template where its tokenizer has one, as a user's and an assistant's
turn, or as the next turn of a row's `messages`; else as one text, or with pair=true as two. Where a row is too long,
what was said first goes first: the completion stays. Rows are padded on the right, and the score of a row does not
depend on the rows beside it, up to rounding. A decoder's score is read at the last token; where its saved
configuration names a padding token, at the last that is none, as transformers does.

It is loaded when it is first asked, beside the model that is tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import zotune
from zotune.errors import ModelError, ObjectiveError, OptionError, OutOfMemory, nearest
from zotune.types import ObjectiveInfo, RunContext
from zotune_objectives import calls

NO_LIMIT = 10**6
"""Tokens a row where nothing says less."""


@zotune.objective(call_options=("batch_size",))
@dataclass(frozen=True, eq=False)
class RewardModel:
    model: str  # folder or hub id of a model with a classification head
    reward_label: str | None = None  # the label whose probability is the score, or its number
    template: Literal["auto", "chat", "text"] = "auto"  # chat template where there is one, always, or never
    pair: bool = False  # prompt and completion as a pair of texts, for encoders trained on pairs
    batch_size: int = 16  # rows a forward pass
    max_length: int | None = None  # tokens a row, where the model takes more
    device: str = "auto"  # where it runs: auto, cpu, cuda, cuda:1, …
    dtype: str = "auto"  # auto, float32, bfloat16 or float16

    tally: calls.Tally = field(default_factory=calls.Tally, init=False, repr=False)
    _label: int | None = field(init=False, repr=False)
    _alone: bool = field(init=False, repr=False)
    _padded: bool = field(init=False, repr=False)
    _found: Any = field(init=False, repr=False)
    _made: list[Any] = field(default_factory=list, init=False, repr=False)
    _message: Callable[[str], None] | None = field(default=None, init=False, repr=False)
    _notes: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        from zotune.models import loading
        from zotune.models.model_files import find_model, saved_config

        calls.check("reward-model", {"batch_size": self.batch_size, "max_length": self.max_length or 1})
        if self.pair and self.template == "chat":
            raise OptionError("reward-model: a chat template and pair=true exclude each other")
        if self.dtype not in ("auto", *loading.DTYPES):
            raise OptionError(f"reward-model: dtype must be auto, {', '.join(loading.DTYPES)}, got {self.dtype!r}")
        try:
            loading.pick_device(self.device)
            found = find_model(self.model)
            config = saved_config(found)
        except ModelError as error:
            raise ModelError(_named(error)) from None
        if found.adapter is not None:
            raise ModelError(f"reward-model {self.model!r} is an adapter", hint="merge it into its base model first")
        if found.head != "classification":
            raise ModelError(
                f"reward-model {self.model!r} has the head {found.head!r}",
                hint="a reward model ends in classes, or in one",
            )
        inner = config.get("text_config") or {}
        pad = config.get("pad_token_id", inner.get("pad_token_id"))
        for name, value in {
            "_found": found,
            "_label": self._chosen(config),
            "_alone": config.get("problem_type") == "multi_label_classification",
            "_padded": pad is not None,
        }.items():
            object.__setattr__(self, name, value)

    def _chosen(self, config: Mapping[str, Any]) -> int | None:
        """The number of the label that counts; None where there is only one. Raises OptionError."""
        names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers leaves unsaid
        known = [str(names[k]) for k in sorted(names, key=int)]
        said = None if self.reward_label is None else str(self.reward_label)
        index = known.index(said) if said in known else int(said) if said and said.isdigit() else None
        if said is not None and (index is None or index >= len(known)):
            raise OptionError(f"reward-model {self.model!r} has no label {said!r}", hint=nearest(said, known))
        if index is None and len(known) > 1:
            raise OptionError(
                f"reward-model {self.model!r} has {len(known)} labels: {calls.shown(', '.join(known))}",
                hint=f"reward_label={known[-1]} scores by the probability of that one",
            )
        return index if len(known) > 1 else None

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any], messages: Sequence[Any] | None = None
    ) -> list[float]:
        """One score a row. messages: conversations up to the answer, or with the right one. Raises ObjectiveError."""
        import torch

        forward = self._forward()
        turns = [None] * len(completions) if messages is None else messages
        rows = [self._tokens(forward, *row) for row in zip(prompts, completions, turns, strict=True)]
        out = [0.0] * len(rows)

        def compute() -> None:
            for places in forward.chunks([len(r) for r in rows]):
                for k, score in zip(places, self._scores(forward, [rows[k] for k in places]), strict=True):
                    out[k] = score

        try:
            with torch.no_grad():
                forward.fitting(compute)
        except OutOfMemory as error:
            reason = str(error.args[0])
            raise ObjectiveError(f"reward-model {self.model!r}: {reason}", hint="max_length or dtype less") from None
        return out

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
        object.__setattr__(self, "_message", run.message)
        for text in self._notes:
            run.message(text)
        self._notes.clear()

    def _tell(self, text: str) -> None:
        if self._message is None:
            self._notes.append(text)
        else:
            self._message(text)

    def close(self) -> None:
        """Free its memory; a later call loads it again."""
        self._made.clear()

    def _forward(self) -> Any:
        """The model, loaded once."""
        if not self._made:
            from zotune.data.task import TaskSpec
            from zotune.data.templates import Template
            from zotune.models import loading
            from zotune.tasks.forward import Forward

            found, device, dtype = self._found, self.device, self.dtype
            try:
                loaded = loading.load(
                    found.source, found.folder, found.head, device=device, dtype=dtype, require_all_weights=True
                )
            except ModelError as error:
                raise ModelError(_named(error)) from None
            spec = TaskSpec("classification", Template("{text}"))
            forward = Forward(loaded, spec, self.max_length or NO_LIMIT, self.batch_size, "reward-model: batch_size")
            forward.tell = self._tell
            forward.coder.typed = forward.coder.typed and self.pair  # a chat template's separators part no pair
            self._made.append(forward)
        return self._made[0]

    # -- text ----------------------------------------------------------------------------------------------------------

    def _tokens(self, forward: Any, prompt: Any, completion: Any, messages: Any) -> tuple[int, ...]:
        from zotune.data.templates import SHOTS, FilledTemplate

        chat = bool(forward.loaded.tokenizer.chat_template)
        if self.template == "chat" or (self.template == "auto" and chat and not self.pair):
            filled = self._conversation(forward.loaded.tokenizer, [*_before(prompt, messages), *_said(completion)])
            found = forward.coder.encode(filled, special=False)
        else:
            first, second = calls.as_text(prompt), calls.as_text(completion)
            parted = len(first) if self.pair else None
            found = forward.coder.encode(FilledTemplate(first + second, {SHOTS: (0, len(first))}, None, parted))
        if not found.ids:
            raise ObjectiveError(f"reward-model {self.model!r}: nothing to read in an empty prompt and completion")
        ids: tuple[int, ...] = found.ids
        return ids

    def _conversation(self, tokenizer: Any, turns: Sequence[Mapping[str, Any]]) -> Any:
        """A conversation in the chat template; what was said before its last turn may be shortened."""
        from zotune.data.templates import SHOTS, FilledTemplate

        try:
            text: str = tokenizer.apply_chat_template(list(turns), tokenize=False)
        except Exception as error:  # templates raise errors of their own
            reason = calls.shown(str(error).partition("\n")[0])
            raise ObjectiveError(f"reward-model {self.model!r}: its chat template refuses a row: {reason}") from None
        spans = list(_places(text, [str(t["content"]).strip() for t in turns[:-1]]))
        return FilledTemplate(text, {SHOTS: (spans[0][0], spans[-1][1])} if spans else {})

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _scores(self, forward: Any, rows: Sequence[Sequence[int]]) -> list[float]:
        if not self._padded:  # the last token counts whichever it is, so padding must be another
            last = {row[-1] for row in rows}
            forward.loaded.config.pad_token_id = forward.coder.pad = next(
                i for i in range(len(last) + 1) if i not in last
            )
        self.tally.add("calls")
        logits = forward.run(rows).logits.float().cpu()
        if self._label is None:
            logits = logits.reshape(len(rows))
        else:
            chances = logits.sigmoid() if self._alone else logits.softmax(-1)
            logits = chances[:, self._label]
        found: list[float] = logits.tolist()
        return found


def _named(error: ModelError) -> str:
    """What is wrong, with this objective's names instead of the flags of the model that is tuned."""
    return str(error).replace("--model", "reward-model", 1).replace("--device", "reward-model: device", 1)


def _before(prompt: Any, messages: Any) -> list[Mapping[str, Any]]:
    """The turns before a completion."""
    if messages:
        return list(messages[:-1] if messages[-1]["role"] == "assistant" else messages)
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _said(completion: Any) -> list[Mapping[str, Any]]:
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)


def _places(text: str, parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where parts stand in a text, one after the other, as far as they are found."""
    at = 0
    for part in parts:
        start = text.find(part, at)
        if part and start >= 0:
            at = start + len(part)
            yield start, at
