"""The classification task: with a classification head, with embeddings, or with the label words of a language model.

Up to rounding, the scores of a row do not depend on the other rows of its batch. Knows models, tokens and records;
knows no objective and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.data.templates import FilledTemplate
from zotune.data.tokenization import Encoding
from zotune.errors import OptionError
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.forward import retries_smaller
from zotune.tasks.frozen_prefix import Tokens
from zotune.tasks.model_task import naming
from zotune.tasks.option_task import OptionTask
from zotune.tasks.worded_options import WordedOptions

COSINE_SCALE = 20.0
"""The logits of an embedding model are cosines times this scale, the default of sentence-transformers' losses."""


class HeadClassification(OptionTask):
    """Classification by a classification head, by a linear head on embeddings, or, where an embedding model has no
    linear head, by the cosine of the text's embedding with those of the label descriptions."""

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro_batch, seed)
        words = spec.classes.words if spec.classes and loaded.head == "embedding" else ()
        self._descriptions = [self._encode(FilledTemplate(w, {"label": (0, len(w))})).ids for w in words]

    @property
    def label_descriptions(self) -> list[Tokens]:
        """The token ids of the label descriptions; empty for a model with a head."""
        return self._descriptions if self.loaded.linear_head is None else []

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        """Tokenise records. `tokens` holds the token ids of each text."""
        filled, encodings = list[FilledTemplate](), list[Encoding]()
        for record in records:
            with naming(record):
                filled.append(self.spec.template.fill(record))
                encodings.append(self._encode(filled[-1]))
        truncated = sum(e.truncated for e in encodings)
        return self._encoded(records, [f.text for f in filled], [e.ids for e in encodings], truncated)

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        """All token sequences that the model reads to score these rows, label descriptions included."""
        return {*self.label_descriptions, *rows.tokens}

    def forward_passes(self, count: int) -> int:
        """The number of forward passes that so many rows take, label descriptions included."""
        return super().forward_passes(count) + super().forward_passes(len(self.label_descriptions))

    @retries_smaller
    @torch.no_grad()
    def logits(self, rows: EncodedRows, indices: Sequence[int]) -> Tensor:
        """Scores (len(indices), classes), float32 on the CPU."""
        labels = self._label_embeddings().T if self.label_descriptions else None

        def scores(places: list[int]) -> list[list[float]]:
            tokens = [rows.tokens[indices[k]] for k in places]
            if self.loaded.head == "classification":
                logits = self.forward.run(tokens).logits
            elif labels is not None:
                logits = COSINE_SCALE * (self.embed(tokens) @ labels)
            else:
                logits = self.loaded.linear_head(self.embed(tokens))
            values: list[list[float]] = logits.float().tolist()
            return values

        width = len(self.spec.classes.words) if self.spec.classes else 0
        values = self.forward.map_rows([len(rows.tokens[i]) for i in indices], scores)
        return torch.tensor(values).view(len(indices), width)

    def _label_embeddings(self) -> Tensor:
        """Unit vectors (classes, hidden)."""
        descriptions = self.label_descriptions
        embeddings = [torch.empty(0)] * len(descriptions)
        for places in self.forward.micro_batches([len(t) for t in descriptions]):
            for k, row in zip(places, self.embed([descriptions[k] for k in places]), strict=True):
                embeddings[k] = row
        return torch.stack(embeddings)

    @retries_smaller
    @torch.no_grad()
    def features(self, rows: EncodedRows) -> Tensor:
        """The inputs of the last linear layer, (rows, hidden), float32 on the CPU: the embeddings of an embedding
        model, else what the last layer of the classification head reads."""
        out: list[Tensor] = [torch.empty(0)] * len(rows)
        for places in self.forward.micro_batches([len(t) for t in rows.tokens]):
            tokens = [rows.tokens[k] for k in places]
            features = self.embed(tokens) if self.loaded.head == "embedding" else self._head_inputs(tokens)
            for k, row in zip(places, features.float().cpu(), strict=True):
                out[k] = row
        return torch.stack(out)

    def _head_inputs(self, tokens: Sequence[Tokens]) -> Tensor:
        inputs: list[Tensor] = []
        handle = self.loaded.last_linear().register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        try:
            self.forward.run(tokens)
        finally:
            handle.remove()
        (hidden,) = inputs
        if hidden.dim() == 3:  # a decoder's head reads every token; the logits are those of the last non-padding token
            pad = self.loaded.pad_token_id
            last = [max((i for i, t in enumerate(ids) if t != pad), default=0) for ids in tokens]
            hidden = torch.stack([row[i] for row, i in zip(hidden, last, strict=True)])
        return hidden

    def embed(self, tokens: Sequence[Tokens]) -> Tensor:
        """Embeddings of token sequences: unit vectors (rows, hidden), float32."""
        hidden = self.forward.run(tokens).last_hidden_state.float()
        pooling = self.loaded.encoder.pooling
        if pooling == "cls":
            pooled = hidden[:, 0]
        elif pooling == "last":
            pooled = torch.stack([row[len(ids) - 1] for row, ids in zip(hidden, tokens, strict=True)])
        else:
            weight = self.forward.tokenizer.pad_right(tokens, hidden.device)["attention_mask"].unsqueeze(-1).float()
            if pooling == "max":
                pooled = hidden.masked_fill(weight == 0, -torch.inf).max(1).values
            else:
                pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _encode(self, filled: FilledTemplate) -> Encoding:
        """The tokens of a text after the encoder's own prompt, which is never shortened."""
        return self.forward.tokenizer.encode(filled.after(self.loaded.encoder.prompt))


class LabelWordClassification(WordedOptions):
    """Classification by the log-probabilities of label words. Text after the label word is ignored, unless the model
    is a masked one."""

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        """Tokenise records. Raises OptionError where one label word begins with all tokens of another."""
        rows = super().rows(records)
        if rows.tokens and self.spec.classes:
            self._check_distinct(rows)
        return rows

    def _check_distinct(self, rows: EncodedRows) -> None:
        """Refuse a label word that begins with all tokens of another: the shorter one could not be told apart."""
        answers, words = rows.tokens[0][0], rows.options[0]
        for a, first in enumerate(answers):
            for b, other in enumerate(answers):
                if a != b and other.targets[: len(first.targets)] == first.targets:
                    raise OptionError(
                        f"label words {words[a]!r} and {words[b]!r} start with the same tokens", hint="--labels …"
                    )


__all__ = ["COSINE_SCALE", "HeadClassification", "LabelWordClassification"]
