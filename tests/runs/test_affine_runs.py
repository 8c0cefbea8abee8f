"""Whole runs of `auto` with a real model: a shift and a factor of the objective change none of their decisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl

import zotune
from zotune.runs.result import Result
from zotune.runs.run_directory import JOURNAL
from zotune.search.journal import Journal

NAMES = ("Lily", "Tom", "Ben", "Sue", "Max", "Amy")
PLACES = ("park", "river", "shop", "farm", "forest", "beach")
CHANGES: dict[str, tuple[float, float]] = {
    "shift": (1.0, 1000.0),
    "minus the base score": (1.0, 0.0),
    "a million": (1e6, 0.0),
    "a power of two": (2.0**-7, 0.0),
    "a large power of two": (2.0**20, 0.0),
}
Change = tuple[float, float]


def happy(text: str) -> float:
    """A reward of no round numbers: the share of happy words, and a little for short sentences."""
    words = text.lower().split()
    count = sum(w.strip(".,!\"'") in ("happy", "smiled", "fun", "love") for w in words)
    return count / 3 + 0.1 * text.count(".") / max(len(words), 1)


def rewards(change: Change) -> Callable[..., Any]:
    factor, shift = change

    def reward(completions: list[str]) -> list[float]:
        return [factor * happy(text) + shift for text in completions]

    return reward


def sets(change: Change) -> Callable[..., Any]:
    """One number for all rows, so that no row has a value of its own."""
    factor, shift = change

    def share(completions: list[str]) -> float:
        values = [happy(text) for text in completions]
        return factor * (sum(values) / len(values)) ** 0.5 + shift

    return share


def losses(change: Change) -> Callable[..., Any]:
    """The cross-entropy of the labels, as one number for all rows."""
    factor, shift = change

    @zotune.objective(direction="minimize", level="set")
    def loss(logits: Any, labels: list[int]) -> float:
        import torch

        gold = torch.tensor(labels)
        return factor * float(torch.nn.functional.cross_entropy(logits.double(), gold)) + shift

    return loss


KINDS: dict[str, tuple[Callable[[Change], Callable[..., Any]], dict[str, Any]]] = {
    "reward": (rewards, {"max_steps": 5, "max_new_tokens": 20}),
    "set of texts": (sets, {"max_steps": 4, "max_new_tokens": 20}),
    "loss of sets": (
        losses,
        {"max_evals": 150, "template": "{text} It was {label}", "labels": "bad,good", "eval_steps": 10},
    ),
}


class Runs:
    """Runs of one kind that differ in their objective alone."""

    def __init__(self, kind: str, model: Path, folder: Path) -> None:
        self.kind, (self.make, self.options) = kind, KINDS[kind]
        self.model, self.folder = model, folder
        if kind == "loss of sets":
            records = {"train": rows(64), "validation": rows(20, 100), "test": rows(20, 200)}
        else:
            prompts = [{"prompt": f"One day {a} went to the {b}"} for a in NAMES for b in PLACES]
            records = {"train": prompts[:20], "validation": prompts[20:28], "test": prompts[28:]}
        for name, lines in records.items():
            write_jsonl(folder / "data" / f"{name}.jsonl", lines)
        self.plain, self.result = self.run("plain", (1.0, 0.0))

    def run(self, name: str, change: Change) -> tuple[Path, Result]:
        output = self.folder / name.replace(" ", "-")
        options = {"model": str(self.model), "dataset": str(self.folder / "data"), "output_dir": str(output)}
        result = zotune.fit(objective=self.make(change), eval_batch_size=32, **options, **self.options)
        return output, result


def decisions(folder: Path) -> list[Any]:
    """What a run has decided, without the numbers that it decided by."""
    kept = []
    for line in Journal.open(folder / JOURNAL, read_only=True).lines:
        number = [key for key in ("score", "loss", "samples", "tape", "parts", "kl", "weights") if key in line]
        kept.append({k: v for k, v in line.items() if k not in number and not isinstance(v, float | list | dict)})
    return kept


@pytest.fixture(scope="module", params=sorted(KINDS))
def runs(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    kind = str(request.param)
    return Runs(kind, shared / "models" / "stories260K" / "hf", tmp_path_factory.mktemp("affine"))


@pytest.mark.parametrize("name", CHANGES)
def test_a_shift_and_a_factor_change_no_decision(runs: Runs, name: str) -> None:
    if runs.kind == "set of texts" and name not in ("shift", "a power of two"):
        pytest.skip("seconds of generation; the other kinds have all changes")
    factor, shift = CHANGES[name]
    if name == "minus the base score":
        shift = -runs.result.before.value
    folder, result = runs.run(name, (factor, shift))
    assert decisions(folder) == decisions(runs.plain)
    for part in ("before", "tuned", "after"):
        own, plain = getattr(result, part), getattr(runs.result, part)
        assert (own.value - shift) / factor == pytest.approx(plain.value, abs=1e-3)
        assert (own.error is None) == (plain.error is None)
    assert (result.kept, result.best_step, result.best_share) == (
        runs.result.kept,
        runs.result.best_step,
        runs.result.best_share,
    )
    assert result.steps > 3
    if "power of two" in name:
        same = [(x / "model.safetensors").read_bytes() for x in (folder, runs.plain)]
        assert same[0] == same[1]
