"""Whole runs as a user starts them."""

from __future__ import annotations

import time
from typing import Any

import zotune
from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.models import folder, messages
from zotune.errors import ModelError
from zotune.models.model_files import embedded_model_folder

ENCODER = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
"""The sizes of the embedded MiniLM encoder."""


@part("encoder", "an encoder is tuned for macro-F1 from start to end", seconds=60)
def encoder(check: Check) -> None:
    options: dict[str, Any] = {"max_evals": 60 if check.tiny else 400, "eval_steps": 20, "device": check.device}
    try:
        embedded_model_folder()
        name = "the embedded encoder on the embedded data"
    except ModelError:  # its package is 91 MB and may be missing here
        name = "a random encoder of the same sizes"
        path = folder(check.folder / "encoder", "bert", ENCODER, "BertModel")
        options |= {"model": str(path), "dataset": str(messages(check.folder / "rows.jsonl", 400))}
    began = time.perf_counter()
    result = zotune.fit(objective="f1", output_dir=str(check.folder / "run"), **options)
    seconds = time.perf_counter() - began
    check.row(
        f"{name}: `zotune fit -o f1 --max-evals {options['max_evals']}` runs to its end",
        f"{result.reason}, f1 {result.before.value:.4f} to {result.after.value:.4f}, {seconds:.0f} s",
        holds=result.reason == "done" and (check.folder / "run" / "config.json").is_file(),
        bound="done",
    )
    again = zotune.evaluate(model=str(check.folder / "run"), objective=["f1"], device=check.device, **_data(options))
    check.row("`zotune eval` scores the run directory", str(again)[:120])


def _data(options: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": options["dataset"]} if "dataset" in options else {}
