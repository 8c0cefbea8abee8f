"""The time left that a run shows, divided by the time that it then took, from its tenth step on.

    python benchmarks/time_left.py            # a Markdown table
    python benchmarks/time_left.py --cpu      # by CPU seconds of the process, for a machine with other work

Each case is a run of its own: classification and generation, with and without calibration, small and larger budgets,
slow and fast metrics, few and many rows. A moment counts as right where the ratio lies within 1.5, or the two times
within two seconds of each other.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zotune
from zotune.events import Event, StepDone
from zotune.runs import session
from zotune.runs.plan import embedded_data
from zotune.search.work_clock import WorkClock

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260K" / "hf"
FACTOR, SECONDS, FIRST = 1.5, 2.0, 10
CASES: dict[str, dict[str, Any]] = {
    "classification, 30 steps": {"max_steps": 30},
    "classification, 150 steps": {"max_steps": 150},
    "classification, f1": {"objective": "f1", "max_evals": 120},
    "classification, calibrated": {"optimizer": "mezo", "learning_rate": "auto", "eps": "auto", "max_evals": 200},
    "classification, all weights": {"optimizer": "mezo", "learning_rate": 1e-5, "tune": "all", "max_steps": 40},
    "classification, 10,000 rows": {"rows": 10_000, "max_steps": 30},
    "generation, likelihood": {"generates": True, "max_evals": 120},
    "generation, likelihood, calibrated": {"generates": True, "learning_rate": "auto", "optimizer": "mezo",
                                           "max_evals": 200},
    "generation, token-f1": {"generates": True, "objective": "token-f1", "max_evals": 80, "max_new_tokens": 16},
}  # fmt: skip


def write_rows(path: Path, count: int, generates: bool) -> None:
    """Messages to a shop's support, lengthened by drawn words; for generation with a text that continues them."""
    rng = random.Random(0)
    rows = [json.loads(line) for line in (embedded_data() / "train.jsonl").read_text().splitlines()]
    words = [word for row in rows for word in row["text"].split()]
    with path.open("w") as file:
        for _ in range(count):
            row = rng.choice(rows)
            text = f"{row['text']} {' '.join(rng.choices(words, k=rng.randrange(3, 12)))}"
            more = " ".join(rng.choices(words, k=8))
            line = {"prompt": text, "completion": more} if generates else {"text": text, "label": row["label"]}
            file.write(json.dumps(line) + "\n")


def ratios(options: dict[str, Any], folder: Path, clock: Callable[[], float]) -> list[tuple[float, float]]:
    """(predicted, actual) seconds at each step from the tenth on."""
    options = {**options}
    rows, generates = options.pop("rows", 0), options.pop("generates", False)
    if rows or generates:
        write_rows(folder / "rows.jsonl", rows or 600, generates)
        options["dataset"] = str(folder / "rows.jsonl")
        options["model"] = str(STORIES) if generates else None
    moments: list[tuple[float, float]] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.seconds_left is not None and event.step >= FIRST:
            moments.append((clock(), event.seconds_left))

    zotune.fit(**{k: v for k, v in options.items() if v is not None}, output_dir=str(folder / "run"), emit=emit)
    end = clock()
    return [(left, end - then) for then, left in moments]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="measure CPU seconds of this process")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    args = parser.parse_args(argv)
    clock = time.process_time if args.cpu else time.monotonic
    session.WorkClock = lambda: WorkClock(clock)  # type: ignore[assignment,misc]
    print("| run | steps counted | seconds left at step 10: shown / true | least ratio | largest ratio | right |")
    print("|---|---|---|---|---|---|")
    for name, options in CASES.items():
        if args.only not in name or (options.get("generates") and not STORIES.is_dir()):
            continue
        with tempfile.TemporaryDirectory() as folder:
            pairs = ratios({**options, "threads": 1}, Path(folder), clock)
        quotients = [shown / true for shown, true in pairs]
        right = [
            1 / FACTOR <= q <= FACTOR or abs(shown - true) <= SECONDS
            for q, (shown, true) in zip(quotients, pairs, strict=True)
        ]
        shown, true = pairs[0]
        print(
            f"| {name} | {len(pairs)} | {shown:.1f} / {true:.1f} | {min(quotients):.2f} | {max(quotients):.2f} "
            f"| {sum(right)} of {len(right)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
