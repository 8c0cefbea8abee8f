"""Options scored by the log-probability of their words, which classification and multiple choice share.

The score of an option is the mean log-probability of its tokens (MeZO, arXiv:2305.17333, Appendix D.4). With a
calibration template it is log p(option | prompt) − log p(option | neutral prompt). Knows language models and records;
knows no objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.data.tokenization import first_that_fits
from zotune.errors import ModelError
from zotune.models.configuration import config_value
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.chat import ChatTemplate
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.frozen_prefix import Tokens
from zotune.tasks.model_task import naming
from zotune.tasks.option_task import OptionTask
from zotune.tasks.teacher_forcing import EncodedAnswer, TeacherForcing


class WordedOptions(OptionTask):
    """A language model scores the words of each option. Raises ModelError for a masked model without a mask token or
    without a fast tokenizer.

    after_answer: what a causal or sequence-to-sequence model does with the template's text after the answer: "drop"
    ignores it, "score" makes it part of the answer. A masked model reads it.
    """

    after_answer: Literal["drop", "score"] = "drop"

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro_batch, seed)
        self.teacher_forcing, self.chat = TeacherForcing(self.forward), ChatTemplate(loaded, spec)
        self._sequences_per_row = 1  # the most of all rows encoded so far
        if loaded.head == "masked" and loaded.tokenizer.mask_token_id is None:
            raise ModelError(f"{loaded.source} has no mask token", hint="--head causal, or another model")
        if loaded.head == "masked" and not config_value(loaded.tokenizer, "is_fast", False):
            raise ModelError(f"{loaded.source}: label words at masks need a fast tokenizer")

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        """Tokenise records. `tokens` holds for each record (answers, neutral answers): one EncodedAnswer an option."""
        prompts, tokens, truncated = [], [], 0
        for record in records:
            texts, template = self._options(record), self.spec.template
            with naming(record):
                encoded = [self._encode(record, text, template, self.spec.demonstrations) for text in texts]
            prompts.append(self.spec.template.render(record, until=self.spec.target))
            truncated += any(shortened for _, shortened in encoded)
            answers = [answer for answer, _ in encoded]
            neutral = []
            if self.spec.calibration:
                neutral = [self._encode(record, text, self.spec.calibration)[0] for text in texts]
            count = len({answer[:2] for answer in [*answers, *neutral]})
            self._sequences_per_row = max(self._sequences_per_row, count)
            tokens.append((answers, neutral))
        return self._encoded(records, prompts, tokens, truncated)

    def _encode(
        self, record: Record, text: str, template: Template, demonstrations: str = ""
    ) -> tuple[EncodedAnswer, bool]:
        tail: Literal["keep", "drop", "score"] = "keep" if self.loaded.head == "masked" else self.after_answer
        filled = template.fill(record, self.spec.target, text, tail)
        if self.spec.chat_template != "on":
            return self.teacher_forcing.encode(filled, demonstrations)
        examples = template is self.spec.template
        wrapped = self.chat.wraps(filled, examples)
        return first_that_fits(wrapped, lambda text: self.teacher_forcing.encode(text, special=False))

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        """All token sequences that the model reads to score these rows."""
        return {answer.ids for row in rows.tokens for answers in row for answer in answers}

    def forward_passes(self, count: int) -> int:
        """The number of forward passes that so many rows take; each option may be a sequence of its own."""
        return super().forward_passes(count * self._sequences_per_row)

    @torch.no_grad()
    def logits(self, rows: EncodedRows, indices: Sequence[int]) -> Tensor:
        """Scores (len(indices), options), float32 on the CPU; -inf where a row has fewer options than another."""
        chosen = [rows.tokens[i] for i in indices]
        width = max(len(answers) for answers, _ in chosen)
        flat = [answer for answers, neutral in chosen for answer in (*answers, *neutral)]
        sums = iter(self.teacher_forcing.log_probabilities(flat))
        out = torch.full((len(indices), width), -torch.inf)
        for row, (answers, neutral) in enumerate(chosen):
            totals, base = [next(sums) for _ in answers], [next(sums) for _ in neutral]
            for k, answer in enumerate(answers):
                out[row, k] = totals[k] - base[k] if neutral else totals[k] / len(answer.targets)
        return out


__all__ = ["WordedOptions"]
