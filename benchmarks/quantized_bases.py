"""Runs on quantised base weights beside the same run on float weights: what a reward reaches, and what it costs.

    python benchmarks/quantized_bases.py                       # a word in stories, by stories260K of ../shared
    python benchmarks/quantized_bases.py --model FOLDER --flag=--task=json --flag=--max-new-tokens=32 \\
        --flag=--objective=examples/json_reward.py:valid_json --flag=--test-rows=200

"matrices": the default, all matrices in float. "lora-fa": float weights, low-rank terms in B of `--peft lora-fa`. The
others have quantised weights under the same terms. Each case is one `zotune fit` in a process of its own, with one
thread; its CPU time holds everything from imports to the test scores. The difference is that of the test scores from
"matrices", in standard errors of both. Results are appended to --out, one JSON line a case.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from head_to_head_parts import stories

FLAGS: Final = {
    "matrices": [],
    "lora-fa": ["--peft", "lora-fa"],
    **{kind: ["--quantize", kind] for kind in ("int8", "int4", "fp8", "8bit", "4bit")},
}
SIZES: Final = {"train": 100, "validation": 20, "test": 200}
WORD: Final = """
def word(completions):
    return [float("happy" in text.lower()) for text in completions]
"""
SHORT: Final = ["--max-steps", "4", "--eval-steps", "4"]


def flags_of(args: argparse.Namespace, folder: Path) -> list[str]:
    """The flags that all cases share."""
    given = [word for flag in args.flag for word in flag.split("=", 1)]
    if args.model:
        return ["-m", str(args.model), *SHORT, "--validation-rows", "16", *given]
    drawn = stories.splits(stories.RARE_WORDS, SIZES)
    stories.write_splits({k: [{"prompt": p} for p in v] for k, v in drawn.items()}, folder / "data")
    (folder / "word.py").write_text(WORD)
    own = ["-m", str(stories.MODEL), "-d", str(folder / "data"), "-o", f"{folder / 'word.py'}:word"]
    return [*own, "--max-new-tokens", "32", "--max-steps", str(args.steps), "--eval-steps", str(args.steps), *given]


def run_case(case: str, shared: list[str], folder: Path, rank: int) -> dict[str, Any]:
    """One run: its test scores with standard errors, and CPU seconds. Raises CalledProcessError."""
    command = [sys.executable, "-m", "zotune", "fit", *shared, *FLAGS[case], "--lora-r", str(rank), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--output-dir", str(folder / case), "--guard", "0"], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads((folder / case / "result.json").read_text())
    return {
        "case": case,
        "before": result["before"],
        "tuned": result["tuned"],
        "steps": result["steps"],
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def table(rows: list[dict[str, Any]]) -> None:
    """One line a case, with its difference from "matrices" in standard errors."""
    reference = next((r["tuned"] for r in rows if r["case"] == "matrices"), None)
    print("| base weights | before | tuned | difference, standard errors | CPU s |\n|---|---|---|---|---|")
    for r in rows:
        before, tuned, apart = r["before"], r["tuned"], ""
        if reference and r["case"] != "matrices":
            error = math.hypot(tuned["error"] or 0.0, reference["error"] or 0.0) or math.nan
            apart = f"{tuned['value'] - reference['value']:+.3f}, {(tuned['value'] - reference['value']) / error:+.1f}"
        scores = f"{before['value']:.3f} | {tuned['value']:.3f} ± {tuned['error'] or 0.0:.3f}"
        print(f"| {r['case']} | {scores} | {apart} | {r['cpu_seconds']:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder; the task comes by --flag")
    parser.add_argument("--cases", default="matrices,lora-fa,int8,int4,fp8", help="comma-separated")
    parser.add_argument("--flag", action="append", default=[], metavar="--NAME=VALUE", help="passed to zotune fit")
    parser.add_argument("--steps", type=int, default=12, help="steps on stories")
    parser.add_argument("--rank", type=int, default=16, help="--lora-r")
    parser.add_argument("--out", type=Path, help="a file of JSON lines")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        shared = flags_of(args, Path(name))
        for case in args.cases.split(","):
            rows.append(run_case(case, shared, Path(name), args.rank))
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    table(rows)


if __name__ == "__main__":
    main()
