"""Runs record how their prompts are written: chat template, demonstrations, calibration and the length of rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from families import CHAT_TEMPLATE, Families

import zotune
from zotune.config import RunConfig
from zotune.errors import ModelError, OptionError
from zotune.events import Note
from zotune.runs.estimate import estimate
from zotune.search.journal import Journal
from zotune.yaml_file import read_yaml, write_yaml

WORDS = ["the cat sat", "who ran", "what film was it", "the dog saw the man", "was it bad", "who said it"]
ROWS = [{"prompt": f"{w} {x}", "completion": ["yes", "no"][len(w) % 2]} for x in ("a", "the") for w in WORDS]
LABELS = [
    {"text": f"the {a} {b}", "label": i % 2}
    for i, (a, b) in enumerate([(x, y) for x in WORDS for y in ("film", "cast")])
]
FAST: dict[str, Any] = {"device": "cpu", "seed": 0, "max_evals": 8, "batch_size": 4, "optimizer": "mezo"}


@pytest.fixture
def chat(families: Families, tmp_path: Path) -> Path:
    folder = tmp_path / "chat"
    shutil.copytree(families.folder("llama"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHAT_TEMPLATE}))
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", ROWS)


def notes_of(call: Any, **options: Any) -> tuple[Any, str]:
    events: list[Any] = []
    result = call(emit=events.append, **options)
    return result, "\n".join(e.text for e in events if isinstance(e, Note))


def task_record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = Journal.open(run / "journal.jsonl", read_only=True).header["task"]
    return record


def test_a_run_and_its_evaluation_have_one_chat_template(chat: Path, prompts: Path, tmp_path: Path) -> None:
    options = {"model": str(chat), "dataset": str(prompts), "objective": "cross-entropy", "max_new_tokens": 4}
    run = tmp_path / "run"
    result, notes = notes_of(zotune.fit, **options, **FAST, output_dir=str(run), guard=0)
    assert "chat template: o" in notes
    assert "12 rows" in notes or "rows: " in notes
    chosen = read_yaml(run / "config.yaml")["chat_template"]
    assert task_record(run).get("chat_template", "off") == chosen
    _, evaluated = notes_of(zotune.evaluate, model=str(run), dataset=str(prompts), objective="cross-entropy")
    assert "chat template" not in evaluated  # recorded, not chosen
    assert result.steps > 0
    again, _ = notes_of(zotune.fit, **options, **FAST | {"max_evals": 16}, output_dir=str(run), guard=0, resume="last")
    assert again.steps > result.steps
    assert read_yaml(run / "config.yaml")["chat_template"] == chosen


def test_a_dry_run_leaves_the_choice_of_the_template_open(chat: Path, prompts: Path) -> None:
    options: dict[str, Any] = {"model": str(chat), "dataset": str(prompts), "max_new_tokens": 4, **FAST}
    events: list[Any] = []
    found = estimate(RunConfig(**options, objective="cross-entropy"), events.append)
    assert "chat template: on, unless a few rows score better without it (--chat-template)" in [
        e.text for e in events if isinstance(e, Note)
    ]
    assert found["config"]["chat_template"] == "auto"
    assert found["seconds"] > 0


def test_the_template_that_scores_better_is_taken(chat: Path, prompts: Path, tmp_path: Path) -> None:
    """Both choices are what two fixed evaluations of the validation rows give."""
    scores = {}
    for state in ("on", "off"):
        measured = zotune.evaluate(
            model=str(chat), dataset=str(prompts), objective="cross-entropy", chat_template=state, device="cpu"
        )
        scores[state] = measured.value
    assert scores["on"] != scores["off"]
    rows = write_jsonl(tmp_path / "v.jsonl", ROWS)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation", "test"):
        shutil.copy(rows, data / f"{name}.jsonl")
    run = tmp_path / "run"
    zotune.fit(model=str(chat), dataset=str(data), objective="cross-entropy", **FAST, output_dir=str(run))
    assert read_yaml(run / "config.yaml")["chat_template"] == min(scores, key=lambda s: scores[s])


def test_a_run_from_before_chat_templates_has_none(chat: Path, prompts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = {
        "model": str(chat),
        "dataset": str(prompts),
        "objective": "cross-entropy",
        **FAST,
        "output_dir": str(run),
    }
    zotune.fit(**options, chat_template="off")
    saved = read_yaml(run / "config.yaml")
    for name in ("chat_template", "chat_args", "shots", "calibrate"):
        del saved[name]
    write_yaml(run / "config.yaml", saved)
    off = zotune.evaluate(
        model=str(run), dataset=str(prompts), objective="cross-entropy", chat_template="off", device="cpu"
    )
    old = zotune.evaluate(model=str(run), dataset=str(prompts), objective="cross-entropy", device="cpu")
    assert old == off
    zotune.fit(**options | {"max_evals": 12}, resume="last")  # the header of its journal fits


@pytest.mark.parametrize("chat_template", ["off", "on"])
def test_demonstrations_and_calibration_of_a_run_are_those_of_its_evaluation(
    chat: Path, tmp_path: Path, chat_template: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation", "test"):
        write_jsonl(data / f"{name}.jsonl", LABELS)
    options = {
        "model": str(chat),
        "dataset": str(data),
        "objective": "cross-entropy",
        "labels": "bad,good",
        "shots": 2,
        "calibrate": True,
        "chat_template": chat_template,
    }
    run = tmp_path / "run"
    result = zotune.fit(**options, **FAST | {"seed": 3}, output_dir=str(run), guard=0)
    record = task_record(run)
    assert len(record["demonstrations"]["messages"]) == 4
    assert "{label}" in record["calibration"]
    again = zotune.evaluate(model=str(run), objective="cross-entropy", device="cpu")
    assert again.value == pytest.approx(result.after.value, abs=1e-5)
    base = zotune.evaluate(**options, seed=3, device="cpu")
    assert base.value == pytest.approx(result.before.value, abs=1e-5)
    bare = zotune.evaluate(**options | {"shots": 0, "calibrate": False}, seed=3, device="cpu")
    assert abs(bare.value - base.value) > 1e-4


def test_completions_that_are_cut_are_counted(chat: Path, prompts: Path) -> None:
    _, notes = notes_of(
        zotune.evaluate, model=str(chat), dataset=str(prompts), objective="exact-match", max_new_tokens=1, device="cpu"
    )
    assert "completions were cut at 1 tokens (--max-new-tokens)" in notes


def test_a_base_model_has_no_chat(families: Families, prompts: Path, tmp_path: Path) -> None:
    model = str(families.folder("llama"))
    with pytest.raises(ModelError, match="no chat template for --chat-template on"):
        zotune.evaluate(model=model, dataset=str(prompts), objective="exact-match", chat_template="on", device="cpu")
    with pytest.raises(OptionError, match="--chat-template must be auto, on or off"):
        zotune.evaluate(model=model, dataset=str(prompts), chat_template="yes")
    rows = write_jsonl(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "who"}]}] * 3)
    with pytest.raises(ModelError, match="no chat template for `messages`"):
        zotune.evaluate(model=model, dataset=str(rows), objective="length", device="cpu")
