"""The tasks of benchmarks/language_model.py: data, flags of `zotune fit`, and what else is counted of an answer.

Each task keeps the default settings; what its flags give is the objective, the number of new tokens, and sizes: the
budget in completions, validation and test rows.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from head_to_head_parts import smollm2, stories
from head_to_head_parts.processes import ROOT
from head_to_head_parts.tasks import right_values

SHARED = ROOT.parent / "shared" / "data"
"""Public data sets beside the checkout."""
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by split."""
SPLITS = ("train", "validation", "test")
SHORT = 100
"""Words of a SQuAD context at most."""


@dataclass(frozen=True)
class Task:
    """metric: the name in the table. flags: what the task is; DATA stands for the folder of its data. completions: the
    budget, in rows. validation, test: rows. right: another measure of an answer, which is reported, not rewarded."""

    name: str
    metric: str
    flags: tuple[str, ...]
    completions: int
    validation: int = 20
    test: int = 200
    rows: Callable[[], Rows] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    right: Callable[[str, Mapping[str, Any]], float] | None = None

    def prepare(self, home: Path) -> list[str]:
        """Write the data and return the flags. Raises SystemExit where data beside the checkout are missing."""
        if self.rows is not None:
            home.mkdir(parents=True, exist_ok=True)
            stories.write_splits(self.rows(), home)
        for name, text in self.files.items():
            (home.parent / f"{self.name}-{name}").write_text(text)
        words = {"DATA": str(home), "SHARED": str(SHARED), "FILES": str(home.parent / self.name)}
        return [re.sub("DATA|SHARED|FILES", lambda m: words[m[0]], flag) for flag in self.flags]


def _read(name: str) -> dict[str, list[dict[str, Any]]]:
    folder = SHARED / name
    if not folder.is_dir():
        raise SystemExit(f"needs the data set {folder}")
    return {s: [json.loads(line) for line in (folder / f"{s}.jsonl").read_text().splitlines()] for s in SPLITS}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose prompt is the text of its only message, so that rewards get texts."""
    return {**row, "prompt": row["prompt"][0]["content"]}


def questions() -> Rows:
    """Questions about everyday things."""
    return {split: list(map(_plain, some)) for split, some in smollm2.questions().items()}


def biographies() -> Rows:
    """bio_json; its 40 test rows are followed by 160 of the same form with other names."""
    rows = _read("bio_json")
    rows["test"] += [dict(r) for r in smollm2.biographies()["test"][: 200 - len(rows["test"])]]
    return {split: [{**_plain(r), "keys": ["name", "age"]} for r in some] for split, some in rows.items()}


PRODUCTS = ("apples", "lamps", "chairs", "bottles", "notebooks", "candles", "shirts", "pencils", "towels", "plates")
ORDERS = (
    "Please send {quantity} {product} to our shop in {city}.",
    "The shop in {city} would like {quantity} {product}.",
    "{city} needs {quantity} more {product} by Friday.",
    "We ordered {quantity} {product} for {city} last week.",
    "An order from {city}: {quantity} {product}, as usual.",
)
SCHEMA = {
    "type": "object",
    "properties": {"product": {"type": "string"}, "quantity": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["product", "quantity", "city"],
    "additionalProperties": False,
}


def orders(seed: int = 0) -> Rows:
    """Orders in a sentence, no two alike, and the three keys that an answer must have."""
    every = [
        {"product": product, "quantity": 0, "city": city, "form": form}
        for product in PRODUCTS
        for city in smollm2.CITIES
        for form in ORDERS
    ]
    draw = random.Random(seed)
    draw.shuffle(every)
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for split, count in smollm2.SIZES.items():
        rows[split] = []
        for order in every[:count]:
            values = {**order, "quantity": draw.randint(2, 90)}
            sentence = str(values.pop("form")).format(**values)
            ask = f"Return JSON with the keys product, quantity and city.\n\n{sentence}"
            rows[split].append({"prompt": ask, **values})
        every = every[count:]
    return rows


def right_order(text: str, row: Mapping[str, Any]) -> float:
    """1 for a JSON object with exactly the three keys and the right values."""
    try:
        return float(json.loads(text) == {key: row[key] for key in SCHEMA["properties"]})
    except ValueError:
        return 0.0


def short_contexts() -> Rows:
    """Rows of SQuAD whose context has at most SHORT words."""
    return {s: [r for r in rows if len(r["context"].split()) <= SHORT] for s, rows in _read("squad").items()}


def first_sentences() -> Rows:
    """SciTLDR with the first two sentences of each abstract."""

    def cut(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "document": " ".join(re.split(r"(?<=[.!?])\s+", row["document"].strip())[:2])}

    return {split: [cut(r) for r in rows] for split, rows in _read("scitldr").items()}


REWARD = f"{ROOT / 'examples' / 'json_reward.py'}:valid_json"
TASKS = {
    t.name: t
    for t in (
        Task(
            "json",
            "valid JSON",
            ("-d", "DATA", "-o", REWARD, "--max-new-tokens", "32"),
            384,
            rows=biographies,
            right=right_values,
        ),
        Task(
            "tone",
            "VADER",
            ("-d", "DATA", "-o", "vader", "--max-new-tokens", "32"),
            384,
            validation=40,
            rows=questions,
        ),
        Task(
            "sst2",
            "macro-F1",
            ("-d", "SHARED/sst2", "--task", "sst2", "--chat-template", "on", "-o", "f1"),
            800,
            validation=100,
            test=300,
        ),
        Task(
            "squad",
            "token F1",
            ("-d", "DATA", "--task", "squad", "-o", "token-f1", "--max-new-tokens", "16"),
            256,
            test=100,
            rows=short_contexts,
        ),
        Task(
            "scitldr",
            "ROUGE-L",
            ("-d", "DATA", "--task", "summarize", "--max-new-tokens", "48"),
            256,
            test=100,
            rows=first_sentences,
        ),
        Task("concise", "concise", ("--task", "concise", "--max-new-tokens", "32"), 256),
        Task(
            "orders",
            "valid JSON, other keys",
            ("-d", "DATA", "-o", "json:FILES-schema.json", "--max-new-tokens", "40"),
            384,
            rows=orders,
            files={"schema.json": json.dumps(SCHEMA)},
            right=right_order,
        ),
    )
}

__all__ = ["TASKS", "Rows", "Task", "orders", "right_order"]
