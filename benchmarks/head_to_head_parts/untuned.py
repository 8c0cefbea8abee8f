"""What the base model reaches without tuning: with two demonstrations before each prompt, and as the best of eight."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

from head_to_head_parts.evaluation import Generator, Prompt
from head_to_head_parts.tasks import Record, Task

SHOTS, CANDIDATES, TRIED = 2, 8, 64
"""Demonstrations; completions of a prompt; training prompts whose sampled completions demonstrations are taken from."""


def demonstrations(task: Task, base: Generator, records: Sequence[Record]) -> list[dict[str, str]]:
    """The turns of two training prompts with their answers: the right one where the columns give it, else the two best
    of the base model's own samples."""
    if task.columns:
        answers = [json.dumps({name: r[name] for name in task.columns}) for r in records[:SHOTS]]
        pairs = list(zip(records[:SHOTS], answers, strict=True))
    else:
        tried = records[:TRIED]
        texts = base.complete([r["prompt"] for r in tried], task.tokens, seed=0)
        rewards = task.credits(texts, tried)
        order = sorted(range(len(tried)), key=lambda i: -rewards[i])[:SHOTS]
        pairs = [(tried[i], texts[i]) for i in order]
    return [turn for r, answer in pairs for turn in (*r["prompt"], {"role": "assistant", "content": answer})]


def demonstrated(task: Task, base: Generator, split: str = "test") -> dict[str, float]:
    """Rewards with two demonstrations before each prompt."""
    records = task.records()
    turns = demonstrations(task, base, records["train"])
    prompts: list[Prompt] = [[*turns, *r["prompt"]] for r in records[split]]
    greedy = task.mean_reward(base.complete(prompts, task.tokens), records[split])
    sampled = task.mean_reward(base.complete(prompts, task.tokens, seed=1), records[split])
    return {"greedy": greedy, "sampled": sampled}


def best_of_eight(task: Task, base: Generator, split: str = "test") -> dict[str, float]:
    """The mean of the best reward of eight samples of each prompt."""
    records = task.records()[split]
    asked = [r for r in records for _ in range(CANDIDATES)]
    rewards = task.credits(base.complete([r["prompt"] for r in asked], task.tokens, seed=1), asked)
    groups = [rewards[i : i + CANDIDATES] for i in range(0, len(rewards), CANDIDATES)]
    return {"sampled": statistics.mean(map(max, groups))}


__all__ = ["best_of_eight", "demonstrated"]
