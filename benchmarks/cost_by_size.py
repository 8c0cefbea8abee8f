"""Cost of a step by model size, at equal tokens: random weights, all of them tuned.

    python benchmarks/cost_by_size.py                           # 1 M to 200 M weights, 16 x 32 tokens; a table
    python benchmarks/cost_by_size.py --most 60 --optimizer auto --threads 1

Llama-shaped models with tied embeddings of 8,192 words. A forward pass costs about tokens times weights, and a step
adds a cost in proportion to the weights, so the ratio falls with tokens and depends little on size. Computing the
cross-entropy from the logits (objective) costs tokens times words, which is much for a small model. Perturbation,
update and objective are in units of two forward passes. `zotune bench` measures one model in more detail.
"""

from __future__ import annotations

import argparse

import torch

from zotune.bench import bench
from zotune.models import loading
from zotune.models.loaded_model import LoadedModel

SHAPES = {1: (64, 8), 5: (192, 8), 20: (384, 10), 60: (640, 11), 200: (1024, 15)}
"""Width and layers, by millions of weights."""
WORDS, HEAD = 8192, 64


def shaped(width: int, layers: int, tokens: int, seed: int) -> LoadedModel:
    heads = width // HEAD
    sizes = {
        "vocab_size": WORDS,
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": tokens,
        "tie_word_embeddings": True,
    }
    return loading.random_model("llama", sizes, seed=seed, name=f"llama {layers} x {width}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="mezo")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=float, default=max(SHAPES), help="millions of weights of the largest model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    options = bench.Options(args.rows, args.tokens, args.rounds, compile=not args.no_compile)
    rules, _ = bench.resolve([args.optimizer])
    print(
        "| weights | two forward passes | step | step / its forwards | perturbation | update | objective "
        "| textbook / step |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for millions, (width, layers) in SHAPES.items():
        if millions > args.most:
            continue
        found = bench.measure(shaped(width, layers, args.tokens, options.seed), rules, options)
        e, textbook = found["optimizers"][0], found["textbook"]
        parts = " | ".join(f"{e['parts'][p]['of_two_forwards']:.2f}" for p in ("perturb", "update", "objective"))
        print(
            f"| {found['weights'] / 1e6:.1f} M | {e['two_forwards_ms']:.0f} ms | {e['step_ms']:.0f} ms "
            f"| {e['ratio']:.2f} | {parts} | {textbook['over_step']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
