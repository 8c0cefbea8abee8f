"""Default settings on the embedded encoder: two data sets, three objectives, two budgets.

    python benchmarks/default_settings.py            # restartable: finished runs are read from default_settings.jsonl
    python benchmarks/default_settings.py --seeds 5  # the embedded data and F1 alone, with five seeds

One JSON line per run; the table, in Markdown, at the end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import zotune
from zotune.models.model_files import embedded_model_folder

SST2 = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2"
CASES = {
    "support": {},
    "sst2": {"model": str(embedded_model_folder()), "dataset": str(SST2), "labels": "a terrible film,a great film"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("default_settings.jsonl"))
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    args.out.touch()
    if args.seeds:
        wanted = [("support", "f1", None, seed) for seed in range(args.seeds)]
    else:
        cases = [c for c in CASES if c != "sst2" or SST2.is_dir()]
        wanted = [(c, o, n, 0) for n in (600, 1200) for c in cases for o in ("cross-entropy", "accuracy", "f1")]
    for case, objective, evals, seed in wanted:
        done = {tuple(json.loads(line)["key"]) for line in args.out.read_text().splitlines()}
        if (case, objective, evals, seed) in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            budget = {} if evals is None else {"max_evals": evals}
            options = {**CASES[case], **budget, "seed": seed, "threads": args.threads}
            result = zotune.fit(objective=objective, output_dir=f"{folder}/run", **options).json()
        with args.out.open("a") as file:
            file.write(json.dumps({"key": [case, objective, evals, seed], **result, "folder": None}) + "\n")
    print(
        "| data | objective | evaluations | seed | base model | tuned | difference (95 % interval) | kept "
        "| linear probe | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for line in args.out.read_text().splitlines():
        r = json.loads(line)
        case, objective, _, seed = r["key"]
        d, start, tuned, probe = r["difference"], r["before"], r["tuned"], r["probe"]
        print(
            f"| {case} | {objective} | {r['forwards']} | {seed} | {start['value']:.3f} ± {start['error']:.3f} "
            f"| {tuned['value']:.3f} ± {tuned['error']:.3f} | {d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f}) "
            f"| {r['kept']} | {probe['value']:.3f} | {r['seconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
