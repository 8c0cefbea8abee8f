"""Test scores of weights interpolated between the base model and the last step, and beyond it.

    python benchmarks/interpolation.py --case sst2-cross-entropy --budget 1200 --arg cap=3 >> interpolation.jsonl

Cases are those of benchmark_suite.py. One JSON line: for each share of the displacement the paired difference to the
base model on the test set, with its standard error. `auto` evaluates half of the displacement and the minimum of a
parabola.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmark_suite import cases

import zotune
from zotune import config
from zotune.events import ignore
from zotune.options import pairs
from zotune.runs.plan import plan
from zotune.runs.session import Session
from zotune.search import checkpoint

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[c for c in cases() if not c.startswith("stories")], default="support-f1")
    parser.add_argument("--budget", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arg", action="append", default=[], help="option of auto, name=value")
    args = parser.parse_args()
    options = {**cases()[args.case], "optimizer_args": pairs(args.arg, "--arg"), "max_evals": args.budget}
    options |= {"seed": args.seed, "threads": 1, "rollback": 0.0, "interpolate": False, "preflight": False}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        zotune.fit(output_dir=str(run), eval_steps=10**6, **options)
        session = Session(plan(config.resolve(options, None)), ignore)
        base, before = session.space.snapshot(), session.test.score()
        checkpoint.read(run / f"checkpoint-{checkpoint.checkpoints(run)[-1]}", session.space)
        last = session.space.snapshot()
    line: dict[str, Any] = {"key": [args.case, args.budget, args.seed, *args.arg], "before": before[1].value}
    for share in SHARES:
        session.space.load(checkpoint.interpolate(base, last, share))
        gain = session.test.difference(before, session.test.score(), args.seed)
        line[f"{share:g}"] = [round(gain.value, 4), round(gain.error or 0.0, 4)]
    print(json.dumps(line))


if __name__ == "__main__":
    main()
