"""Tasks that choose one of several options: outputs that follow from the options' scores, and sampled predictions.

Knows models and records; knows no objective and no optimizer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zotune import seeds
from zotune.data.answers import correct_options, option_texts
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.model_task import ModelTask, columns_of

SAMPLING_TEMPERATURE = 0.4
"""Temperature of sampled predictions. At 1 a metric can be raised by raising the model's confidence alone; near 0 it is
a step function again. In between, the two-point difference agrees best with the metric's own (docs/log.md)."""


class OptionTask(ModelTask):
    """Classification or multiple choice. Subclasses tokenise the rows and compute the logits."""

    fields = frozenset(
        {"prompts", "completions", "references", "predictions", "labels", "logits", "losses", "model", "batch"}
    )
    samples_predictions = True

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro_batch, seed)
        self._gumbel = functools.lru_cache(8192)(self._gumbel_noise)

    def logits(self, rows: EncodedRows, indices: Sequence[int]) -> Tensor:
        """Scores (len(indices), options), float32 on the CPU; -inf where a row has fewer options than another."""
        raise NotImplementedError

    def outputs(self, rows: EncodedRows, indices: Sequence[int], wants: frozenset[str] = fields) -> dict[str, Any]:
        """The inputs of an objective for some rows: all fields, which one evaluation of the logits gives."""
        logits = self.logits(rows, indices)
        return {"model": self.loaded.model, **self.outputs_from_logits(rows, indices, logits)}

    def outputs_from_logits(self, rows: EncodedRows, indices: Sequence[int], logits: Tensor) -> dict[str, Any]:
        """The inputs of an objective that follow from logits (len(indices), options): all fields but `model`.

        A field of the task hides a column of the data with the same name.
        """
        records = [rows.records[i] for i in indices]
        first = [rows.gold[i][0] if rows.gold[i] else -1 for i in indices]
        references = [[rows.options[i][g] for g in rows.gold[i]] for i in indices]
        return {
            **columns_of(records),
            **self._predicted(rows, indices, logits.argmax(-1).tolist()),
            "prompts": [rows.prompts[i] for i in indices],
            "references": [r[0] if len(r) == 1 else r or None for r in references],
            "logits": logits,
            "losses": self._losses(logits, first),
            "batch": records,
        }

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the options, float32, in nats."""
        return torch.log_softmax(logits.float(), -1)

    def _losses(self, logits: Tensor, gold: Sequence[int]) -> list[float]:
        """The negative log-probability of each row's first correct option, in nats."""
        places = torch.tensor(gold).clamp(min=0)[:, None]
        losses: list[float] = (-self._log_probabilities(logits).gather(-1, places)[:, 0]).tolist()
        return losses

    def _predicted(self, rows: EncodedRows, indices: Sequence[int], predictions: list[int]) -> dict[str, Any]:
        """The fields `predictions` and `completions`, and `labels`: the correct option; where several are correct, the
        predicted one if it is among them, else the first."""
        gold = [rows.gold[i] for i in indices]
        labels = [p if p in g else g[0] if g else -1 for p, g in zip(predictions, gold, strict=True)]
        completions = [rows.options[i][p] for i, p in zip(indices, predictions, strict=True)]
        return {"predictions": predictions, "completions": completions, "labels": labels}

    def sample_predictions(
        self, rows: EncodedRows, indices: Sequence[int], logits: Tensor, draws: int
    ) -> Iterator[dict[str, Any]]:
        """Sample predictions from softmax(logits / SAMPLING_TEMPERATURE), `draws` times.

        Yields the fields `predictions`, `completions` and `labels`. The noise depends on (seed, row, draw) alone, so
        all points of a step share it: two points with similar logits have mostly the same samples.
        """
        width = logits.shape[1]
        gumbel = torch.stack([self._gumbel(i, draws, width) for i in indices], dim=1)
        for predictions in (logits + SAMPLING_TEMPERATURE * gumbel).argmax(-1).tolist():
            yield self._predicted(rows, indices, predictions)

    def _gumbel_noise(self, row: int, draws: int, width: int) -> Tensor:
        """Gumbel noise (draws, width) of one row: the argmax of logits + noise is a sample of their softmax."""
        uniform = torch.tensor(seeds.uniform(draws * width, self.seed, "prediction", row), dtype=torch.float64)
        return -(-uniform.log()).log().float().view(draws, width)

    def strata(self, records: Sequence[Record]) -> list[tuple[int, ...]]:
        """The indices of each record's correct options; no record is tokenised."""
        return [tuple(self._correct(r, self._options(r))) for r in records]

    def _options(self, record: Record) -> Sequence[str]:
        """The options of a record: the words of the classes, or in multiple choice the record's own options."""
        return self.spec.classes.words if self.spec.classes else option_texts(record, self.spec.choices)

    def _correct(self, record: Record, options: Sequence[str]) -> list[int]:
        """Indices of the correct options; empty where the record names none."""
        if self.spec.classes is None:
            return correct_options(record, self.spec.choices, self.spec.choice_labels)
        index = self.spec.classes.index(record.get("label"))
        return [] if index is None else [index]

    def _encoded(
        self, records: Sequence[Record], prompts: Sequence[str], tokens: Sequence[Any], truncated: int
    ) -> EncodedRows:
        options = [self._options(r) for r in records]
        gold = [self._correct(r, o) for r, o in zip(records, options, strict=True)]
        return EncodedRows(records, prompts, gold, options, tokens, truncated)


__all__ = ["SAMPLING_TEMPERATURE", "OptionTask"]
