"""Runs on sampled completions choose the scale of all logits: it is journaled, bounded, and changes no greedy text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import WORDS as VOCABULARY
from families import Families
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import zotune
from zotune.events import Note
from zotune.runs.replay import replay
from zotune.search.journal import Journal

WORDS = VOCABULARY.split()
LIMIT = 0.4


def data(folder: Path) -> Path:
    for split, n in (("train", 20), ("validation", 6), ("test", 6)):
        rows = [{"prompt": f"{WORDS[i % 5]} {WORDS[i % 7]}"} for i in range(n)]
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def words(completions: Sequence[str]) -> list[float]:
    return [float(len({*x.split()})) for x in completions]


def sameness(completions: Sequence[str]) -> list[float]:
    return [-float(len({*x.split()})) for x in completions]


def options(families: Families, tmp_path: Path, family: str = "llama", **others: Any) -> dict[str, Any]:
    folder = tmp_path / "data"
    return {
        "model": str(families.folder(family)),
        "dataset": str(folder if folder.exists() else data(folder)),
        "max_new_tokens": 4,
        "temperature": 1.0,
        "max_kl": LIMIT,
        "max_steps": 8,
        "eval_steps": 4,
        "save_steps": 3,
        "threads": 1,
        "compile": "off",
        "device": "cpu",
        **others,
    }


def scale(run: Path, base: str) -> float:
    """By how much the last normalisation was multiplied, the same everywhere."""
    ours = load_file(run / "model.safetensors")["model.norm.weight"]
    before = AutoModelForCausalLM.from_pretrained(base).model.norm.weight.detach()
    ratio = ours / before
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-5)
    return float(ratio.mean())


@pytest.mark.parametrize("objective", [words, sameness])
def test_the_scale_is_resumed_and_replayed_to_the_same_bits(families: Families, tmp_path: Path, objective: Any) -> None:
    made = options(families, tmp_path)
    whole = zotune.fit(objective=objective, output_dir=str(tmp_path / "whole"), **made)
    journal = Journal.open(tmp_path / "whole" / "journal.jsonl", read_only=True)
    assert journal.header["population"]["logit_scales"] == ["model.norm.weight"]
    assert journal.header["population"]["decoding"] == 0.0
    steps = [line for line in journal.lines if line["kind"] == "step"]
    chosen = [i for i, line in enumerate(steps) if any(kind == "values" for kind, _ in line["tape"])]
    assert chosen == [6], "once, near the end"
    values = [x for kind, x in steps[6]["tape"] if kind == "drift"]
    assert len(values) == 2, "sharper and flatter logits"
    assert [line["kind"] for line in steps if "dropped" in line] == []
    count = [0]
    zotune.fit(
        objective=objective,
        output_dir=str(tmp_path / "half"),
        stop=lambda: count.append(0) or len(count) == 8,
        **made,
    )
    zotune.fit(objective=objective, resume="last", output_dir=str(tmp_path / "half"), **made)
    for name in ("journal.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()
    assert replay(tmp_path / "whole", tmp_path / "replayed", base=made["model"], step=whole.steps).confirmed


def test_a_reward_of_few_words_sharpens_and_one_of_many_flattens(families: Families, tmp_path: Path) -> None:
    found = {}
    for objective in (words, sameness):
        run = tmp_path / objective.__name__
        made = options(families, tmp_path, max_steps=2, seed=3)
        zotune.fit(objective=objective, output_dir=str(run), **made)
        replay(run, tmp_path / f"{run.name}-last", base=made["model"], step=2)
        found[objective.__name__] = scale(tmp_path / f"{run.name}-last", made["model"])
    assert found["words"] < 1.0 < found["sameness"]


def test_the_kl_divergence_stays_within_the_limit(families: Families, tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = options(families, tmp_path, max_steps=12)
    zotune.fit(objective=sameness, output_dir=str(run), **made)
    journal = Journal.open(run / "journal.jsonl", read_only=True)
    kept = journal.lines[-1]
    at = {line["step"]: line["drift"] for line in journal.lines if line["kind"] == "eval"}
    assert kept["kind"] == "kept"
    assert at[kept["step"]] <= LIMIT


@pytest.mark.parametrize(
    ("family", "others"), [("llama", {"temperature": 0.0}), ("llama", {"tune": "value"}), ("bart", {})]
)
def test_other_runs_scale_nothing(families: Families, tmp_path: Path, family: str, others: dict[str, Any]) -> None:
    notes: list[str] = []
    run = tmp_path / "run"
    made = options(families, tmp_path, family, max_steps=1, **others)
    zotune.fit(
        objective=words,
        output_dir=str(run),
        emit=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        **made,
    )
    header = Journal.open(run / "journal.jsonl", read_only=True).header
    assert "logit_scales" not in header["population"]
    assert any("no tensor scales all logits" in text for text in notes) == (family == "bart")
