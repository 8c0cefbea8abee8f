"""The peak memory that `zotune fit --dry-run` predicts, beside that of the run.

    python benchmarks/memory_estimate.py            # a Markdown table
    python benchmarks/memory_estimate.py --only generation

Every figure comes from a fresh process; a peak is its highest resident set. The larger models are Llama-shaped, of
random float32 weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from time_left import STORIES, write_rows

LARGE = "large"
CASES: dict[str, list[str]] = {
    "classification": ["--max-steps", "10"],
    "classification, all weights, mezo-adam": ["--max-steps", "4", "--tune", "all", "--optimizer", "mezo-adam"],
    "classification, 10,000 rows, default budget": ["-d", "classes:10000", "--max-evals", "2400", "--max-time", "1"],
    "generation, likelihood": ["-m", str(STORIES), "-d", "texts:600", "--max-steps", "6"],
    "generation, token-f1": ["-m", str(STORIES), "-d", "texts:600", "--max-steps", "4", "-o", "token-f1",
                             "--max-new-tokens", "16"],
    "generation, 60 M weights, all, mezo": ["-m", LARGE, "-d", "texts:200", "--max-steps", "3", "--optimizer", "mezo",
                                            "--tune", "all"],
    "generation, 60 M weights, LoRA": ["-m", LARGE, "-d", "texts:200", "--max-steps", "3", "--optimizer", "mezo",
                                       "--peft", "lora"],
}  # fmt: skip


def make_large(folder: Path) -> None:
    """A Llama-shaped model of random weights with the tokenizer of a small one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(str(STORIES))
    torch.manual_seed(0)
    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": len(tokenizer)}
    config = LlamaConfig(
        **shape,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measured(arguments: Sequence[str]) -> tuple[str, float, float]:
    """(standard output, peak in MiB, seconds) of `zotune fit` in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "zotune", "fit", "--threads", "1", "--quiet", "--json", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return out, usage.ru_maxrss / 1024, time.monotonic() - started


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    args = parser.parse_args(argv)
    print("| run | dry run | predicted peak | peak | predicted / peak |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in CASES.items():
            if args.only not in name or (str(STORIES) in options and not STORIES.is_dir()):
                continue
            arguments = list(options)
            for k, option in enumerate(options):
                if option == LARGE:
                    if not (Path(folder) / LARGE).exists():
                        make_large(Path(folder) / LARGE)
                    arguments[k] = str(Path(folder) / LARGE)
                kind, _, count = option.partition(":")
                if kind in ("classes", "texts") and count:
                    arguments[k] = str(Path(folder) / f"{kind}-{count}.jsonl")
                    write_rows(Path(arguments[k]), int(count), kind == "texts")
            out, _, seconds = measured([*arguments, "--dry-run"])
            predicted = json.loads(out)["memory_mb"]["peak"]
            _, peak, _ = measured([*arguments, "--output-dir", f"{folder}/{name}"])
            ratio = predicted / peak
            print(f"| {name} | {seconds:.0f} s | {predicted:.0f} MiB | {peak:.0f} MiB | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
