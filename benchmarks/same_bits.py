"""Compare two checkouts of this repository: do the same runs give the same bits?

    python benchmarks/same_bits.py --against PATH_OR_REVISION [--only NAME]

For each case `python -m zotune fit` runs once with this checkout and once with the other: in a subprocess, with the
same interpreter, the same threads and the same files, each in a temporary folder. Two things are compared.

- The journals, line by line and value by value. `versions` and the hashes of source files in the header are listed but
  not counted, for they change whenever a file is edited or moved and hold no result. Texts for people (see `WORDING`)
  are treated likewise; the numbers in their line are compared.
- The weights of the run directory, tensor by tensor and bit for bit: the kept model, and every checkpoint with the
  optimizer's fields.

One row a case is printed: `same`, or `differs` with the first difference. The exit code is 1 if any case differs, 2 if
a run failed or there is nothing to compare.

Journals keep their keys: runs that were written by an older version must be read by a newer one. `RENAMED` is there for
the day on which that cannot be held; it is empty.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RENAMED: dict[str, str] = {}
"""JSON keys of the other checkout's journals and their names in this one's: {"old": "new"}."""
UNCOUNTED = frozenset({"versions", "objective_source", "optimizer_source"})
"""Keys of a journal's header that name versions and source files, not results."""
WORDING = frozenset(
    {("preflight", key) for key in ("lines", "batch_size", "steps", "eps", "wider_eps", "wider_zero")}
    | {("preflight", key) for key in ("linear_probe", "base_score")}
    | {("calibration", key) for key in ("lines", "perturbation", "kl", "loss_increase", "steps")}
)
"""(kind of line, key) of texts that are written for people, and of the numbers that such texts are made of."""
TIMEOUT = 1800
"""Seconds that one run may take."""

STORIES = "../shared/models/stories260K/hf"
"""A tiny Llama beside the checkout."""
REWARD = '''\
def vowels(completions, **_):
    """Share of vowels, less a little for length: a number for each completion."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) - 0.001 * len(text) for text in completions]
'''
NAMES = ["Lily", "Tom", "Mia", "Ben", "Anna", "Sam", "Zoe", "Max", "Lucy", "Tim", "Sue", "Jack"]
PLACES = ["a park", "the big forest", "an old house", "the beach", "a little town", "the garden"]


@dataclass(frozen=True)
class Case:
    """One run. model: a folder beside the checkout without which the case is skipped. newer: options that keep former
    bits, which former versions do not know."""

    name: str
    options: tuple[str, ...]
    model: str | None = None
    newer: tuple[str, ...] = ()


def _embedded(name: str, options: str) -> Case:
    """A case on the embedded encoder and data, without a preflight."""
    return Case(
        name, ("-o", "cross-entropy", "--no-preflight", "--eval-steps", "5", "--init", "none", *options.split())
    )


CASES = (
    Case("default", ("-o", "f1", "--max-evals", "400", "--seed", "3", "--init", "none")),
    Case("lora", ("-o", "f1", "--peft", "lora", "--max-evals", "120", "--seed", "4", "--init", "none")),
    Case(
        "generation",
        (
            *("-o", "reward.py:vowels", "-d", "prompts", "--task", "generation", "--max-new-tokens", "24"),
            *("--max-evals", "60", "--batch-size", "8", "--temperature", "0.7", "--template", "{prompt}"),
        ),
        STORIES,
    ),
    _embedded("rank-sgd", "--optimizer rank-sgd --max-evals 96 --seed 5"),
    _embedded("mezo-svrg", "--optimizer mezo-svrg --optimizer-arg full=32 --max-evals 60 --seed 6"),
    _embedded("mezo-adam", "--optimizer mezo-adam --lr 1e-5 --max-evals 30 --seed 7"),
    _embedded("sparse-mezo", "--optimizer sparse-mezo --tune last:1 --lr 1e-5 --max-evals 30 --seed 8"),
    _embedded(
        "dizo",
        "--optimizer dizo --tune last:1 --lr 1e-5 --optimizer-arg interval=4 --optimizer-arg iters=2 --max-evals 40 "
        "--seed 9",
    ),
    _embedded("zo-adamu", "--optimizer zo-adamu --lr 1e-5 --max-evals 30 --seed 10"),
    replace(
        _embedded("bfloat16", "--optimizer mezo --lr 1e-3 --dtype bfloat16 --max-evals 20 --seed 11"),
        newer=("--rounding", "1"),
    ),
)


def write_files(folder: Path) -> None:
    """The reward function and the prompts of the generation case."""
    (folder / "reward.py").write_text(REWARD)
    (folder / "prompts").mkdir()
    rows = [{"prompt": f"Once upon a time, {name} went to {place}"} for place in PLACES for name in NAMES]
    for split, part in (("train", rows[:40]), ("validation", rows[40:56]), ("test", rows[56:])):
        (folder / f"prompts/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def run(case: Case, checkout: Path, folder: Path, threads: int) -> Path:
    """Run a case with a checkout; the run directory. Raises RuntimeError with the end of what the run printed."""
    folder.mkdir()
    write_files(folder)
    path = os.pathsep.join(map(str, (checkout, checkout / "plugins", checkout / "objectives")))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    model = ("-m", str((ROOT / case.model).resolve())) if case.model else ()
    fixed = ("--threads", str(threads), "--device", "cpu", "--output-dir", "run", "--quiet")
    known = (checkout / "zotune/config.py").read_text(encoding="utf-8")
    newer = case.newer if all(x.removeprefix("--") + ": " in known for x in case.newer[::2]) else ()
    command = [sys.executable, "-m", "zotune", "fit", *case.options, *newer, *model, *fixed]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{checkout}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return folder / "run"


def read_journal(path: Path, renamed: dict[str, str]) -> list[dict[str, Any]]:
    """The lines of a journal without their checksums, with keys as this checkout names them."""
    return [_rename(json.loads(line)["body"], renamed) for line in path.read_text(encoding="utf-8").splitlines()]


def _rename(value: Any, renamed: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {renamed.get(key, key): _rename(item, renamed) for key, item in value.items()}
    return [_rename(item, renamed) for item in value] if isinstance(value, list) else value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value as JSON) of each value in a line; floats have all their digits, and 1 is not 1.0."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)


def compare_journals(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> tuple[str, list[str], int]:
    """(first difference or nothing, differences that are not counted, values that were compared)."""
    first, uncounted, count = "", [], 0
    for number, (a, b) in enumerate(zip(here, there, strict=False), 1):
        values, others = dict(leaves(a)), dict(leaves(b))
        for path in dict.fromkeys([*values, *others]):
            count += 1
            if values.get(path) == others.get(path):
                continue
            was, now = (side.get(path, "absent")[:60] for side in (others, values))
            text = f"line {number}, {path}: {was} there, {now} here"
            key = path.partition(".")[0]
            recorded_by_one = a["kind"] == "header" and "absent" in (was, now)  # a later version records more
            if recorded_by_one or (a["kind"] == "header" and key in UNCOUNTED) or (a["kind"], key) in WORDING:
                uncounted.append(text)
            else:
                first = first or text
    if len(here) != len(there):
        first = first or f"{len(there)} lines there, {len(here)} here"
    return first, uncounted, count


def compare_weights(here: Path, there: Path) -> tuple[str, int]:
    """(first difference or nothing, tensors that were compared), over all safetensors files of two run directories."""
    import torch
    from safetensors.torch import load_file

    files, others = ({str(p.relative_to(f)) for p in f.rglob("*.safetensors")} for f in (here, there))
    if files != others:
        return f"files: {', '.join(sorted(files ^ others))} in one run directory alone", 0
    count = 0
    for name in sorted(files):
        ours, theirs = load_file(here / name), load_file(there / name)
        if ours.keys() != theirs.keys():
            return f"{name}: tensors {', '.join(sorted(ours.keys() ^ theirs.keys()))} in one alone", count
        for key, x in ours.items():
            y = theirs[key]
            count += 1
            if (x.dtype, x.shape) != (y.dtype, y.shape):
                return f"{name}, {key}: {y.dtype} {tuple(y.shape)} there, {x.dtype} {tuple(x.shape)} here", count
            if not torch.equal(x.contiguous().view(-1).view(torch.uint8), y.contiguous().view(-1).view(torch.uint8)):
                return f"{name}, {key}: other bits", count
    return ("" if count else "no weights were written"), count


def check(case: Case, other: Path, threads: int) -> tuple[str, list[str]]:
    """Run a case with both checkouts: (the row's result, differences that are not counted)."""
    if case.model and not (ROOT / case.model).is_dir():
        return f"skipped (no {case.model})", []
    with tempfile.TemporaryDirectory() as name:
        try:
            there, here = (run(case, root, Path(name) / side, threads) for root, side in ((other, "a"), (ROOT, "b")))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return f"failed: {error}", []
        lines = read_journal(here / "journal.jsonl", {}), read_journal(there / "journal.jsonl", RENAMED)
        in_journal, uncounted, values = compare_journals(*lines)
        in_weights, tensors = compare_weights(here, there)
    if in_journal or in_weights:
        return f"differs: {'; '.join(filter(None, (in_journal, in_weights)))}", uncounted
    steps = sum(line["kind"] == "step" for line in lines[0])
    return f"same ({steps} steps, {len(lines[0])} lines, {values} values, {tensors} tensors)", uncounted


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the bits of two checkouts of this repository.")
    parser.add_argument("--against", required=True, help="another checkout, or a git revision of this repository")
    parser.add_argument("--only", action="append", choices=[c.name for c in CASES], help="this case; repeatable")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run [1]")
    arguments = parser.parse_args()
    other, added = Path(arguments.against).resolve(), None
    if not (other / "zotune").is_dir():
        added = Path(tempfile.mkdtemp()) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        made = subprocess.run([*git, "add", "--detach", str(added), arguments.against], capture_output=True, text=True)
        if made.returncode:
            added.parent.rmdir()
            print(f"{arguments.against} is no checkout and no revision: {made.stderr.strip()}", file=sys.stderr)
            return 2
        other = added
    results: list[str] = []
    listed: dict[str, None] = {}
    try:
        for case in CASES:
            if arguments.only and case.name not in arguments.only:
                continue
            started = time.monotonic()
            result, uncounted = check(case, other, arguments.threads)
            print(f"{case.name:12}{time.monotonic() - started:5.0f} s  {result}", flush=True)
            results.append(result.split()[0].rstrip(":"))
            listed.update(dict.fromkeys(uncounted))
    finally:
        if added:
            subprocess.run([*git, "remove", "--force", str(added)], check=True)
            added.parent.rmdir()
    if listed:
        print("not counted (versions, hashes of source files, texts):")
        print("\n".join(f"  {text}" for text in listed))
    if "differs" in results:
        return 1
    return 2 if "failed" in results or "same" not in results else 0


if __name__ == "__main__":
    sys.exit(main())
