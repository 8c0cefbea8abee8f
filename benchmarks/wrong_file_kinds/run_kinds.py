"""Kinds about run directories: the model of a run, scored on other files, and damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.label_kinds import drawn_rows
from wrong_file_kinds.model_kinds import WEIGHTS
from wrong_file_kinds.variant import Draw, Variant, kind


def run(draw: Draw) -> Path:
    """A copy of a run that tuned the classifier for some steps, on rows of all classes."""
    original = draw.base.root / "run"
    if not original.exists():
        rows = [{**r, "label": tiny.NAMES[r["label"]]} for r in tiny.nli_rows()] * 3
        lines = "".join(json.dumps(r) + "\n" for r in rows)
        data = draw.base.root / "run_data"
        data.mkdir(parents=True)
        for name in ("train", "validation", "test"):
            (data / f"{name}.jsonl").write_text(lines)
        flags = ["-o", "cross-entropy", "--max-steps", "2", "--optimizer", "mezo", "--optimizer-arg", "lr=1e-4"]
        places = ["-m", str(draw.base.nli), "-d", str(data), "--output-dir", str(original)]
        command = [sys.executable, "-m", "zotune", "fit", *places, *flags]
        out = subprocess.run(command, capture_output=True, text=True, timeout=200)
        if not (original / WEIGHTS).exists():
            raise RuntimeError(f"the run cannot be made: {out.stderr[-2000:]}")
    shutil.copytree(original, draw.folder / "run")
    return draw.folder / "run"


@kind
def run_directory(draw: Draw) -> Variant:
    """A run scored on files with all classes, with some, with indices."""
    folder = run(draw)
    how = draw.choice(("all", "two", "one", "index"))
    rows = drawn_rows(draw, {"two": (0, 2), "one": (1,)}.get(how, (0, 1, 2)))
    gold = [r["label"] for r in rows]
    right = tiny.class_loss(tiny.classify(folder, [r["text"] for r in rows]), gold)
    shown = rows if how == "index" else [{**r, "label": tiny.NAMES[r["label"]]} for r in rows]
    options = {"model": str(folder), "dataset": str(draw.lines(shown)), "objective": "cross-entropy"}
    return Variant(options, right, about=how)


@kind
def run_new_label(draw: Draw) -> Variant:
    rows = [{**r, "label": tiny.NAMES[r["label"]]} for r in drawn_rows(draw)]
    rows[draw.random.randrange(len(rows))]["label"] = odd = draw.choice(("aardvark", "zebra", "entails"))
    options = {"model": str(run(draw)), "dataset": str(draw.lines(rows)), "objective": "accuracy"}
    return Variant(options, None, (odd,), about=odd)


@kind
def run_damaged(draw: Draw) -> Variant:
    """A run whose files are missing or cut."""
    folder = run(draw)
    how = draw.choice(("weights gone", "weights cut", "config gone", "settings gone", "settings cut", "settings list"))
    rows = drawn_rows(draw)
    right = tiny.class_loss(tiny.classify(folder, [r["text"] for r in rows]), [r["label"] for r in rows])
    settings = folder / "config.yaml"
    if how == "weights gone":
        (folder / WEIGHTS).unlink()
    elif how == "weights cut":
        raw = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(raw[: len(raw) // 3])
    elif how == "config gone":
        (folder / "config.json").unlink()
    elif how == "settings gone":
        settings.unlink()
    elif how == "settings cut":
        settings.write_text(settings.read_text()[:20] + "\n: [")
    else:
        settings.write_text("- 1\n- 2\n")
    shown = [{**r, "label": tiny.NAMES[r["label"]]} for r in rows]
    options = {"model": str(folder), "dataset": str(draw.lines(shown)), "objective": "cross-entropy"}
    words = {
        "weights gone": ("safetensor", "weights"),
        "weights cut": ("safetensor", "weights"),
        "config gone": ("config.json",),
        "settings gone": (),
    }.get(how, ("config.yaml",))
    return Variant(options, right if how == "settings gone" else None, words, about=how)


@kind
def run_weights(draw: Draw) -> Variant:
    """A run whose weights lack a tensor."""
    from wrong_file_kinds.model_kinds import rewrite

    folder = run(draw)
    gone = draw.choice(sorted(load_file(folder / WEIGHTS)))
    rewrite(folder, lambda t: t.pop(gone))
    rows = [{**r, "label": tiny.NAMES[r["label"]]} for r in drawn_rows(draw)]
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "accuracy"}
    return Variant(options, None, (gone, gone.partition(".")[2]), about=gone)
