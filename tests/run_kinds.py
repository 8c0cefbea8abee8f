"""Small runs of five kinds, for tests of what is shown of a run: classes, generated text, a judge, a set-level metric
and a scorer that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import zotune

THINGS: Final = ("film", "plot", "cast", "dog", "cat", "end", "start", "song")
USUAL: Final = {"optimizer": "mezo", "learning_rate": 1e-2, "eps": 0.05, "max_steps": 8, "eval_steps": 2}
QUICK: Final = {"batch_size": 4, "preflight": False, "max_new_tokens": 5}


def prompts(count: int, begin: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"question : who saw the {THINGS[(begin + i) % 8]} ? answer :"} for i in range(count)]


@zotune.objective(level="sample")
def words(completions: list[str]) -> list[float]:
    """Different words of a completion."""
    return [float(len(set(c.split()))) for c in completions]


@zotune.objective(gives="order")
def longer(candidates: Any) -> list[list[float]]:
    """A judge that prefers long answers."""
    return [[float(len(c)) for c in row] for row in candidates]


@zotune.objective(level="set", fast=True)
def distinct(completions: list[str]) -> float:
    """The share of different words in all completions."""
    every = " ".join(completions).split()
    return len(set(every)) / max(len(every), 1)


def failing() -> Callable[..., list[float]]:
    """A scorer that is down for its calls 6 to 9: two steps, each with a retry."""
    calls: Iterator[int] = iter(range(1, 1000))

    def down_at_times(completions: list[str]) -> list[float]:
        if next(calls) in (8, 9, 10, 11):
            raise RuntimeError("the scorer </script> is down")
        return words(completions)

    return down_at_times


def make_runs(folder: Path, encoder: Path, language_model: Path, toy: Path, data: Path) -> dict[str, Path]:
    """The runs by their kind."""
    generated = {**USUAL, **QUICK, "model": str(language_model), "dataset": str(data)}
    classes = {**USUAL, "batch_size": 8, "preflight": False, "model": str(encoder), "dataset": str(toy)}
    classes |= {"labels": "awful film,lovely film", "smooth": 0, "init": "none"}
    kinds: dict[str, dict[str, Any]] = {
        "classes": {**classes, "objective": "f1"},
        "text": {**generated, "objective": words},
        "judge": {**generated, "objective": longer},
        "set": {**generated, "objective": distinct},
        "failed": {**generated, "objective": failing(), "score_cache": False},
    }
    for kind, options in kinds.items():
        zotune.fit(**options, output_dir=str(folder / kind))
    return {kind: folder / kind for kind in kinds}
