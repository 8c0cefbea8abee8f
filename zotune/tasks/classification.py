"""OptionTask among options: by a head's logits, by label descriptions, or by the words' log-probabilities.

An option's score is the mean log-probability of its tokens (MeZO, arXiv:2305.17333, Appendix D.4): after the prompt for
a causal model, at the masks for a masked one, from the decoder for a sequence-to-sequence one. Classification asks for
one of a fixed set of classes, multiple choice for one of the row's own options. Every quantity of a row is independent
of the rows beside it, up to rounding.

Knows models, tokens and records; knows no objective and no optimizer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zotune import seeds
from zotune.data.answers import correct_options, option_texts
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.data.templates import FilledTemplate, Template
from zotune.errors import ModelError, OptionError
from zotune.models.configuration import config_value
from zotune.models.loaded_model import LINEAR_HEAD, LoadedModel
from zotune.tasks.forward import Forward, Tokens, retries_smaller

TEMPERATURE = 20.0
"""Cosines times this are an embedding model's logits, as sentence-transformers trains them."""

SAMPLING_TEMPERATURE = 0.4
"""Of sampled predictions. At 1 a metric can be raised by making the model surer of what it says; near 0 the jumps of
the metric are back. Between them the two-point difference agrees best with the metric's own (docs/log.md)."""


@dataclass(frozen=True)
class EncodedRows:
    """Records with their prompts, tokens, options and right answers.

    gold: indices of the right options (empty where the data says nothing); options: texts to choose from; cut: rows
    that were shortened.
    """

    records: Sequence[Record]
    prompts: Sequence[str]
    gold: Sequence[Sequence[int]]
    options: Sequence[Sequence[str]]
    tokens: Sequence[Any]
    truncated: int

    def __len__(self) -> int:
        return len(self.records)


class Option(NamedTuple):
    """What a model reads (and its decoder, for a sequence-to-sequence model), and where it predicts which tokens."""

    ids: Tokens
    decoder: Tokens
    positions: Tokens
    targets: Tokens


class OptionTask:
    """What classification and multiple choice share. Subclasses tokenise rows and score them."""

    fields = frozenset(
        {"prompts", "completions", "references", "predictions", "labels", "logits", "losses", "model", "batch"}
    )
    samples_predictions = True

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro: int, seed: int = 0) -> None:
        self.loaded, self.spec, self.seed = loaded, spec, seed
        self.forward = Forward(loaded, spec, max_length, micro)
        self._gumbel = functools.lru_cache(8192)(self._sample_noise)

    @property
    def max_length(self) -> int:
        return self.forward.max_length

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        """Tokenise records, once."""
        raise NotImplementedError

    def logits(self, rows: EncodedRows, indices: Sequence[int]) -> Tensor:
        """Scores (len(indices), options), float32 on the CPU; -inf where a row has fewer options than another."""
        raise NotImplementedError

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        """Everything of these rows that the model reads."""
        raise NotImplementedError

    def forward_passes(self, count: int) -> int:
        """Forward passes of the model that scoring so many rows makes."""
        return -(-count // self.forward.micro_batch)

    def cache_prefix(self, tuned: Iterable[str], parts: Sequence[EncodedRows]) -> bool:
        """Compute what lies before the first tuned block once for all rows of `parts`; whether that was possible."""
        inside = [name for name in tuned if not name.startswith(f"{LINEAR_HEAD}.")]  # that reads what the model returns
        return self.forward.cache_prefix(inside, set().union(*(self.sequences(p) for p in parts)))

    # -- what objectives see -------------------------------------------------------------------------------------------

    def outputs(self, rows: EncodedRows, indices: Sequence[int], wants: frozenset[str] = fields) -> dict[str, Any]:
        """Everything an objective may ask for, on these rows, with the weights as they are now."""
        logits = self.logits(rows, indices)
        return {"model": self.loaded.model, **self.outputs_from_logits(rows, indices, logits)}

    def outputs_from_logits(self, rows: EncodedRows, indices: Sequence[int], logits: Tensor) -> dict[str, Any]:
        """What follows from logits without the model. Columns of the data come first, so that a column cannot hide what
        the task gives."""
        records = [rows.records[i] for i in indices]
        columns = {name: [r.get(name) for r in records] for name in records[0]} if records else {}
        named = self._named(rows, indices, logits.argmax(-1).tolist())
        first = [rows.gold[i][0] if rows.gold[i] else -1 for i in indices]
        right = [[rows.options[i][g] for g in rows.gold[i]] for i in indices]
        return {
            **columns,
            **named,
            "prompts": [rows.prompts[i] for i in indices],
            "references": [r[0] if len(r) == 1 else r or None for r in right],
            "logits": logits,
            "losses": self._losses(logits, first),
            "batch": records,
        }

    def _losses(self, logits: Tensor, gold: Sequence[int]) -> list[float]:
        """Cross-entropy of the class scores in nats; in multiple choice the right option's own, by teacher forcing."""
        log_p = logits.float() if self.spec.kind == "choice" else torch.log_softmax(logits.float(), -1)
        found: list[float] = (-log_p.gather(-1, torch.tensor(gold).clamp(min=0)[:, None])[:, 0]).tolist()
        return found

    def _named(self, rows: EncodedRows, indices: Sequence[int], predictions: list[int]) -> dict[str, Any]:
        """predictions, and labels: the right option, where there are several the one that was predicted."""
        gold = [rows.gold[i] for i in indices]
        labels = [p if p in g else g[0] if g else -1 for p, g in zip(predictions, gold, strict=True)]
        said = [rows.options[i][p] for i, p in zip(indices, predictions, strict=True)]
        return {"predictions": predictions, "completions": said, "labels": labels}

    def sample_predictions(
        self, rows: EncodedRows, indices: Sequence[int], logits: Tensor, draws: int
    ) -> Iterator[dict[str, Any]]:
        """`draws` times predictions and completions, sampled from softmax(logits / SAMPLING_TEMPERATURE).

        The randomness depends on (seed, row, draw) alone, so it is common to all points of a step, and two points whose
        logits are close have mostly the same samples.
        """
        width = logits.shape[1]
        gumbel = torch.stack([self._gumbel(i, draws, width) for i in indices], dim=1)
        for predictions in (logits + SAMPLING_TEMPERATURE * gumbel).argmax(-1).tolist():
            yield self._named(rows, indices, predictions)

    def _sample_noise(self, row: int, draws: int, width: int) -> Tensor:
        """Gumbel noise (draws, width) of one row: the largest of logits + noise is a sample of their softmax."""
        uniform = torch.tensor(seeds.uniform(draws * width, self.seed, "prediction", row), dtype=torch.float64)
        return -(-uniform.log()).log().float().view(draws, width)

    # -- records -------------------------------------------------------------------------------------------------------

    def _options(self, record: Record) -> Sequence[str]:
        return self.spec.classes.words if self.spec.classes else option_texts(record, self.spec.choices)

    def _gold(self, record: Record, options: Sequence[str]) -> list[int]:
        if self.spec.classes is None:
            return correct_options(record, options)
        index = self.spec.classes.index(record.get("label"))
        return [] if index is None else [index]

    def _rows(self, records: Sequence[Record], prompts: Sequence[str], tokens: Sequence[Any], cut: int) -> EncodedRows:
        options = [self._options(r) for r in records]
        gold = [self._gold(r, o) for r, o in zip(records, options, strict=True)]
        return EncodedRows(records, prompts, gold, options, tokens, cut)


class HeadClassification(OptionTask):
    """A model that reads a row's text as a whole: by its head's logits, or by the cosine with label descriptions."""

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro, seed)
        words = spec.classes.words if spec.classes and loaded.head == "embedding" else ()
        self._described = [self.forward.tokenizer.encode(FilledTemplate(w, {"label": (0, len(w))})).ids for w in words]

    @property
    def _labels(self) -> list[Tokens]:
        """Label descriptions, until the classes have weights of their own."""
        return self._described if self.loaded.linear_head is None else []

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        filled = [self.spec.template.fill(r) for r in records]
        coded = [self.forward.tokenizer.encode(f) for f in filled]
        return self._rows(records, [f.text for f in filled], [c.ids for c in coded], sum(c.truncated for c in coded))

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        return {*self._labels, *rows.tokens}

    def forward_passes(self, count: int) -> int:
        return super().forward_passes(count) + super().forward_passes(len(self._labels))

    @retries_smaller
    @torch.no_grad()
    def logits(self, rows: EncodedRows, indices: Sequence[int]) -> Tensor:
        labels = self._embed_labels().T if self._labels else None

        def scores(places: list[int]) -> list[list[float]]:
            tokens = [rows.tokens[indices[k]] for k in places]
            if self.loaded.head == "classification":
                found = self.forward.run(tokens).logits
            elif labels is not None:
                found = TEMPERATURE * (self.embed(tokens) @ labels)
            else:
                found = self.loaded.linear_head(self.embed(tokens))
            listed: list[list[float]] = found.float().tolist()
            return listed

        width = len(self.spec.classes.words) if self.spec.classes else 0
        return torch.tensor(self.forward.map_rows([len(rows.tokens[i]) for i in indices], scores)).view(
            len(indices), width
        )

    def _embed_labels(self) -> Tensor:
        found = [torch.empty(0)] * len(self._labels)
        for places in self.forward.chunks([len(t) for t in self._labels]):
            for k, row in zip(places, self.embed([self._labels[k] for k in places]), strict=True):
                found[k] = row
        return torch.stack(found)

    @retries_smaller
    @torch.no_grad()
    def features(self, rows: EncodedRows) -> Tensor:
        """What a linear layer on top reads: (rows, hidden), float32 on the CPU. The embeddings of an embedding model;
        else the input of a classification head's last layer."""
        out: list[Tensor] = [torch.empty(0)] * len(rows)
        for places in self.forward.chunks([len(t) for t in rows.tokens]):
            tokens = [rows.tokens[k] for k in places]
            found = self.embed(tokens) if self.loaded.head == "embedding" else self._before_head(tokens)
            for k, row in zip(places, found.float().cpu(), strict=True):
                out[k] = row
        return torch.stack(out)

    def _before_head(self, tokens: Sequence[Tokens]) -> Tensor:
        seen: list[Tensor] = []
        handle = self.loaded.last_linear().register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            self.forward.run(tokens)
        finally:
            handle.remove()
        (found,) = seen
        if found.dim() == 3:  # a decoder's head reads every token and keeps the last that is no padding
            pad = self.loaded.pad_token_id
            last = [max((i for i, t in enumerate(ids) if t != pad), default=0) for ids in tokens]
            found = torch.stack([row[i] for row, i in zip(found, last, strict=True)])
        return found

    def embed(self, tokens: Sequence[Tokens]) -> Tensor:
        """Unit vectors (rows, hidden), float32."""
        hidden = self.forward.run(tokens).last_hidden_state.float()
        if self.loaded.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = self.forward.tokenizer.pad_right(tokens, hidden.device)["attention_mask"].unsqueeze(-1).float()
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)


class LabelWordTask(OptionTask):
    """A language model that scores each option's words."""

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro, seed)
        self._most = 1  # sequences a row, as far as seen
        self._keeps = loaded.accepts("logits_to_keep")
        if loaded.head == "masked" and loaded.tokenizer.mask_token_id is None:
            raise ModelError(f"{loaded.source} has no mask token", hint="--head causal, or another model")
        if loaded.head == "masked" and not config_value(loaded.tokenizer, "is_fast", False):
            raise ModelError(f"{loaded.source}: label words at masks need a fast tokenizer")

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        prompts, tokens, cut = [], [], 0
        for record in records:
            said = self._options(record)
            found = [self._option(record, s, self.spec.template, self.spec.demonstrations) for s in said]
            prompts.append(self.spec.template.render(record, until=self.spec.target))
            cut += any(was_cut for _, was_cut in found)
            options = [o for o, _ in found]
            neutral = []
            if self.spec.calibration:
                neutral = [self._option(record, s, self.spec.calibration)[0] for s in said]
            self._most = max(self._most, len({o[:2] for o in [*options, *neutral]}))
            tokens.append((options, neutral))
        made = self._rows(records, prompts, tokens, cut)
        if tokens and self.spec.classes:
            self._distinct(made)
        return made

    def _distinct(self, rows: EncodedRows) -> None:
        """Refuse label words of which one begins as all of another: nothing tells them apart where the shorter ends."""
        options, words = rows.tokens[0][0], rows.options[0]
        for a, first in enumerate(options):
            for b, other in enumerate(options):
                if a != b and other.targets[: len(first.targets)] == first.targets:
                    raise OptionError(
                        f"label words {words[a]!r} and {words[b]!r} start with the same tokens", hint="--labels …"
                    )

    def _option(self, record: Record, said: str, template: Template, lead: str = "") -> tuple[Option, bool]:
        head, coder = self.loaded.head, self.forward.tokenizer
        target = self.spec.target
        tail = "keep" if head == "masked" else "drop" if self.spec.kind == "classification" else "score"
        filled = template.fill(record, target, said, tail)  # type: ignore[arg-type]
        if head == "seq2seq":
            return self._decoded(filled, lead)
        coded = coder.encode(filled.prepend(lead) if lead else filled, tail=head == "masked")
        ids, places = list(coded.ids), coded.target_positions
        if head == "masked":
            targets = tuple(ids[i] for i in places)
            for i in places:
                ids[i] = coder.tokenizer.mask_token_id
            return Option(tuple(ids), (), places, targets), coded.truncated
        first, last = max(places[0], 1), places[-1]
        if first > last:
            raise OptionError(f"{said!r} has nothing before it: a causal model predicts from what came before")
        return Option(
            tuple(ids[:last]), (), tuple(range(first - 1, last)), tuple(ids[first : last + 1])
        ), coded.truncated

    def _decoded(self, filled: FilledTemplate, lead: str) -> tuple[Option, bool]:
        """The prompt goes to the encoder, the option to the decoder, which starts as in the model's generation."""
        start, end = filled.target or (len(filled.text), len(filled.text))
        prompt = filled.truncate(len(filled.text[:start].rstrip()))
        coded = self.forward.tokenizer.encode(prompt.prepend(lead) if lead else prompt)
        tokenizer, said = self.loaded.tokenizer, filled.text[start:end]
        targets = tuple(tokenizer(text_target=said, add_special_tokens=False)["input_ids"])
        if not targets:
            raise OptionError(f"{said!r} has no token")
        begin = self.loaded.decoder_start_ids
        if len(begin) + len(targets) - 1 > self.max_length:
            raise OptionError(f"{said[:60]!r} alone is longer than --max-length {self.max_length}")
        places = tuple(range(len(begin) - 1, len(begin) - 1 + len(targets)))
        return Option(coded.ids, begin + targets[:-1], places, targets), coded.truncated

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        return {option.ids for found in rows.tokens for part in found for option in part}

    def forward_passes(self, count: int) -> int:
        return super().forward_passes(count * self._most)

    @torch.no_grad()
    def logits(self, rows: EncodedRows, indices: Sequence[int]) -> Tensor:
        wanted = [rows.tokens[i] for i in indices]
        width = max(len(options) for options, _ in wanted)
        flat = [o for options, neutral in wanted for o in (*options, *neutral)]
        sums = dict(zip(map(id, flat), self.log_probabilities(flat), strict=True))
        out = torch.full((len(indices), width), -torch.inf)
        for row, (options, neutral) in enumerate(wanted):
            for k, option in enumerate(options):
                total = sums[id(option)]
                out[row, k] = total - sums[id(neutral[k])] if neutral else total / len(option.targets)
        return out

    @retries_smaller
    @torch.no_grad()
    def log_probabilities(self, options: Sequence[Option]) -> list[float]:
        """Σ log p of each option's tokens. What is read by several options is run once."""
        unique: dict[tuple[Tokens, Tokens], list[int]] = {}
        for k, option in enumerate(options):
            unique.setdefault(option[:2], []).append(k)
        sequences, found = list(unique), [0.0] * len(options)

        def sums(chunk: list[int]) -> list[list[float]]:
            wanted = [[options[k] for k in unique[sequences[c]]] for c in chunk]
            places = sorted({p for each in wanted for o in each for p in o.positions})
            logits = self._run([sequences[c] for c in chunk], places)
            column = {p: j for j, p in enumerate(places)} if logits.shape[1] == len(places) else None
            here = [(row, o) for row, each in enumerate(wanted) for o in each]
            row = torch.tensor([r for r, o in here for _ in o.positions], device=logits.device)
            place = torch.tensor(
                [column[p] if column else p for _, o in here for p in o.positions], device=logits.device
            )
            target = torch.tensor([t for _, o in here for t in o.targets], device=logits.device)
            log_p = torch.log_softmax(logits[row, place].float(), -1).gather(-1, target[:, None])[:, 0].cpu()
            parts = iter(torch.split(log_p, [len(o.targets) for _, o in here]))
            return [[float(next(parts).sum()) for _ in each] for each in wanted]

        for c, each in enumerate(self.forward.map_rows([len(ids) + len(decoder) for ids, decoder in sequences], sums)):
            for k, value in zip(unique[sequences[c]], each, strict=True):
                found[k] = value
        return found

    def _run(self, sequences: Sequence[tuple[Tokens, Tokens]], places: Sequence[int]) -> Tensor:
        """Logits at these places alone, where the model can leave out the others; else at all."""
        rows, decoders = [ids for ids, _ in sequences], [d for _, d in sequences]
        if self.loaded.head != "seq2seq":
            few = {"logits_to_keep": torch.tensor(places, device=self.loaded.device)} if self._keeps else {}
            logits: Tensor = self.forward.run(rows, **few).logits
            return logits
        padded = self.forward.tokenizer.pad_right(decoders, self.loaded.device)
        more = {"decoder_input_ids": padded["input_ids"], "decoder_attention_mask": padded["attention_mask"]}
        decoded: Tensor = self.forward.run(rows, **more).logits
        return decoded


__all__ = [
    "SAMPLING_TEMPERATURE",
    "TEMPERATURE",
    "EncodedRows",
    "HeadClassification",
    "LabelWordTask",
    "Option",
    "OptionTask",
]
