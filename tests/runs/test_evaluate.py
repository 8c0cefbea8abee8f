"""`zotune eval`, `zotune ls tasks` and `zotune export`: what they score, print and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl

import zotune
from zotune.errors import DataError, ModelError, OptionError, RunFolderError, UsageError
from zotune.events import Event, Note
from zotune.runs.export import export

WORDS = {"template": "{text} it was {label}", "labels": "bad,good"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 12), ("test", 20)):
        write_jsonl(folder / f"{split}.jsonl", rows(count))
    return folder


def test_several_objectives_share_the_forward_passes(tiny_llama: Path, data: Path) -> None:
    calls = []

    def seen(completions: list[str], references: list[str]) -> list[float]:
        calls.append(len(completions))
        return [float(a == b) for a, b in zip(completions, references, strict=True)]

    both = zotune.evaluate(model=str(tiny_llama), dataset=str(data), objective=["accuracy", "f1", seen], **WORDS)
    assert list(both) == ["accuracy", "f1", "seen"]
    assert calls == [20]
    assert both["seen"] == both["accuracy"]
    assert all(s.rows == 20 and s.error is not None for s in both.values())
    alone = zotune.evaluate(model=str(tiny_llama), dataset=str(data), objective="accuracy", **WORDS)
    assert alone == both["accuracy"]


def test_demonstrations_stand_before_every_prompt(tiny_llama: Path, data: Path) -> None:
    def prompts_of(**more: Any) -> float:
        return zotune.evaluate(
            model=str(tiny_llama), dataset=str(data), objective="cross-entropy", **WORDS, **more
        ).value

    assert prompts_of(shots=2) != prompts_of()
    assert prompts_of(shots=2) == prompts_of(shots=2)
    assert prompts_of(shots=2) != prompts_of(shots=2, seed=1)
    assert prompts_of(calibrate=True) != prompts_of()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shots": 13}, DataError, "only 12 training rows"),
        ({"shots": 1, "split": "train"}, OptionError, "draws from the split 'train', which is scored"),
        ({"split": "dev"}, DataError, "no split 'dev'"),
        ({"task": "generation", "template": "{text}", "objective": "token-f1"}, UsageError, "asks for references"),
        ({"objective": "f11"}, UsageError, "did you mean 'f1'"),
        ({"labels": "good,good"}, OptionError, "same word"),
    ],
)
def test_refusals(tiny_llama: Path, data: Path, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        zotune.evaluate(**{"model": str(tiny_llama), "dataset": str(data), **WORDS, **options})


def test_shots_need_a_language_model(tiny_encoder: Path, data: Path) -> None:
    with pytest.raises(OptionError, match="are for language models"):
        zotune.evaluate(model=str(tiny_encoder), dataset=str(data), labels="bad,good", shots=1)


def test_a_run_directory_records_its_task_and_is_exported(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    more = {"template": WORDS["template"], "labels": WORDS["labels"], "peft": "lora", "max_steps": 2, "batch_size": 4}
    result = zotune.fit(model=str(tiny_llama), dataset=str(data), output_dir=str(tmp_path / "run"), **more)
    score = zotune.evaluate(model=str(tmp_path / "run"), objective="cross-entropy")
    assert score.rows == 20
    assert result.folder == tmp_path / "run"
    export(tmp_path / "run", tmp_path / "adapter")
    export(tmp_path / "run", tmp_path / "merged", merge=True)
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()
    assert (tmp_path / "merged/model.safetensors").exists()
    again = zotune.evaluate(model=str(tmp_path / "merged"), dataset=str(data), objective="cross-entropy", **WORDS)
    assert again.value == pytest.approx(score.value, abs=1e-5)
    with pytest.raises(RunFolderError, match="exists already"):
        export(tmp_path / "run", tmp_path / "merged", merge=True)
    with pytest.raises(ModelError, match="no adapter to merge"):
        export(tmp_path / "merged", tmp_path / "more", merge=True)
    assert not (tmp_path / "more").exists()


def test_tasks_are_listed(capsys: Any) -> None:
    from zotune.cli.app import main

    with pytest.raises(SystemExit):
        main(["ls", "tasks", "--json"])
    listed = {t["name"]: t for t in json.loads(capsys.readouterr().out)}
    assert {"sst2", "copa", "squad"} <= set(listed)
    assert {listed[n]["kind"] for n in ("sst2", "copa", "squad")} == {"classification", "choice", "generation"}


def test_pickle_weights_are_read_only_when_asked(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_llama, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="--allow-pickle reads them"):
        zotune.evaluate(model=str(folder), dataset=str(data), **WORDS)
    a = zotune.evaluate(model=str(folder), dataset=str(data), allow_pickle=True, **WORDS)
    assert a == zotune.evaluate(model=str(tiny_llama), dataset=str(data), **WORDS)


@pytest.mark.parametrize("objective", ["exact-match", "token-f1", "cross-entropy", "perplexity"])
def test_rows_without_a_reference_are_named_and_not_scored(objective: str, tiny_llama: Path, tmp_path: Path) -> None:
    prompts = ["good film", "bad film", "the plot", "a story"]
    answers = [["good", None], "bad", 0.5, ""]
    write_jsonl(tmp_path / "d.jsonl", [{"prompt": p, "completion": c} for p, c in zip(prompts, answers, strict=True)])
    write_jsonl(
        tmp_path / "three.jsonl", [{"prompt": p, "completion": c} for p, c in zip(prompts[:3], answers, strict=False)]
    )
    notes: list[str] = []
    options: dict[str, Any] = {"model": str(tiny_llama), "objective": objective, "max_new_tokens": 4}

    def note(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    score = zotune.evaluate(dataset=str(tmp_path / "d.jsonl"), emit=note, **options)
    assert "1 of 4 rows have no reference text: objectives that need one do not score them" in notes
    notes.clear()
    alone = zotune.evaluate(dataset=str(tmp_path / "three.jsonl"), emit=note, **options)
    assert score.value == pytest.approx(alone.value)
    assert score.rows == (4 if objective == "perplexity" else 3)
    assert not any("reference text" in text for text in notes)


def test_labels_name_options_as_in_all_rows_of_the_data(tiny_llama: Path, tmp_path: Path) -> None:
    """The training rows show that options count from 1; the scored rows alone could count from 0."""
    gold: list[list[int]] = []

    def seen(labels: list[int]) -> list[float]:
        gold.append(labels)
        return [0.0 for _ in labels]

    records = [{"q": "the film was", "a": "good", "b": "bad", "c": "dull", "label": i} for i in (1, 2, 3, 1, 2)]
    for split, part in (("train", records[:3]), ("test", records[3:])):
        write_jsonl(tmp_path / "split" / f"{split}.jsonl", part)
    write_jsonl(tmp_path / "whole.jsonl", records)
    options = {"model": str(tiny_llama), "choices": "a,b,c", "template": "{q} {choice}", "objective": seen}
    for dataset, more in (("split", {}), ("whole.jsonl", {}), ("whole.jsonl", {"limit": 2})):
        zotune.evaluate(dataset=str(tmp_path / dataset), **options, **more)
    assert gold == [[0, 1], [0, 1, 2, 0, 1], [0, 1]]


def test_classes_of_label_words_are_those_of_all_rows(tiny_llama: Path, tmp_path: Path) -> None:
    records = [{"text": "the film was", "label": word} for word in ("bad", "good", "dull", "bad", "good")]
    for split, part in (("train", records[:3]), ("test", records[3:])):
        write_jsonl(tmp_path / "data" / f"{split}.jsonl", part)
    options = {"model": str(tiny_llama), "dataset": str(tmp_path / "data"), "objective": "cross-entropy"}
    options["template"] = "{text} {label}"
    assert zotune.evaluate(**options) == zotune.evaluate(**options, labels="bad,dull,good")
    write_jsonl(tmp_path / "data" / "train.jsonl", [{"text": "no label here"}])
    assert zotune.evaluate(**options) == zotune.evaluate(**options, labels="bad,good")
