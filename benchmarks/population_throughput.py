"""Completions a second of a population's pass, its update counted, beside a plain `generate` of the same rows.

    python benchmarks/population_throughput.py                                   # stories260K of ../shared
    python benchmarks/population_throughput.py --model model.gguf --dtype bfloat16 --rounds 3

Rows hold distinct prompts twice, once for each partner. Every completion has the same number of tokens: end tokens are
ignored, so that both sides generate the same lengths. Rounds are interleaved; the ratio is that of the medians of CPU
time. "generate" is transformers' own with its own cache, "without members" zotune's; "all matrices" is what `auto`
tunes on generated text, and "layers" leaves out embeddings and head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from zotune.config import RunConfig
from zotune.core.population import Population, RowWise, matrix_shape
from zotune.core.recipe import Directions, direction_sum
from zotune.core.space import Space, named_tensors
from zotune.models.generation_settings import generation_config, ignore_generation_defaults
from zotune.models.trainable import trainable_names
from zotune.runs.plan import plan
from zotune.runs.row_wise import COMPILED
from zotune.runs.session import Session

STORIES = Path(__file__).parents[2] / "shared" / "models" / "stories260K" / "hf"


class Case:
    """A model with a prompt for every pair, and its row-wise evaluation."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        prompts = [{"prompt": f"One day, number {i} went to the"} for i in range(args.rows)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
        (folder / "none.py").write_text("def none(completions):\n    return [0.0 for _ in completions]\n")
        config = RunConfig(
            model=str(args.model),
            dataset=str(folder / "prompts.jsonl"),
            objective=(f"{folder / 'none.py'}:none",),
            max_evals=48,
            max_new_tokens=args.tokens,
            dtype=args.dtype,
            perturb="copy",
        )
        session = Session(plan(config), lambda event: None)
        self.task, self.pairs = session.task, args.rows // 2
        names = trainable_names(session.loaded, "matrices")
        parameters = named_tensors(session.loaded.model)
        large = sum(parameters[n].numel() for n in names if n in parameters) >= COMPILED  # as a run decides
        compiled = args.compile == "on" or (args.compile == "auto" and large)
        self.space = Space(session.loaded.model, 0, lambda t: t.name in names, compile=compiled)
        tokens = [session.train.tokens[i % len(session.train)][0] for i in range(self.pairs)]
        self.prompts, self.indices = tokens + tokens, [*range(self.pairs), *range(self.pairs)]
        session.loaded.model.generation_config.eos_token_id = None
        session.loaded.tokenizer.eos_token_id = session.loaded.model.config.eos_token_id = None
        with torch.no_grad(), self.task.forward.one_pass():
            self.row_wise = RowWise(self.space, lambda: self.task.forced_logits(self.prompts[:4], 2), 4, compiled)

    def population(self, part: str, step: int) -> Population:
        shapes = {
            t.name: s
            for t in self.space.theta.tensors
            if part in t.name and t.name not in self.row_wise.unsupported and (s := matrix_shape(t))
        }
        sizes = {n: 0.03 * float(self.space.params[n].detach().float().square().mean().sqrt()) for n in shapes}
        return Population(Directions(shapes, self.pairs, step), sizes)

    def plain(self) -> int:
        """The model's own `generate` with transformers' cache."""
        inputs = self.task.forward.tokenizer.pad_left(self.prompts, self.space.module.device)
        settings = generation_config(self.task.loaded, self.task.spec.max_new_tokens, 0.0, 1.0)
        with ignore_generation_defaults(self.task.loaded), torch.no_grad():
            ids = self.space.module.generate(**inputs, generation_config=settings)
        return int(ids.numel() - inputs["input_ids"].numel())

    def generate(self) -> int:
        with self.task.forward.one_pass():
            return sum(map(len, self.task.generate(self.prompts, self.indices)))

    def step(self, population: Population) -> int:
        """A pass with members, and the update by weights that keep θ where it is to rounding."""
        with self.row_wise.at(population):
            tokens = self.generate()
        self.row_wise.release()
        weights = [1e-9 * (-1) ** p for p in range(self.pairs)]
        theta = self.space.theta
        self.space.assign(theta + population.size(theta) * direction_sum(population.directions, weights), None)
        return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=STORIES)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto", help="auto: as a run decides")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        case = Case(args, Path(folder))
    seconds: dict[str, list[float]] = {"generate": [], "all matrices": [], "layers": [], "without members": []}
    tokens = dict.fromkeys(seconds, 0)
    for step in range(args.rounds + 1):  # the first round warms up
        for name in seconds:
            begun = time.process_time()
            if name in ("generate", "without members"):
                tokens[name] = case.plain() if name == "generate" else case.generate()
            else:
                tokens[name] = case.step(case.population("" if name == "all matrices" else name, step))
            seconds[name].append(time.process_time() - begun)
    plain = statistics.median(seconds["generate"][1:])
    print(f"{args.model.name}, {args.dtype}, {args.rows} rows of {args.tokens} tokens, one thread")
    print("| | CPU s | completions a CPU second | tokens | of plain generate |\n|---|---|---|---|---|")
    for name, all_rounds in seconds.items():
        middle = statistics.median(all_rounds[1:])
        print(f"| {name} | {middle:.2f} | {args.rows / middle:.1f} | {tokens[name]} | {plain / middle:.2f} |")


if __name__ == "__main__":
    main()
