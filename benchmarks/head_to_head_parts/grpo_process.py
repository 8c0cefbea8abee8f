"""Runs of TRL's GRPOTrainer in the rivals' environment: python grpo_process.py JOBS.json

A job names the model folder, the records, the task, the number of completions, the learning rate, the seed, the group
and prompts a step, and its folder: the weights go to FOLDER/run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from head_to_head_parts.processes import run_jobs
from head_to_head_parts.tasks import TASKS, text_of


def main() -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    def job(settings: Mapping[str, Any]) -> dict[str, int]:
        task, counted = TASKS[settings["task"]], 0

        def reward(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float]:
            nonlocal counted
            counted += len(completions)
            rows = [{name: columns[name][i] for name in task.columns} for i in range(len(completions))]
            return task.credits([text_of(c) for c in completions], rows)

        tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        rows = settings["prompts_a_step"] * settings["group"]
        config = GRPOConfig(
            output_dir=settings["folder"] + "/trainer",
            per_device_train_batch_size=rows,
            num_generations=settings["group"],
            max_steps=settings["completions"] // rows,
            max_completion_length=task.tokens,
            learning_rate=settings["lr"],
            beta=settings["beta"],
            temperature=1.0,
            seed=settings["seed"],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(settings["records"]),
            processing_class=tokenizer,
            peft_config=adapter if settings["lora"] else None,
        )
        trainer.train()
        tuned = trainer.model.merge_and_unload() if settings["lora"] else trainer.model
        tuned.save_pretrained(settings["folder"] + "/run")
        return {"completions": counted, "held_out": 0}

    run_jobs(sys.argv[1], job)


if __name__ == "__main__":
    main()
