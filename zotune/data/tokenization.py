"""Tokenization: filled templates to token ids, shortened to a limit, and rows of ids to padded batches.

Prompt and answer are tokenized together and split by character offset: tokenized apart, the last token of the prompt
and the first of the answer could be other tokens. A text that is too long loses tokens of demonstrations first (the
oldest first), then of the column that the task names, then of the longest columns; the answer and the template's own
words stay. Of a chat nothing but the contents of messages is lost, and no control token.

Knows tokenizers; knows no task and no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from zotune.data.templates import SHOTS, FilledTemplate
from zotune.errors import OptionError
from zotune.models.configuration import config_value

EncodedT = TypeVar("EncodedT")


@dataclass(frozen=True)
class Encoding:
    """A tokenized text. ids: its tokens; target_positions: indices of the answer's tokens in `ids`; truncated: whether
    tokens were left out."""

    ids: tuple[int, ...]
    target_positions: tuple[int, ...]
    truncated: bool


CONTROL: Final = re.compile(r"<\|[^|<>]{1,40}\|>|\[/?[A-Z_]{2,20}\]|<</?[A-Z]+>>|</?[a-z]+_of_[a-z]+>")
"""Marks that chat templates write between messages, such as <|im_start|>, [INST] or <start_of_turn>."""
HEADER: Final = 4
"""Tokens that stay after a control token where a text with control tokens is shortened: the name of a role."""


class TooLongError(OptionError):
    """A text that is longer than the limit without anything that may be left out."""


def first_that_fits(
    candidates: Iterable[FilledTemplate], encode: Callable[[FilledTemplate], tuple[EncodedT, bool]]
) -> tuple[EncodedT, bool]:
    """The first of some texts that is encoded whole, else the last one, shortened; and whether anything was left out.

    encode: returns the encoded text and whether it was shortened. Raises TooLongError of the last one.
    """
    for place, candidate in enumerate(candidates):
        try:
            encoded, shortened = encode(candidate)
            error = None
        except TooLongError as failure:
            error = failure
            continue
        if not shortened:
            return encoded, place > 0
    if error is not None:
        raise error
    return encoded, True


class PromptTokenizer:
    """A tokenizer with a limit.

    limit: tokens of a text at most; cut: the column that is shortened first; pad: the id of padding; typed: whether
    batches have token_type_ids; vocabulary: embeddings of the model, None where they are not counted; at_model_limit:
    whether the model reads no longer texts.
    """

    def __init__(self, tokenizer: Any, limit: int, cut: str | None = None) -> None:
        self.tokenizer, self.limit, self.cut = tokenizer, limit, cut
        self.pad = tokenizer.pad_token_id or 0
        self.typed = "token_type_ids" in config_value(tokenizer, "model_input_names", ())
        self.vocabulary: int | None = None
        self.at_model_limit = False
        added = config_value(tokenizer, "added_tokens_decoder") or {}
        self._special = {i for i, token in added.items() if config_value(token, "special", False)}
        self._special -= {tokenizer.unk_token_id}

    def encode(
        self, filled: FilledTemplate, special: bool = True, limit: int | None = None, tail: bool = True
    ) -> Encoding:
        """The tokens of a text.

        special: add the tokenizer's special tokens; limit: instead of the tokenizer's own; tail: keep the tokens after
        the answer, or, in a text without an answer, the special tokens after the text. Raises OptionError for a token
        beyond the vocabulary, for an answer without tokens, and for one that is longer than the limit.
        """
        limit = self.limit if limit is None else limit
        ids, offsets = self._with_offsets(filled, special)
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            highest = max(ids)
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise OptionError(
                f"the tokenizer's token {token!r} has the id {highest}, and the model has {self.vocabulary} embeddings",
                hint="is the tokenizer another model's?",
            )
        positions = _overlapping(offsets, filled.target) if filled.target else []
        if filled.target and not positions:
            answer = filled.text[slice(*filled.target)]
            raise OptionError(f"the answer {answer!r} has no token after {filled.text[: filled.target[0]][-20:]!r}")
        if not tail:
            end = max(positions or [i for i, (a, b) in enumerate(offsets) if b > a], default=len(ids) - 1) + 1
            ids, offsets = ids[:end], offsets[:end]
        excess = len(ids) - limit
        if excess <= 0:
            return Encoding(tuple(ids), tuple(positions), False)
        end = filled.target[0] if filled.target else len(filled.text)
        continued_at = filled.content[1] if filled.content else None if tail else end
        control, marks = self._control_tokens(filled.text, ids, offsets)
        if marks and filled.content is None and not tail:
            dropped = _inside_of_turns(offsets, set(positions), control, excess)
        else:
            dropped = self._to_drop(filled, offsets, set(positions) | control, excess, continued_at)
        if len(dropped) < excess:
            text = filled.text[slice(*filled.target)] if filled.target else filled.text
            raise self.too_long(text, limit)
        kept = [i for i in range(len(ids)) if i not in dropped]
        new_position = {old: new for new, old in enumerate(kept)}
        return Encoding(tuple(ids[i] for i in kept), tuple(new_position[i] for i in positions), True)

    def too_long(self, text: str, limit: int | None = None) -> TooLongError:
        """The error for a text that does not fit. limit: tokens that it may have, where that is less than `self.limit`
        because new tokens need the others."""
        new = self.limit - (self.limit if limit is None else limit)
        room = f"the {self.limit} tokens that the model reads" if self.at_model_limit else f"--max-length {self.limit}"
        remedy = "a shorter text" if self.at_model_limit else "a larger --max-length"
        return TooLongError(
            f"{text[:60]!r} alone is longer than {room}{f' without {new} for new tokens' if new else ''}",
            hint=f"{remedy}, or a smaller --max-new-tokens" if new else remedy,
        )

    def _control_tokens(
        self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
    ) -> tuple[set[int], bool]:
        """Indices of the control tokens that stand in a text itself, and whether some separate the turns of a chat:
        begin and end tokens may stand in any text."""
        control = {i for i, token in enumerate(ids) if token in self._special and offsets[i][1] > offsets[i][0]}
        marks = {i for match in CONTROL.finditer(text) for i in _overlapping(offsets, match.span())}
        ends = {self.tokenizer.bos_token_id, self.tokenizer.eos_token_id}
        return control | marks, bool(marks) or any(ids[i] not in ends for i in control)

    def _with_offsets(self, filled: FilledTemplate, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the (start, end) of each in the text; (0, 0) for special tokens."""
        text, pair, tokenizer = filled.text, filled.pair, self.tokenizer
        texts = (text,) if pair is None else (text[:pair].rstrip(), text[pair:])
        if not config_value(tokenizer, "is_fast", False):
            return self._with_estimated_offsets(texts, filled.target, special)
        encoded = tokenizer(*texts, return_offsets_mapping=True, add_special_tokens=special, verbose=False)
        shift = [0, 0 if pair is None else pair]
        offsets = [
            (0, 0) if part is None else (a + shift[part], b + shift[part])
            for part, (a, b) in zip(encoded.sequence_ids(0), encoded["offset_mapping"], strict=True)
        ]
        return self._with_one_begin(list(encoded["input_ids"]), offsets)

    def _with_one_begin(
        self, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens without a begin token that the text itself has, where the tokenizer added one before it."""
        added = len(ids) > 1 and offsets[0] == (0, 0) and offsets[1][1] > offsets[1][0]
        if added and ids[0] == ids[1] and ids[0] in self.tokenizer.all_special_ids:
            return [ids[0], *ids[2:]], [offsets[0], *offsets[2:]]
        return ids, offsets

    def _with_estimated_offsets(
        self, texts: Sequence[str], target: tuple[int, int] | None, special: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The same for a slow tokenizer, which has no offsets. The prompt's tokens are those that also begin the prompt
        tokenized alone; columns are not told apart."""
        ids, bare = (list(self.tokenizer(*texts, add_special_tokens=s)["input_ids"]) for s in (special, False))
        if len(ids) > 1 and ids[0] == ids[1] == bare[0] and ids[0] in self.tokenizer.all_special_ids:
            ids = ids[1:]  # the text has a begin token of its own
        first = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), None)
        if first is None or target is None:  # special tokens stand between the texts of a pair
            return ids, [(0, 0) if i in self.tokenizer.all_special_ids else (0, 1) for i in ids]
        prompt = self.tokenizer("".join(texts)[: target[0]], add_special_tokens=False)["input_ids"]
        shared = next((i for i, (a, b) in enumerate(zip(bare, prompt, strict=False)) if a != b), len(prompt))
        offsets = [(0, 1)] * shared + [target] * (len(bare) - shared)
        return ids, [(0, 0)] * first + offsets + [(0, 0)] * (len(ids) - first - len(bare))

    def _to_drop(
        self,
        filled: FilledTemplate,
        offsets: Sequence[tuple[int, int]],
        kept: set[int],
        excess: int,
        continued_at: int | None,
    ) -> set[int]:
        """Indices of `excess` tokens to leave out, fewer where there are not as many.

        kept: tokens that stay, such as the answer's; continued_at: the position where an answer follows. A column that
        ends there, such as a prompt that is the whole text, loses its beginning, as demonstrations do; the others lose
        their end.
        """
        by_column = {
            name: [i for i in _overlapping(offsets, span) if i not in kept and offsets[i][0] >= span[0]]
            for name, span in filled.spans.items()
            if span[1] > span[0]
        }
        dropped: set[int] = set()
        for name in sorted(by_column, key=lambda n: (n != SHOTS, n != self.cut, -len(by_column[n]))):
            from_start = name == SHOTS or filled.spans[name][1] == continued_at
            tokens = by_column[name] if from_start else by_column[name][::-1]
            dropped |= set(tokens[: excess - len(dropped)])
        if len(dropped) < excess and filled.content is None:  # then text of no column, from the beginning
            rest = [i for i, (a, b) in enumerate(offsets) if b > a and i not in kept and i not in dropped]
            dropped |= set(rest[: excess - len(dropped)])
        return dropped

    def pad_right(self, rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """A batch of token ids: `input_ids` and `attention_mask` (rows, longest row), and `token_type_ids` where the
        model was trained with them."""
        ids, mask = self._padded(rows, left=False)
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.typed:
            batch["token_type_ids"] = self._token_types(ids) * mask
        return _to_device(batch, device)

    def pad_left(self, rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """A batch for generation, which continues at the right end: `input_ids` and `attention_mask`."""
        ids, mask = self._padded(rows, left=True)
        return _to_device({"input_ids": ids, "attention_mask": mask}, device)

    def _padded(self, rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Ids and mask, built by numpy, which reads tuples several times as fast as torch."""
        width = max(map(len, rows))
        gaps = [width - len(row) for row in rows]
        full = [(*[self.pad] * g, *row) if left else (*row, *[self.pad] * g) for row, g in zip(rows, gaps, strict=True)]
        positions, gap = np.arange(width), np.array(gaps)[:, None]
        mask = positions >= gap if left else positions < width - gap
        return torch.from_numpy(np.array(full, dtype=np.int64)), torch.from_numpy(mask.astype(np.int64))

    def _token_types(self, ids: Tensor) -> Tensor:
        """1 for tokens of the second text of a pair: those after the first separator, where there is a second one."""
        separator = ids == (self.tokenizer.sep_token_id if self.tokenizer.sep_token_id is not None else -1)
        before = separator.long().cumsum(1) - separator.long()
        return ((before == 1) & (separator.sum(1, keepdim=True) > 1)).long()


def _inside_of_turns(offsets: Sequence[tuple[int, int]], answer: set[int], control: set[int], excess: int) -> set[int]:
    """Indices of `excess` tokens to leave out of a text that holds control tokens itself, fewer where there are not as
    many: from the middle of its longest stretches without any, so that every turn keeps its beginning and its end."""
    stretches: list[list[int]] = [[]]
    for i, (a, b) in enumerate(offsets):
        if i in control or i in answer:
            stretches.append([])
        elif b > a:
            stretches[-1].append(i)
    dropped: set[int] = set()
    for stretch in sorted(stretches, key=len, reverse=True):
        inner = stretch[HEADER:-1]
        count = min(excess - len(dropped), len(inner))
        start = (len(inner) - count) // 2
        dropped |= set(inner[start : start + count])
    return dropped


def _overlapping(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    """Indices of the tokens that share a character with the span."""
    start, end = span
    return [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]


def _to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device; a GPU copies it while it computes."""
    if device.type == "cuda":
        return {name: x.pin_memory().to(device, non_blocking=True) for name, x in batch.items()}
    return {name: x.to(device) for name, x in batch.items()}


__all__ = ["CONTROL", "Encoding", "PromptTokenizer", "TooLongError", "first_that_fits"]
