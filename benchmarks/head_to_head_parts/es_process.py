"""Runs of plain evolution strategies on all weights: python es_process.py JOBS.json

Algorithm 1 of Qiu et al. 2025, "Evolution Strategies at Scale", arXiv:2509.24372, without zotune: in an iteration N
members, each the weights plus σ times noise from its own seed, complete the same prompts greedily; Z is a member's mean
reward, standardised over the members, and the weights move by α/N Σ Z z. The learning rate is constant, so one run
gives the weights of every budget: they go to FOLDER/COMPLETIONS/run.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from head_to_head_parts.processes import cpu_seconds, peak_mib, run_jobs
from head_to_head_parts.tasks import SET_SIZE, TASKS

MEMBERS, ROWS = 32, 10
"""Members of the population, and prompts of an iteration."""


def main() -> None:
    import torch
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    from head_to_head_parts.evaluation import Generator

    @torch.no_grad()
    def job(settings: Mapping[str, Any]) -> dict[str, int]:
        began = cpu_seconds()
        task, records = TASKS[settings["task"]], settings["records"]
        model = Path(settings["model"])
        generator = Generator(model, model)
        parameters = list(generator.model.parameters())
        rows = SET_SIZE if task.rewards is None else ROWS
        draw, weights, counted = random.Random(settings["seed"]), parameters_to_vector(parameters).clone(), 0

        def noise(member: int) -> torch.Tensor:
            seed = settings["seed"] * 1_000_003 + counted * 1009 + member
            return torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))

        for budget in settings["budgets"]:
            while counted + MEMBERS * rows <= budget:
                batch = draw.sample(records, rows)
                rewards = []
                for member in range(MEMBERS):
                    vector_to_parameters(weights + settings["sigma"] * noise(member), parameters)
                    texts = generator.complete([r["prompt"] for r in batch], task.tokens)
                    rewards.append(task.mean_reward(texts, batch))
                mean, spread = statistics.mean(rewards), statistics.pstdev(rewards)
                if spread:
                    step = sum((r - mean) / spread * noise(member) for member, r in enumerate(rewards))
                    weights += settings["lr"] / MEMBERS * step
                counted += MEMBERS * rows
            vector_to_parameters(weights, parameters)
            folder = Path(settings["folder"], str(budget))
            generator.model.save_pretrained(folder / "run")
            cost = {"cpu_seconds": cpu_seconds() - began, "peak_mib": peak_mib(), "completions": counted}
            (folder / "cost.json").write_text(json.dumps({**cost, "held_out": 0}))
        return {"completions": counted, "held_out": 0}

    run_jobs(sys.argv[1], job)


if __name__ == "__main__":
    main()
