"""Tokenizes filled templates: prompt and answer together, split by character offset, shortened to a limit.

Tokenised apart, the last token of a prompt and the first of an answer can be others than together; so they never are.
Shortening takes tokens of demonstrations first (the oldest), then of the column that the task names, then of the
longest ones: an answer, a question, and the template's own words stay.

Knows tokenizers; knows no task and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zotune.data.templates import SHOTS, FilledTemplate
from zotune.errors import OptionError
from zotune.models.configuration import config_value


@dataclass(frozen=True)
class Encoding:
    """Token ids; places: where the target's tokens are; cut: whether text was left out."""

    ids: tuple[int, ...]
    target_positions: tuple[int, ...]
    truncated: bool


class PromptTokenizer:
    """A tokenizer with a limit. cut: the column that is shortened first."""

    def __init__(self, tokenizer: Any, limit: int, cut: str | None = None) -> None:
        self.tokenizer, self.limit, self.cut = tokenizer, limit, cut
        self.pad = tokenizer.pad_token_id or 0
        self.typed = "token_type_ids" in config_value(tokenizer, "model_input_names", ())

    def encode(
        self, filled: FilledTemplate, special: bool = True, limit: int | None = None, tail: bool = True
    ) -> Encoding:
        """Tokens of a text, and which of them are its target's. tail: whether what follows the target is kept; without
        a target, the end tokens after the text. Raises OptionError for a target without tokens, or longer than the
        limit."""
        limit = self.limit if limit is None else limit
        ids, offsets = self._offsets(filled, special)
        places = self._inside(offsets, filled.target) if filled.target else []
        if filled.target and not places:
            said = filled.text[slice(*filled.target)]
            raise OptionError(f"{said!r} has no token after {filled.text[: filled.target[0]][-20:]!r}")
        if not tail:
            end = max(places or [i for i, (a, b) in enumerate(offsets) if b > a], default=len(ids) - 1) + 1
            ids, offsets = ids[:end], offsets[:end]
        over = len(ids) - limit
        if over <= 0:
            return Encoding(tuple(ids), tuple(places), False)
        end = filled.target[0] if filled.target else len(filled.text)
        gone = self._left_out(filled, offsets, set(places), over, None if tail else end)
        if len(gone) < over:
            said = filled.text[slice(*filled.target)] if filled.target else filled.text
            raise OptionError(f"{said[:60]!r} alone is longer than --max-length {limit}")
        kept = [i for i in range(len(ids)) if i not in gone]
        where = {old: new for new, old in enumerate(kept)}
        return Encoding(tuple(ids[i] for i in kept), tuple(where[i] for i in places), True)

    def _offsets(self, filled: FilledTemplate, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the (start, end) of each in the text; (0, 0) for special ones."""
        text, p, tokenizer = filled.text, filled.pair, self.tokenizer
        both = (text,) if p is None else (text[:p].rstrip(), text[p:])
        if config_value(tokenizer, "is_fast", False):
            coded = tokenizer(*both, return_offsets_mapping=True, add_special_tokens=special, verbose=False)
            shift = [0, 0 if p is None else p]
            parts = coded.sequence_ids(0)
            offsets = [
                (0, 0) if part is None else (a + shift[part], b + shift[part])
                for part, (a, b) in zip(parts, coded["offset_mapping"], strict=True)
            ]
            return list(coded["input_ids"]), offsets
        return self._guessed(both, filled.target, special)

    def _guessed(
        self, both: Sequence[str], target: tuple[int, int] | None, special: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The same for a tokenizer that tells no offsets: the prompt is what it has in common with itself alone, and
        nothing tells columns apart."""
        ids, bare = (list(self.tokenizer(*both, add_special_tokens=s)["input_ids"]) for s in (special, False))
        first = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), None)
        if first is None or target is None:  # special tokens within a pair
            return ids, [(0, 0) if i in self.tokenizer.all_special_ids else (0, 1) for i in ids]
        alone = self.tokenizer("".join(both)[: target[0]], add_special_tokens=False)["input_ids"]
        same = next((i for i, (a, b) in enumerate(zip(bare, alone, strict=False)) if a != b), len(alone))
        offsets = [(0, 1)] * same + [target] * (len(bare) - same)
        return ids, [(0, 0)] * first + offsets + [(0, 0)] * (len(ids) - first - len(bare))

    @staticmethod
    def _inside(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
        """Tokens that share a character with the span."""
        start, end = span
        return [i for i, (a, b) in enumerate(offsets) if b > a and b > start and a < end]

    def _left_out(
        self,
        filled: FilledTemplate,
        offsets: Sequence[tuple[int, int]],
        kept: set[int],
        over: int,
        going_on: int | None,
    ) -> set[int]:
        """Tokens to leave out. going_on: where the answer follows; a column that ends right there, such as a prompt
        that is all the text, loses its beginning, as demonstrations do; others lose their end."""
        found = {
            name: [i for i in self._inside(offsets, span) if i not in kept and offsets[i][0] >= span[0]]
            for name, span in filled.spans.items()
            if span[1] > span[0]
        }
        order = sorted(found, key=lambda n: (n != SHOTS, n != self.cut, -len(found[n])))
        gone: set[int] = set()
        for name in order:
            early = name == SHOTS or filled.spans[name][1] == going_on
            some = found[name] if early else found[name][::-1]
            gone |= set(some[: over - len(gone)])
        if len(gone) < over:  # text of no column, from the beginning
            rest = [i for i, (a, b) in enumerate(offsets) if b > a and i not in kept and i not in gone]
            gone |= set(rest[: over - len(gone)])
        return gone

    # -- batches -------------------------------------------------------------------------------------------------------

    def pad_right(self, rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """input_ids, attention_mask, and token_type_ids where the model was trained with them."""
        ids, mask = self._padded(rows, left=False)
        out = {"input_ids": ids, "attention_mask": mask}
        if self.typed:
            out["token_type_ids"] = self._types(ids) * mask
        return _sent(out, device)

    def pad_left(self, rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        """The same for generation, which goes on at the right end."""
        ids, mask = self._padded(rows, left=True)
        return _sent({"input_ids": ids, "attention_mask": mask}, device)

    def _padded(self, rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Ids and mask; by numpy, which reads tuples several times as fast as torch."""
        width = max(map(len, rows))
        gaps = [width - len(row) for row in rows]
        full = [(*[self.pad] * g, *row) if left else (*row, *[self.pad] * g) for row, g in zip(rows, gaps, strict=True)]
        places, gap = np.arange(width), np.array(gaps)[:, None]
        mask = places >= gap if left else places < width - gap
        return torch.from_numpy(np.array(full, dtype=np.int64)), torch.from_numpy(mask.astype(np.int64))

    def _types(self, ids: Tensor) -> Tensor:
        """1 for the second text of a pair: what comes after the first separator, where there is another."""
        mark = ids == (self.tokenizer.sep_token_id if self.tokenizer.sep_token_id is not None else -1)
        seen = mark.long().cumsum(1) - mark.long()
        return ((seen == 1) & (mark.sum(1, keepdim=True) > 1)).long()


def _sent(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """On the device; a GPU fetches them while it works."""
    if device.type == "cuda":
        return {name: x.pin_memory().to(device, non_blocking=True) for name, x in inputs.items()}
    return {name: x.to(device) for name, x in inputs.items()}


__all__ = ["Encoding", "PromptTokenizer"]
