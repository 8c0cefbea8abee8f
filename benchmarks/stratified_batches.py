"""Variance that the two-point difference of a batch shares with that of all rows: random and stratified batches.

    python -m benchmarks.stratified_batches                    # a table of r²
    python -m benchmarks.stratified_batches --directions 80 --rows 32

For some random directions at the perturbation scale that `auto` calibrates: the objective's difference over all
training rows, and over several batches of either kind. r² with its standard error over resampled directions.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zotune import config
from zotune.events import ignore
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.runs.training_signal import mean_score
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.optimizer_call import initial_state

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DRAWS, RESAMPLES = 8, 200
Pairs = list[list[tuple[float, float]]]
"""For each direction: the difference over all rows, and over each of some batches."""


def cases() -> dict[str, dict[str, Any]]:
    """Options of `zotune.fit` for the cases whose data exist."""
    found: dict[str, dict[str, Any]] = {f"support-{goal}": {"objective": goal} for goal in ("f1", "accuracy")}
    if SHARED.is_dir():
        more = {"head": "embedding", "train_size": 1000}
        found["sst2-accuracy"] = {**more, "dataset": str(SHARED / "sst2"), "task": "sst2", "objective": "accuracy"}
        found["cola-f1"] = {**more, "dataset": str(SHARED / "cola"), "task": "cola", "objective": "f1"}
        found["cola-f1"]["init"] = "linear-probe"
    return found


def r2(pairs: Pairs) -> float:
    a, b = zip(*(pair for direction in pairs for pair in direction), strict=True)
    return statistics.correlation(a, b) ** 2


def measure(options: dict[str, Any], directions: int, rows: int, seed: int) -> dict[str, Pairs]:
    """For either kind of batches, for each direction: differences over all rows and over each of some batches."""
    session = Session(plan(config.resolve({**options, "threads": 1, "seed": seed}, None)), ignore)
    space, task, train, goal, tape = session.space, session.task, session.train, session.plan.objective, Tape()
    everything = list(range(len(train)))

    def at(t: int) -> At:
        session.oracle.begin(tape, t)
        return At(space, session.batches, tape, t, 300, 0.0)

    def score(outputs: dict[str, Any], chosen: list[int]) -> float:
        columns = {k: v for k, v in outputs.items() if k != "model"}
        some = {k: v[chosen] if isinstance(v, torch.Tensor) else [v[i] for i in chosen] for k, v in columns.items()}
        drawn = task.sample_predictions(train, chosen, some["logits"], session.signal.smooth)
        return mean_score([goal.score(len(chosen), some | one) for one in drawn]).value

    state = initial_state(session.plan.optimizer, space, session.oracle, at(-1))
    strata = [tuple(g) for g in train.gold]
    kinds = {"random": Batches(len(train), rows, seed), "stratified": Batches(len(train), rows, seed, strata)}
    found: dict[str, Pairs] = {kind: [] for kind in kinds}
    for k in range(directions):
        z, both = at(1000 + k).rademacher(), []
        for sign in (1, -1):
            with space.at(space.theta + sign * state.eps * state.D * z, 1):
                both.append(task.outputs(train, everything, goal.inputs))
        up, down = both
        whole = score(up, everything) - score(down, everything)
        for kind, batches in kinds.items():
            drawn = [list(batches.at(k, 1 + j).rows) for j in range(DRAWS)]
            found[kind].append([(whole, score(up, b) - score(down, b)) for b in drawn])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directions", type=int, default=40)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    print("| case | r² random | r² stratified | difference |\n|---|---|---|---|")
    for name, options in cases().items():
        found = measure(options, args.directions, args.rows, args.seed)
        rng, differences = random.Random(args.seed), list[float]()
        for _ in range(RESAMPLES):
            chosen = rng.choices(range(args.directions), k=args.directions)
            a, b = (r2([found[kind][i] for i in chosen]) for kind in found)
            differences.append(b - a)
        a, b = (r2(pairs) for pairs in found.values())
        print(f"| {name} | {a:.2f} | {b:.2f} | {b - a:+.2f} ± {statistics.stdev(differences):.2f} |", flush=True)


if __name__ == "__main__":
    main()
