"""Accuracy and macro-F1 tuned on imbalanced data, beside cross-entropy with equal evaluations.

    python benchmarks/metrics.py                  # restartable: finished runs are read from metrics.jsonl
    python benchmarks/metrics.py --only-table

The embedded encoder on the embedded data, with two classes in full and every fourth row of the other four, so that a
class has 4 to 42 % of the rows. Each of three objectives is tuned with default settings, 1,200 evaluations and two
seeds; accuracy and macro-F1 are measured on the test set. Then `mezo` tunes accuracy without smoothing, at ε = 1e-3 and
batch size 16, and at the ε and the batch size that `zotune check` recommends: the share of steps without signal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zotune
from zotune import config
from zotune.data.sources import read_splits
from zotune.runs import check
from zotune.runs.plan import embedded_data

OBJECTIVES, SEEDS, FORWARDS, PROBES = ("cross-entropy", "accuracy", "f1"), 2, 1200, 200
BUDGET: dict[str, Any] = {"max_evals": FORWARDS, "threads": 1, "init": "none"}
WHOLE = ("billing", "delivery")
DATA = ""
MEZO = {"objective": "accuracy", "optimizer": "mezo", "smooth": 0, "threads": 1}


def imbalanced(folder: Path) -> str:
    """A directory of splits with the imbalanced part of the embedded data."""
    for split, rows in read_splits(embedded_data()).items():
        seen: Counter[str] = Counter()
        kept = []
        for row in rows:
            seen[row["label"]] += 1
            if row["label"] in WHOLE or seen[row["label"]] % 4 == 1:
                kept.append(row)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    return str(folder)


def scores(model: str | None) -> dict[str, list[float | None]]:
    found = zotune.evaluate(model=model, dataset=DATA, objective=["accuracy", "f1"], threads=1)
    return {name: [s.value, s.error] for name, s in found.items()}


def tuned(objective: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        result = zotune.fit(dataset=DATA, objective=objective, seed=seed, output_dir=run, **BUDGET)
        return {"kept": result.kept, "zero": result.zero_share, "seconds": result.seconds, **scores(run)}


def zero_share(**options: Any) -> dict[str, Any]:
    """The share of MeZO's steps without signal."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        rate = {"learning_rate": 1e-4, "eval_steps": PROBES}
        result = zotune.fit(**MEZO, dataset=DATA, **rate, **options, max_evals=PROBES, output_dir=run)
        return {**options, "zero": result.zero_share, "steps": result.steps}


def advised() -> dict[str, Any]:
    found = check.check(config.resolve({**MEZO, "dataset": DATA, "eps": 1e-3}, None))
    best = check.recommended(found)
    if best is None:
        raise SystemExit("no ε moves it")
    return zero_share(eps=best.eps, batch_size=best.batch)


def main() -> None:
    global DATA
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("metrics.jsonl"))
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    args.out.touch()

    def known() -> list[dict[str, Any]]:
        return [json.loads(line) for line in args.out.read_text().splitlines()]

    def once(key: list[Any], run: Callable[..., dict[str, Any]], **given: Any) -> None:
        if args.only_table or any(x["key"] == key for x in known()):
            return
        line = {"key": key, **run(**given)}
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    home = tempfile.TemporaryDirectory()
    DATA = imbalanced(Path(home.name))
    once(["start"], scores, model=None)
    once(["zero", "before"], zero_share, eps=1e-3, batch_size=16)
    once(["zero", "after"], advised)
    for seed in range(SEEDS):
        for objective in OBJECTIVES:
            once([objective, seed], tuned, objective=objective, seed=seed)

    lines = known()
    print("| tuned for | accuracy | macro-F1 | steps without signal | kept |\n|---|---|---|---|---|")
    for objective in ("start", *OBJECTIVES):
        mine = [x for x in lines if x["key"][0] == objective]
        cells = []
        for name in ("accuracy", "f1"):
            each = " / ".join(f"{x[name][0]:.3f}" for x in mine)
            cells.append(f"{each} (± {statistics.mean(x[name][1] for x in mine):.3f})" if mine else "")
        zero = " / ".join(f"{100 * x['zero']:.0f} %" for x in mine if "zero" in x)
        print(f"| {objective} | {' | '.join(cells)} | {zero} | {' / '.join(x.get('kept', '') for x in mine)} |")
    for line in lines:
        if line["key"][0] == "zero":
            eps, batch = line["eps"], line["batch_size"]
            print(f"\n{line['key'][1]}: ε {eps:.2g}, {batch} rows: {100 * line['zero']:.0f} % of steps without signal")


if __name__ == "__main__":
    main()
