"""Scores 200 damaged or odd variants of models, data files and run directories, and compares with the right scores.

    python benchmarks/wrong_files.py --seed 0                        # 200 variants, a table by kind
    python benchmarks/wrong_files.py --seed 0 --number 17 --keep DIR # one variant again, its files kept in DIR
    python benchmarks/wrong_files.py --seed 0 --only label-words --out variants.jsonl

The seed draws each variant: its kind (benchmarks/wrong_file_kinds) and the kind's parameters. The right score comes
from plain transformers and peft code, without zotune. Then `zotune.evaluate` scores the variant, or `zotune eval` in
the same process, and the result is one of

    right            the right score within 1e-3, or another score with a note that names the culprit
    refusal          one line that names the culprit, where a refusal is right
    silent           another score without a word
    traceback        an exception that is no error of zotune's, or a message of several lines
    unnamed refusal  a refusal that does not name the culprit
    needless refusal a refusal of files that are valid

Exit code: 1 if a variant is silently wrong or ends in a traceback, else 0.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from wrong_file_kinds import (
    adapter_kinds,
    data_kinds,
    encoder_kinds,
    label_kinds,
    lora_run_kinds,
    model_kinds,
    prompt_kinds,
    run_kinds,
)
from wrong_file_kinds.tiny_models import Base
from wrong_file_kinds.variant import KINDS, Draw, Variant

import zotune
from zotune.cli import app
from zotune.errors import ZotuneError

MODULES = (
    *(adapter_kinds, data_kinds, encoder_kinds, label_kinds),
    *(lora_run_kinds, model_kinds, prompt_kinds, run_kinds),
)
CLASSES = ("right", "refusal", "silent", "traceback", "unnamed refusal", "needless refusal")
FAULTS = ("silent", "traceback")
TOLERANCE = 1e-3
EVERY_CLI = 4
"""One of so many variants is scored by the command line instead of the function."""


def kind_of(seed: int, number: int) -> str:
    """Kinds in an order that the seed draws, each as often as any other."""
    names = sorted(KINDS)
    turn, place = divmod(number, len(names))
    random.Random(f"{seed}/kinds/{turn}").shuffle(names)
    return names[place]


def make(seed: int, number: int, base: Base, folder: Path) -> Variant:
    """The files of a variant in an empty folder."""
    draw = Draw(base, folder, random.Random(f"{seed}/{number}"))
    torch.manual_seed(0)
    return KINDS[kind_of(seed, number)](draw)


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """The options as a command line of `zotune eval`."""
    out = ["eval", "--json"]
    for name, value in options.items():
        flag = "--column" if name == "columns" else "--" + name.replace("_", "-")
        if isinstance(value, bool):
            out += [flag] if value else []
        elif isinstance(value, dict):
            out += [part for k, v in value.items() for part in (flag, f"{k}={v}")]
        elif isinstance(value, tuple):
            out += [part for v in value for part in (flag, v)]
        else:
            out += [flag, str(value)]
    return out


def by_function(options: Mapping[str, Any]) -> tuple[float, str]:
    """Score with `zotune.evaluate`: the value and the notes."""
    notes: list[str] = []
    score = zotune.evaluate(**options, emit=lambda event: notes.append(str(event)))
    return score.value, "\n".join(notes)


def by_command(options: Mapping[str, Any]) -> tuple[float, str]:
    """Score with `zotune eval`: the value, and what standard error shows."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.app(flags_of(options), standalone_mode=False)
        except SystemExit as leave:
            if leave.code not in (None, 0):
                raise ZotuneError(err.getvalue()) from None
    return float(json.loads(out.getvalue().strip().splitlines()[-1])["value"]), err.getvalue()


def classify(variant: Variant, score: Callable[[Mapping[str, Any]], tuple[float, str]]) -> dict[str, Any]:
    """Score a variant: its class, and what was seen."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            value, notes = score(variant.options)
    except ZotuneError as error:
        message = str(error)
        if "\n" in message:
            return {"class": "traceback", "seen": message}
        if variant.right is not None and not variant.culprits:
            return {"class": "needless refusal", "seen": message}
        named = holds_one(message.replace(str(variant.options["model"]), "MODEL"), variant.culprits)
        return {"class": "refusal" if named else "unnamed refusal", "seen": message}
    except Exception as error:  # whatever is raised here is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "class": "traceback",
            "seen": f"{type(error).__name__}: {str(error)[:300]} ({last.filename}:{last.lineno})",
        }
    right = variant.right is not None and close(value, variant.right)
    noted = (
        holds_one(notes, variant.culprits)
        and variant.noted is not None
        and (variant.noted < 0 or close(value, variant.noted))
    )
    return {"class": "right" if right or noted else "silent", "seen": value, "notes": notes[:400]}


def holds_one(text: str, words: tuple[str, ...]) -> bool:
    return any(word.lower() in text.lower() for word in words)


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=TOLERANCE, rel_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))


def measure(seed: int, number: int, base: Base, root: Path, keep: bool) -> dict[str, Any]:
    """One variant, from its files to its row."""
    folder = root / f"{seed}-{number}"
    folder.mkdir(parents=True)
    row: dict[str, Any] = {"seed": seed, "number": number, "kind": kind_of(seed, number)}
    row["command"] = f"python benchmarks/wrong_files.py --seed {seed} --number {number}"
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        variant = make(seed, number, base, folder)
        row |= {"about": variant.about, "right": variant.right}
        row |= classify(variant, by_command if number % EVERY_CLI == 0 else by_function)
    row["seconds"] = round(time.monotonic() - started, 2)
    if keep:
        row["line"] = " ".join(["zotune", *map(repr, flags_of(variant.options))])
    else:
        shutil.rmtree(folder)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Counts by kind and class."""
    lines = [f"| kind | {' | '.join(CLASSES)} |", "|---|" + "---|" * len(CLASSES)]
    for name in sorted({r["kind"] for r in rows}):
        counts = Counter(r["class"] for r in rows if r["kind"] == name)
        lines.append(f"| {name} | " + " | ".join(str(counts[c] or "") for c in CLASSES) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="number of variants")
    parser.add_argument("--only", choices=sorted(KINDS), help="variants of this kind alone")
    parser.add_argument("--number", type=int, help="this variant alone")
    parser.add_argument("--out", type=Path, help="a JSON line for each variant")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the files")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    numbers = range(arguments.count) if arguments.number is None else [arguments.number]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = (arguments.keep or Path(temporary)).resolve()
        base = Base(root / "models")
        for number in numbers:
            if arguments.only and kind_of(arguments.seed, number) != arguments.only:
                continue
            row = measure(arguments.seed, number, base, root, bool(arguments.keep))
            rows.append(row)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if row["class"] not in ("right", "refusal") or arguments.number is not None:
                print(json.dumps(row), file=sys.stderr, flush=True)
    print(table(rows))
    counts = Counter(r["class"] for r in rows)
    print(f"\nseed {arguments.seed}, {len(rows)} variants: " + ", ".join(f"{counts[c]} {c}" for c in CLASSES))
    return 1 if any(counts[c] for c in FAULTS) else 0


if __name__ == "__main__":
    sys.exit(main())
