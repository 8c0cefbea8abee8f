"""Records to model inputs, and model outputs to what objectives see.

Three ways to classify: a head's logits; for an embedding model the cosine between a text and each label's description;
for a causal model the mean log-probability of each label's words after the prompt. Rows are tokenised once. Every
quantity of a row is independent of the rows beside it, up to rounding.

Knows models and records; knows no objective and no optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zotune import keys
from zotune.data import Record, columns_of
from zotune.errors import DataError, OptionError
from zotune.models import Head, Loaded
from zotune.prefix import Prefix, find_blocks

OFFERED = frozenset({"prompts", "completions", "references", "predictions", "labels", "logits", "model", "batch"})
TEMPERATURE = 20.0
"""Cosines times this are an embedding model's logits, as sentence-transformers trains them."""

SAMPLING_TEMPERATURE = 0.4
"""Of sampled predictions. At 1 a metric can be raised by making the model surer of what it says; near 0 the jumps of
the metric are back. Between them the two-point difference agrees best with the metric's own (docs/log.md)."""

DEFAULT_TEMPLATE = {"classification": "{text}", "embedding": "{text}", "causal": "{text} {label}"}


class Template:
    """`{column}` places in a text. Only plain names are allowed: no attributes, no indices, no formats."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self.parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise OptionError(f"--template {text!r}: {error}") from None
        for _, name, form, conversion in self.parts:
            if name is not None and (not name.replace("_", "a").isalnum() or form or conversion):
                raise OptionError(f"--template {text!r}: {{{name}}} must be a plain column name")

    @property
    def fields(self) -> list[str]:
        return [name for _, name, _, _ in self.parts if name is not None]

    def render(self, record: Mapping[str, Any], until: str | None = None) -> str:
        """The text with its places filled; with `until`, only what stands before that place."""
        out = ""
        for literal, name, _, _ in self.parts:
            out += literal
            if name is not None:
                if name == until:
                    return out
                out += str(record[name])
        return out


@dataclass(frozen=True)
class Classes:
    """The classes of a task. keys: their values in the data, as text, in class order; words: what stands for each
    class in the model (a label word or a description)."""

    keys: tuple[str, ...]
    words: tuple[str, ...]

    def index(self, value: Any) -> int | None:
        key = _key(value)
        return self.keys.index(key) if key in self.keys else None


def _key(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _numeric(keys: Sequence[str]) -> bool:
    return all(k.lstrip("-").isdigit() for k in keys)


def find_classes(parts: Mapping[str, Sequence[Record]], labels: str | None, needs_words: bool) -> Classes:
    """The classes of the data, and the words that stand for them.

    labels: `a,b,c` in class order (numbers ascending, texts sorted), or `value=word,…`. Without it the data's own
    texts are the words, or its `label_text` column where labels are numbers. Raises DataError or OptionError.
    """
    seen: dict[str, str | None] = {}
    for part, rows in parts.items():
        for number, row in enumerate(rows, 1):
            if row.get("label") is None or _key(row["label"]) == "":
                raise DataError(
                    f"{part} record {number} has no column 'label'; {columns_of(rows)}", hint="--column label=…"
                )
            if isinstance(row["label"], list | dict):
                raise DataError(f"{part} record {number}: a label must be a number or a text, got {row['label']!r:.40}")
            text = row.get("label_text")
            seen.setdefault(_key(row["label"]), text if isinstance(text, str) and text else None)
    keys = sorted(seen, key=int) if _numeric(list(seen)) else sorted(seen)
    if len(keys) > 1000:
        raise DataError(f"{len(keys)} different labels: this does not look like classification")
    if labels is None:
        if not _numeric(keys):
            return _checked(keys, keys)
        names = [seen[k] for k in keys]
        if all(names) and len(set(names)) == len(names):
            return _checked(keys, [str(n) for n in names])
        if needs_words:
            raise OptionError(
                f"labels are numbers ({', '.join(keys[:8])}) and nothing says what they mean",
                hint="--labels 'word for the first,word for the second'",
            )
        return _checked(keys, keys)
    given = [w.strip() for w in labels.split(",") if w.strip()]
    if given and all("=" in w for w in given):
        named = {k.strip(): w.strip() for k, _, w in (g.partition("=") for g in given)}
        extra, missing = sorted(set(named) - set(keys)), sorted(set(keys) - set(named))
        if missing:
            raise OptionError(f"--labels has no word for {', '.join(missing)}", hint=f"labels found: {', '.join(keys)}")
        keys = keys + extra
        return _checked(keys, [named[k] for k in keys])
    if set(keys) <= set(given):
        return _checked(given, given)
    if not _numeric(keys) or len(given) < len(keys):
        raise OptionError(
            f"--labels has {len(given)} words ({', '.join(given)}) that do not fit the {len(keys)} labels found: "
            f"{', '.join(keys[:12])}",
            hint="one word for each in ascending order, or value=word,…",
        )
    if len(given) > len(keys):
        top = max(int(k) for k in keys)
        if min(int(k) for k in keys) < 0 or top >= len(given):
            raise OptionError(f"--labels has {len(given)} words for the {len(keys)} labels {', '.join(keys[:12])}")
        keys = [str(i) for i in range(len(given))]
    return _checked(keys, given)


def _checked(keys: Sequence[str], words: Sequence[str]) -> Classes:
    if len(keys) < 2:
        raise DataError(f"only one label found: {', '.join(keys) or 'none'}; classification needs at least two")
    if len(set(words)) != len(words):
        raise OptionError(f"two labels have the same word: {', '.join(words)}")
    return Classes(tuple(keys), tuple(words))


@dataclass(frozen=True)
class Rows:
    """Records with their rendered prompts, gold classes and tokens (one token list a row, or one for each option)."""

    records: Sequence[Record]
    prompts: Sequence[str]
    gold: Sequence[int]
    tokens: Sequence[Any]
    cut: int

    def __len__(self) -> int:
        return len(self.records)


def check_template(template: Template, parts: Mapping[str, Sequence[Record]], head: Head) -> None:
    """Refuse, before a model is loaded, columns that the template names and the records lack."""
    if head == "causal" and "label" not in template.fields:
        raise OptionError(f"--template {template.text!r} has no {{label}}", hint="such as '{text} It was {label}'")
    wanted = [f for f in template.fields if not (f == "label" and head == "causal")]
    if not wanted:
        raise OptionError(f"--template {template.text!r} shows nothing of a record", hint="name a column: '{text}'")
    for part, rows in parts.items():
        for number, row in enumerate(rows, 1):
            for name in wanted:
                if name not in row or row[name] is None:
                    raise DataError(
                        f"{part} record {number} has no column {name!r}; {columns_of(rows)}",
                        hint=f"--column {name}=…, or another --template",
                    )


class Classification:
    """Classification with any of the three heads.

    `rows` tokenises records once; `outputs` runs the model as it is now and gives what objectives ask for.
    """

    def __init__(
        self, loaded: Loaded, classes: Classes, template: Template, max_length: int, micro: int, seed: int = 0
    ) -> None:
        self.loaded, self.classes, self.template, self.seed = loaded, classes, template, seed
        limit = getattr(loaded.tokenizer, "model_max_length", max_length)
        positions = getattr(loaded.model.config, "max_position_embeddings", None)
        self.max_length = min(x for x in (max_length, limit, positions) if isinstance(x, int) and x > 0)
        self.micro = micro
        self.prefix: Prefix | None = None
        self._gumbel = functools.lru_cache(8192)(self._sample_noise)
        self._labels = [self._tokens(w) for w in classes.words] if loaded.head == "embedding" else []

    def _tokens(self, text: str) -> list[int]:
        ids = self.loaded.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        return list(ids)

    def cache_prefix(self, tuned: Iterable[str], parts: Sequence[Rows]) -> bool:
        """Compute what lies before the first tuned block once for all rows of `parts`. Whether that was possible: the
        blocks must be one list, their states fit in memory, and the fed model agree with the plain one."""
        found = find_blocks(self.loaded.model, tuned)
        if found is None:
            return False
        causal = self.loaded.head == "causal"
        rows = {tuple(t) for t in self._labels}
        for part in parts:
            for row in part.tokens:
                rows |= {tuple(ids) for ids, _ in row} if causal else {tuple(row)}
        prefix = Prefix(*found)
        few = sorted(rows, key=len)[:: max(1, len(rows) // 4)]
        with torch.no_grad():
            plain = self._run(few)[0]
            try:
                fits = prefix.fill(rows, self._run, self.micro)
            except (IndexError, KeyError, TypeError, AttributeError, ValueError):  # blocks called in another way
                return False
            if not fits:
                return False
            self.prefix = prefix
            try:
                fed = self._run(few)[0]
                mask = self._pad(few)[1].bool() if plain.dim() == 3 else torch.ones(len(few), dtype=torch.bool)
                same = torch.allclose(plain[mask].float(), fed[mask].float(), rtol=1e-3, atol=1e-4)
            except (RuntimeError, TypeError, AttributeError, ValueError):
                same = False
        if not same:
            self.prefix = None
        return same

    # -- records to rows -----------------------------------------------------------------------------------------------

    def rows(self, records: Sequence[Record]) -> Rows:
        head = self.loaded.head
        prompts = [self.template.render(r, until="label" if head == "causal" else None) for r in records]
        gold = [self.classes.index(r["label"]) for r in records]
        cut = 0
        tokens: list[Any] = []
        for prompt in prompts:
            if head == "causal":
                options = [self._option(prompt, word) for word in self.classes.words]
                cut += any(was_cut for _, _, was_cut in options)
                tokens.append([(ids, first) for ids, first, _ in options])
            else:
                ids = self._tokens(prompt)
                cut += len(ids) >= self.max_length
                tokens.append(ids)
        return Rows(records, prompts, [g if g is not None else -1 for g in gold], tokens, cut)

    def _option(self, prompt: str, word: str) -> tuple[list[int], int, bool]:
        """Tokens of prompt and word, tokenised together; the place of the word's first token. Truncation cuts the
        prompt's beginning and keeps the word."""
        tokenizer = self.loaded.tokenizer
        text = prompt + word
        if getattr(tokenizer, "is_fast", False):
            coded = tokenizer(text, return_offsets_mapping=True)
            ids = list(coded["input_ids"])
            ends = [end for _, end in coded["offset_mapping"]]
            inside = [i for i, end in enumerate(ends) if end > len(prompt)]
        else:
            ids, alone = list(tokenizer(text)["input_ids"]), list(tokenizer(prompt)["input_ids"])
            same = next((i for i, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b), len(alone))
            inside = list(range(same, len(ids)))
        if not inside:
            raise OptionError(f"the label word {word!r} has no token after {prompt[-20:]!r}")
        first, last = max(inside[0], 1), inside[-1]
        ids = ids[: last + 1]
        over = len(ids) - self.max_length
        if over > 0:
            if len(ids) - first >= self.max_length:
                raise OptionError(f"the label word {word!r} alone is longer than --max-length {self.max_length}")
            keep = 1 if ids[0] == getattr(tokenizer, "bos_token_id", None) else 0
            ids, first = ids[:keep] + ids[keep + over :], first - over
        return ids, max(first, 1), over > 0

    # -- rows to outputs -----------------------------------------------------------------------------------------------

    def outputs(self, rows: Rows, indices: Sequence[int]) -> dict[str, Any]:
        """Everything an objective may ask for, on these rows, with the weights as they are now."""
        logits = self.logits(rows, indices)
        return {"logits": logits, "model": self.loaded.model, **self.described(rows, indices, logits)}

    def described(self, rows: Rows, indices: Sequence[int], logits: Tensor) -> dict[str, Any]:
        """What follows from logits without the model: used for resampling, too. Columns of the data come first, so that
        a column cannot hide what the task gives."""
        records = [rows.records[i] for i in indices]
        labels = [rows.gold[i] for i in indices]
        columns = {name: [r.get(name) for r in records] for name in records[0]} if records else {}
        return {
            **columns,
            **self._named(logits.argmax(-1).tolist()),
            "prompts": [rows.prompts[i] for i in indices],
            "references": [self.classes.words[g] for g in labels],
            "labels": labels,
            "logits": logits,
            "batch": records,
        }

    def _named(self, predictions: list[int]) -> dict[str, Any]:
        return {"predictions": predictions, "completions": [self.classes.words[p] for p in predictions]}

    def sampled(self, indices: Sequence[int], logits: Tensor, draws: int) -> Iterator[dict[str, Any]]:
        """`draws` times predictions and completions, sampled from softmax(logits / SAMPLING_TEMPERATURE).

        The randomness depends on (seed, row, draw) alone, so it is common to all points of a step, and two points whose
        logits are close have mostly the same samples.
        """
        gumbel = torch.stack([self._gumbel(i, draws) for i in indices], dim=1)
        for predictions in (logits + SAMPLING_TEMPERATURE * gumbel).argmax(-1).tolist():
            yield self._named(predictions)

    def _sample_noise(self, row: int, draws: int) -> Tensor:
        """Gumbel noise (draws, classes) of one row: the largest of logits + noise is a sample of their softmax."""
        width = len(self.classes.words)
        uniform = torch.tensor(keys.uniform(draws * width, self.seed, "prediction", row), dtype=torch.float64)
        return -(-uniform.log()).log().float().view(draws, width)

    def passes(self, count: int) -> int:
        """Forward passes of the model that scoring so many rows makes."""
        return -(-count // self._micro) + (self.loaded.head == "embedding")

    @property
    def _micro(self) -> int:
        """Rows a pass: a causal model runs each row with each label."""
        return max(1, self.micro // len(self.classes.words)) if self.loaded.head == "causal" else self.micro

    @torch.no_grad()
    def logits(self, rows: Rows, indices: Sequence[int]) -> Tensor:
        """Scores (len(indices), classes), float32 on the CPU. Rows are run in order of length, so that little
        padding is computed, and returned in the order asked for."""
        head = self.loaded.head

        def length(i: int) -> int:
            return max(len(ids) for ids, _ in rows.tokens[i]) if head == "causal" else len(rows.tokens[i])

        order = sorted(range(len(indices)), key=lambda k: length(indices[k]))
        out = torch.empty(len(indices), len(self.classes.words))
        micro = self._micro
        labels = self._embed(self._labels).T if head == "embedding" else None
        for start in range(0, len(order), micro):
            places = order[start : start + micro]
            tokens = [rows.tokens[indices[k]] for k in places]
            if head == "causal":
                scores = self._causal(tokens)
            elif labels is not None:
                scores = TEMPERATURE * (self._embed(tokens) @ labels)
            else:
                scores = self._run(tokens).logits.float()
            out[places] = scores.cpu()
        return out

    @torch.no_grad()
    def features(self, rows: Rows) -> Tensor:
        """Embeddings (rows, hidden) of all rows, float32 on the CPU. For embedding models."""
        order = sorted(range(len(rows)), key=lambda i: len(rows.tokens[i]))
        parts = [order[k : k + self.micro] for k in range(0, len(order), self.micro)]
        out = torch.cat([self._embed([rows.tokens[i] for i in part]).cpu() for part in parts])
        return out[torch.tensor(order).argsort()]

    def _pad(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), self.loaded.tokenizer.pad_token_id or 0, dtype=torch.long)
        mask = torch.zeros(len(tokens), width, dtype=torch.long)
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids.to(self.loaded.device), mask.to(self.loaded.device)

    def _run(self, tokens: Sequence[Sequence[int]]) -> Any:
        """The model on these rows, from the first tuned block on where all that comes before is stored."""
        ids, mask = self._pad(tokens)
        rows = [tuple(t) for t in tokens]
        stored = self.prefix is not None and all(r in self.prefix for r in rows)
        with self.prefix.feeding(rows) if self.prefix and stored else contextlib.nullcontext():
            return self.loaded.model(input_ids=ids, attention_mask=mask)

    def _embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors (rows, hidden), float32."""
        hidden = self._run(tokens).last_hidden_state.float()
        if self.loaded.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weight = self._pad(tokens)[1].unsqueeze(-1).float()
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _causal(self, tokens: Sequence[Sequence[tuple[list[int], int]]]) -> Tensor:
        """Mean log-probability of each option's tokens: (rows, classes)."""
        flat = [option for row in tokens for option in row]
        logits = self._run([ids for ids, _ in flat]).logits
        scores = torch.empty(len(flat))
        for k, (option, first) in enumerate(flat):
            target = torch.tensor(option[first:], device=logits.device)
            log_p = torch.log_softmax(logits[k, first - 1 : len(option) - 1].float(), dim=-1)
            scores[k] = log_p.gather(-1, target[:, None]).mean()
        return scores.view(len(tokens), -1)


__all__ = [
    "DEFAULT_TEMPLATE",
    "OFFERED",
    "Classes",
    "Classification",
    "Rows",
    "Template",
    "check_template",
    "find_classes",
]
