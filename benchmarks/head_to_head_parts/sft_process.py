"""Supervised tuning of a model on its own rewarded completions: python sft_process.py JOBS.json

A job samples `completions` completions of training prompts at temperature 1, keeps those with the best rewards (all
that reach the maximum of the task's samples, at most a quarter and at least eight) and trains all weights on them with
AdamW for three epochs of batches of eight rows: rejection sampling, or one round of STaR. The weights go to FOLDER/run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from head_to_head_parts.processes import run_jobs
from head_to_head_parts.tasks import TASKS

EPOCHS, BATCH, LEAST = 3, 8, 8


def best(rewards: Sequence[float]) -> list[int]:
    """Indices of the rows to train on."""
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    top = sum(r == rewards[order[0]] for r in rewards)
    return order[: max(LEAST, min(top, len(order) // 4))]


def main() -> None:
    import torch

    from head_to_head_parts.evaluation import Generator

    def job(settings: Mapping[str, Any]) -> dict[str, int]:
        task, records = TASKS[settings["task"]], settings["records"]
        generator = Generator(Path(settings["model"]), Path(settings["model"]))
        model, count = generator.model, settings["completions"]
        asked = [records[i % len(records)] for i in range(count)]
        rows = generator.sequences([r["prompt"] for r in asked], task.tokens, seed=settings["seed"])
        texts = generator.tokenizer.batch_decode([new for _, new in rows], skip_special_tokens=True)
        kept = best(task.credits(texts, asked))
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.0)
        draw = torch.Generator().manual_seed(settings["seed"])
        model.train()
        for _ in range(EPOCHS):
            order = torch.randperm(len(kept), generator=draw).tolist()
            for start in range(0, len(order), BATCH):
                batch = [rows[kept[i]] for i in order[start : start + BATCH]]
                width = max(len(prompt) + len(new) for prompt, new in batch)
                ids = torch.full((len(batch), width), generator.tokenizer.pad_token_id)
                labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
                for i, (prompt, new) in enumerate(batch):
                    end = len(prompt) + len(new)
                    ids[i, :end], mask[i, :end] = torch.cat([prompt, new]), 1
                    labels[i, len(prompt) : end] = new
                model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        model.save_pretrained(settings["folder"] + "/run")
        return {"completions": count, "held_out": 0, "rows": len(kept)}

    run_jobs(sys.argv[1], job)


if __name__ == "__main__":
    main()
