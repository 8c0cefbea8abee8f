"""The scores of a model folder on a task: the same code for every method."""

from __future__ import annotations

import statistics
from pathlib import Path

from head_to_head_parts.evaluation import Generator, kl_divergence, kl_on_texts
from head_to_head_parts.methods import model_folder
from head_to_head_parts.tasks import Task

SAMPLE_SEEDS = {"stories": (1, 2), "smollm2": (1,)}
"""Seeds of the samples of each prompt."""
KL_PROMPTS = 64
UNRELATED = Path(__file__).with_name("unrelated.txt")
"""64 texts that no task is about, written for this benchmark and in the public domain (CC0)."""


class Judge:
    """Keeps the base models that it has read."""

    def __init__(self) -> None:
        self._bases: dict[str, Generator] = {}

    def base(self, task: Task) -> Generator:
        folder = model_folder(task)
        return self._bases.setdefault(task.model, Generator(folder, folder))

    def scores(self, task: Task, model: Path, split: str) -> dict[str, float]:
        """greedy: mean reward of greedy completions; right: the task's other measure of them; sampled: reward at
        temperature 1; kl, kl_unrelated: KL divergence from the base model on the task's prompts and on other texts, in
        nats a token."""
        base = self.base(task)
        tuned = Generator(model, model_folder(task))
        records = task.records()[split]
        prompts = [r["prompt"] for r in records]
        seeds = SAMPLE_SEEDS[task.model]
        sampled = [task.mean_reward(tuned.complete(prompts, task.tokens, s), records) for s in seeds]
        texts = tuned.complete(prompts, task.tokens)
        scores = {
            "greedy": task.mean_reward(texts, records),
            "sampled": statistics.mean(sampled),
            "kl": kl_divergence(tuned, base, prompts[:KL_PROMPTS], task.tokens),
        }
        if task.model == "smollm2":
            scores["kl_unrelated"] = kl_on_texts(tuned, base, UNRELATED.read_text().splitlines())
        if task.right is not None:
            scores["right"] = statistics.mean(map(task.right, texts, records))
        return scores


__all__ = ["Judge"]
