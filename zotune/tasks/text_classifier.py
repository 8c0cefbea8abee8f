"""A text classifier that is used beside the tuned model: texts in, scores out.

Public: the objective `reward-model` is built on this module, and other plugins may use it. It knows models and tokens;
it knows no objective and no data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zotune.data.task import TaskSpec
from zotune.data.templates import SHOTS, FilledTemplate, Template
from zotune.errors import ModelError, OptionError
from zotune.models import loading
from zotune.models.model_files import find_model, saved_config
from zotune.tasks.forward import Forward

UNLIMITED = 10**6
"""Tokens a row if neither the user nor the model sets a limit."""


@dataclass(frozen=True)
class Text:
    """A text to classify.

    shorten: (start, end) of the part that loses its beginning if the text is too long; None: no part may.
    second: where the second text of a pair starts; None: a single text.
    special_tokens: whether the tokenizer adds its special tokens; a chat template has written them already.
    """

    text: str
    shorten: tuple[int, int] | None = None
    second: int | None = None
    special_tokens: bool = True


class TextClassifier:
    """A sequence classification model; its weights are loaded when they are first needed.

    model: folder or hub id. name: replaces the flags of the tuned model in messages. max_length: tokens a row, None:
    as many as the model takes. batch_size: rows in a forward pass; it is halved if memory is short. pairs: whether
    texts are pairs. message: shows one line to the user; on_pass: called before each forward pass.

    Attributes: labels, their names in the order of the logits; multi_label, whether the probability of a label is its
    sigmoid instead of its share of the softmax over all labels.

    Raises ModelError for a model that cannot be used, OptionError for an unknown dtype.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        batch_size: int = 16,
        pairs: bool = False,
        message: Callable[[str], None] = lambda text: None,
        on_pass: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.device, self.dtype = name, device, dtype
        self.max_length, self.batch_size, self.pairs = max_length, batch_size, pairs
        self.message, self.on_pass = message, on_pass
        self._loaded: Forward | None = None
        if dtype not in ("auto", *loading.DTYPES):
            raise OptionError(f"{name}: dtype must be auto, {', '.join(loading.DTYPES)}, got {dtype!r}")
        try:
            loading.pick_device(device)
            self._files = find_model(model)
            config = saved_config(self._files)
        except ModelError as error:
            raise self._renamed(error) from None
        if self._files.adapter is not None:
            raise ModelError(f"{name} {model!r} is an adapter", hint="merge it into its base model first")
        if self._files.head != "classification":
            raise ModelError(
                f"{name} {model!r} has the head {self._files.head!r}, not a classification head",
                hint="use a model of a class …ForSequenceClassification",
            )
        names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # the default, which is not saved
        self.labels = [str(names[k]) for k in sorted(names, key=int)]
        self.multi_label = config.get("problem_type") == "multi_label_classification"
        inner = config.get("text_config") or {}
        self._saved_padding = config.get("pad_token_id", inner.get("pad_token_id")) is not None

    @property
    def tokenizer(self) -> Any:
        """The model's own tokenizer; loads the model."""
        return self.forward.loaded.tokenizer

    @property
    def forward(self) -> Forward:
        """The loaded model. Raises ModelError."""
        if self._loaded is None:
            files = self._files
            try:
                loaded = loading.load(
                    files.source,
                    files.folder,
                    files.head,
                    device=self.device,
                    dtype=self.dtype,
                )
            except ModelError as error:
                raise self._renamed(error) from None
            spec = TaskSpec("classification", Template("{text}"))
            limit = self.max_length or UNLIMITED
            forward = Forward(loaded, spec, limit, self.batch_size, f"{self.name}: batch_size")
            forward.report = lambda text: self.message(text)
            forward.tokenizer.typed = (
                forward.tokenizer.typed and self.pairs
            )  # a separator in a single text starts no pair
            self._loaded = forward
        return self._loaded

    def encode(self, text: Text) -> tuple[int, ...]:
        """The token ids of a text, shortened to the limit. Raises OptionError if that is impossible."""
        spans = {} if text.shorten is None else {SHOTS: text.shorten}
        filled = FilledTemplate(text.text, spans, None, text.second)
        return self.forward.tokenizer.encode(filled, special=text.special_tokens).ids

    def scores(self, rows: Sequence[tuple[int, ...]], label: int | None) -> list[float]:
        """For each row of token ids the probability of the label with this index; None: the logit of the only label.

        Rows are padded on the right; up to rounding, a score does not depend on the other rows. A decoder is read at
        the last token of a row; if its saved configuration names a padding token, at the last other token, as
        transformers does. Raises OutOfMemory if a single row does not fit.
        """
        forward, scores = self.forward, [0.0] * len(rows)

        def compute() -> None:
            for places in forward.micro_batches([len(row) for row in rows]):
                values = self._read(self._pass([rows[k] for k in places]), label)
                for place, value in zip(places, values.tolist(), strict=True):
                    scores[place] = value

        with torch.no_grad():
            forward.retry_smaller(compute)
        return scores

    def close(self) -> None:
        """Free the memory of the model; it is loaded again when it is needed."""
        self._loaded = None

    def _read(self, logits: Tensor, label: int | None) -> Tensor:
        """The scores of a forward pass."""
        if label is None:
            return logits.reshape(len(logits))
        return (logits.sigmoid() if self.multi_label else logits.softmax(-1))[:, label]

    def _pass(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """The logits of some rows, shape (rows, labels), float32, on the CPU."""
        forward = self.forward
        if not self._saved_padding:  # the last token counts, whatever it is, so another token must be the padding
            last = {row[-1] for row in rows}
            unused = next(i for i in range(len(last) + 1) if i not in last)
            forward.loaded.config.pad_token_id = forward.tokenizer.pad = unused
        self.on_pass()
        logits: Tensor = forward.run(rows).logits.float().cpu()
        return logits

    def _renamed(self, error: ModelError) -> ModelError:
        """The error with this classifier's name instead of the flags of the tuned model."""
        text = str(error).replace("--model", self.name, 1).replace("--device", f"{self.name}: device", 1)
        return ModelError(text)


__all__ = ["Text", "TextClassifier"]
