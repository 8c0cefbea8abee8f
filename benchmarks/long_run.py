"""A long run in one process: growth of memory, growth of the journal, time per step.

    python benchmarks/long_run.py                               # 20,000 steps; one JSON object
    python benchmarks/long_run.py --steps 2000 --out long.json

`mezo` tunes a language model of 260,000 weights (../shared/models/stories260K) on 64 rows of SST-2, batch size 4. Each
of 20 marks records the memory of the process, the size of the journal and the median step time since the last mark. The
first tenth is warm-up. The exit code is 1 if memory grows by more than 500 bytes per step (journal lines are kept in
memory, nothing else), if steps are half as slow again at the end, or if the growth of the journal differs by more than
a tenth between marks. Without the model it prints so and exits with 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zotune
from zotune.events import Event, StepDone

SHARED = Path(__file__).resolve().parents[2] / "shared"
MARKS = 20
KEPT = 500
"""Bytes a step by which memory may grow: a line of the journal, as it is written."""
PAGE = 4096


def resident() -> float:
    """Megabytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


class Watch:
    """Receives the events of a run and writes down a line at each mark."""

    def __init__(self, steps: int, journal: Path) -> None:
        self.every, self.journal = max(steps // MARKS, 1), journal
        self.lines: list[dict[str, float]] = []
        self._times: list[float] = []
        self._last = time.perf_counter()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        now = time.perf_counter()
        self._times.append(now - self._last)
        if event.step % self.every == 0:
            self.lines.append(
                {
                    "step": event.step,
                    "memory_mb": round(resident(), 1),
                    "journal_bytes": self.journal.stat().st_size,
                    "ms_a_step": round(1000 * statistics.median(self._times), 3),
                }
            )
            self._times = []
        self._last = time.perf_counter()


def verdict(lines: list[dict[str, float]]) -> dict[str, Any]:
    """What the marks after the first tenth say."""
    warm = lines[max(len(lines) // 10, 1) - 1 :]
    first, last = warm[0], warm[-1]
    each = [(b["journal_bytes"] - a["journal_bytes"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(warm)]
    third = max(len(warm) // 3, 1)
    early, late = (statistics.median(x["ms_a_step"] for x in part) for part in (warm[:third], warm[-third:]))
    grown = (last["memory_mb"] - first["memory_mb"]) * 2**20 / (last["step"] - first["step"])
    found = {
        "memory_bytes_a_step": round(grown),
        "memory_mb": [first["memory_mb"], last["memory_mb"]],
        "journal_bytes_a_step": [round(min(each), 1), round(max(each), 1)],
        "ms_a_step": [early, late],
    }
    flat = grown <= KEPT and late <= 1.5 * early and max(each) <= 1.1 * min(each)
    return {**found, "flat": flat}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path, help="also write the marks to this file")
    args = parser.parse_args()
    model, data = SHARED / "models" / "stories260K" / "hf", SHARED / "data" / "sst2"
    if not model.is_dir() or not data.is_dir():
        print(f"nothing to run: no {model} or no {data}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(args.steps, Path(folder) / "run" / "journal.jsonl")
        (Path(folder) / "data").mkdir()
        for split, rows in (("train", 64), ("validation", 16), ("test", 16)):
            source = data / f"{'train' if split == 'train' else 'validation'}.jsonl"
            lines = source.read_text(encoding="utf-8").splitlines()
            part = lines[16 : 16 + rows] if split == "test" else lines[:rows]
            (Path(folder) / "data" / f"{split}.jsonl").write_text("\n".join(part), encoding="utf-8")
        zotune.fit(
            model=str(model),
            dataset=str(Path(folder) / "data"),
            labels="bad,good",
            max_length=24,
            optimizer="mezo",
            objective="cross-entropy",
            batch_size=4,
            max_steps=args.steps,
            eval_steps=max(args.steps // 10, 1),
            output_dir=str(Path(folder) / "run"),
            emit=watch,
        )
    found = verdict(watch.lines)
    text = json.dumps({"steps": args.steps, **found, "marks": watch.lines}, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({"steps": args.steps, **found}))
    sys.exit(not found["flat"])


if __name__ == "__main__":
    main()
