"""Log-probabilities of given answers under a language model, by teacher forcing.

A causal model predicts the answer after the prompt, a masked model at masks in its place, and the decoder of a
sequence-to-sequence model predicts the whole answer. Knows models and tokens; knows no records and no objective.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from zotune.data.templates import FilledTemplate
from zotune.errors import OptionError
from zotune.tasks.forward import Forward, retries_smaller
from zotune.tasks.frozen_prefix import Tokens

T = TypeVar("T")


class EncodedAnswer(NamedTuple):
    """A prompt with an answer, as token ids.

    ids: what the model reads, or the encoder of a sequence-to-sequence model; decoder_ids: what its decoder reads, else
    empty; positions: where the logits predict the answer; targets: the answer's ids, one a position.
    """

    ids: Tokens
    decoder_ids: Tokens
    positions: Tokens
    targets: Tokens


class TeacherForcing:
    """Encodes and scores answers with the model of a forward pass."""

    def __init__(self, forward: Forward) -> None:
        self.forward, self.loaded = forward, forward.loaded
        self._selects_logits = self.loaded.accepts("logits_to_keep")

    def encode(
        self, filled: FilledTemplate, demonstrations: str = "", special: bool = True
    ) -> tuple[EncodedAnswer, bool]:
        """A filled template as token ids, and whether it was truncated.

        filled: the text; its target is the answer. demonstrations: text before it; special: whether the tokenizer adds
        its special tokens. Raises OptionError for an answer without tokens, without a token before it or without room.
        """
        if self.loaded.head == "seq2seq":
            return self._encode_seq2seq(filled, demonstrations)
        whole = filled.prepend(demonstrations) if demonstrations else filled
        return self._encode_masked(whole) if self.loaded.head == "masked" else self._encode_causal(whole, special)

    def _encode_causal(self, filled: FilledTemplate, special: bool) -> tuple[EncodedAnswer, bool]:
        """Position i predicts token i + 1, so the last token of the answer is not read."""
        encoding = self.forward.tokenizer.encode(filled, special, tail=False)
        ids, positions = encoding.ids, encoding.target_positions
        first, last = max(positions[0], 1), positions[-1]
        if first > last:
            answer = filled.text[slice(*filled.target)] if filled.target else filled.text
            raise OptionError(f"{answer!r:.60} has nothing before it: a causal model predicts from what came before")
        answer_ids = ids[first : last + 1]
        return EncodedAnswer(ids[:last], (), tuple(range(first - 1, last)), answer_ids), encoding.truncated

    def _encode_masked(self, filled: FilledTemplate) -> tuple[EncodedAnswer, bool]:
        """Masks stand in the place of the answer."""
        encoding = self.forward.tokenizer.encode(filled)
        ids, positions = list(encoding.ids), encoding.target_positions
        targets = tuple(ids[i] for i in positions)
        for i in positions:
            ids[i] = self.loaded.tokenizer.mask_token_id
        return EncodedAnswer(tuple(ids), (), positions, targets), encoding.truncated

    def _encode_seq2seq(self, filled: FilledTemplate, demonstrations: str) -> tuple[EncodedAnswer, bool]:
        """The encoder reads the prompt; the decoder reads the answer after the ids that generation starts from."""
        start, end = filled.target or (len(filled.text), len(filled.text))
        prompt = filled.truncate(len(filled.text[:start].rstrip()))
        encoding = self.forward.tokenizer.encode(prompt.prepend(demonstrations) if demonstrations else prompt)
        answer = filled.text[start:end]
        targets = tuple(self.loaded.tokenizer(text_target=answer, add_special_tokens=False)["input_ids"])
        if not targets:
            raise OptionError(f"the answer {answer!r} has no token")
        limit = self.forward.max_length
        if len(self.loaded.decoder_start_ids) + len(targets) - 1 > limit:
            raise self.forward.tokenizer.too_long(answer)
        return self.decoded(encoding.ids, targets), encoding.truncated

    def decoded(self, ids: Tokens, targets: Tokens) -> EncodedAnswer:
        """An answer that the decoder of a sequence-to-sequence model predicts after the encoder has read `ids`."""
        begin = self.loaded.decoder_start_ids
        first = len(begin) - 1
        return EncodedAnswer(ids, begin + targets[:-1], tuple(range(first, first + len(targets))), targets)

    @retries_smaller
    @torch.no_grad()
    def log_probabilities(self, answers: Sequence[EncodedAnswer]) -> list[float]:
        """Σ log p of each answer's tokens, in nats. Answers that read the same ids share one row of a forward pass,
        except in a pass whose rows may have weights of their own."""
        unique: dict[tuple[int, Tokens, Tokens], list[int]] = {}
        for k, (ids, decoder_ids, *_) in enumerate(answers):
            unique.setdefault((k if self.forward.in_one_pass else 0, ids, decoder_ids), []).append(k)
        sequences, groups = [(ids, decoder_ids) for _, ids, decoder_ids in unique], list(unique.values())
        out = [0.0] * len(answers)

        def sums(places: list[int]) -> list[list[float]]:
            answers_of = [[answers[k] for k in groups[p]] for p in places]
            positions = sorted({p for group in answers_of for a in group for p in a.positions})
            logits = self._logits([sequences[p] for p in places], positions)
            # One column a position where the model left out the other logits.
            column = {p: j for j, p in enumerate(positions)} if logits.shape[1] == len(positions) else None
            by_row = [(row, a) for row, group in enumerate(answers_of) for a in group]
            row = torch.tensor([r for r, a in by_row for _ in a.positions], device=logits.device)
            place = torch.tensor(
                [column[p] if column else p for _, a in by_row for p in a.positions], device=row.device
            )
            target = torch.tensor([t for _, a in by_row for t in a.targets], device=logits.device)
            log_p = torch.log_softmax(logits[row, place].float(), -1).gather(-1, target[:, None])[:, 0].cpu()
            parts = iter(torch.split(log_p, [len(a.targets) for _, a in by_row]))
            return [[float(next(parts).sum()) for _ in group] for group in answers_of]

        lengths = [len(ids) + len(decoder_ids) for ids, decoder_ids in sequences]
        for group, values in zip(groups, self.forward.map_rows(lengths, sums), strict=True):
            for k, value in zip(group, values, strict=True):
                out[k] = value
        return out

    @torch.no_grad()
    def logits(self, answers: Sequence[EncodedAnswer]) -> Tensor:
        """Logits (rows, positions, vocabulary) of a pass over these answers, one row each, at all of their positions
        at least."""
        positions = sorted({p for a in answers for p in a.positions})
        return self._logits([(a.ids, a.decoder_ids) for a in answers], positions)

    @retries_smaller
    @torch.no_grad()
    def map_distributions(self, answers: Sequence[EncodedAnswer], compute: Callable[[int, Tensor], T]) -> list[T]:
        """`compute(k, log_p)` of every answer. log_p: log-probabilities of all tokens at the answer's positions,
        (positions, vocabulary), float32. Where processes share rows it must return a JSON value."""

        def computed(places: list[int]) -> list[T]:
            part = [answers[k] for k in places]
            positions = sorted({p for answer in part for p in answer.positions})
            logits = self._logits([(a.ids, a.decoder_ids) for a in part], positions)
            column = {p: j if logits.shape[1] == len(positions) else p for j, p in enumerate(positions)}
            return [
                compute(k, torch.log_softmax(logits[row, [column[p] for p in answer.positions]].float(), -1))
                for row, (k, answer) in enumerate(zip(places, part, strict=True))
            ]

        return self.forward.map_rows([len(a.ids) + len(a.decoder_ids) for a in answers], computed)

    def _logits(self, sequences: Sequence[tuple[Tokens, Tokens]], positions: Sequence[int]) -> Tensor:
        """Logits (rows, positions, vocabulary); at all positions where the model cannot leave out the others."""
        rows, decoders = [ids for ids, _ in sequences], [ids for _, ids in sequences]
        if self.loaded.head != "seq2seq":
            keep = torch.tensor(positions, device=self.loaded.device)
            arguments = {"logits_to_keep": keep} if self._selects_logits else {}
            logits: Tensor = self.forward.run(rows, **arguments).logits
            return logits
        padded = self.forward.tokenizer.pad_right(decoders, self.loaded.device)
        arguments = {"decoder_input_ids": padded["input_ids"], "decoder_attention_mask": padded["attention_mask"]}
        decoded: Tensor = self.forward.run(rows, **arguments).logits
        return decoded


__all__ = ["EncodedAnswer", "TeacherForcing"]
