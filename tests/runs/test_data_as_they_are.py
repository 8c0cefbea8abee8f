"""Data as they are in their files: what a run reads, leaves out and tells the user, on tiny models."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

import zotune
from zotune.config import RunConfig, resolve
from zotune.data.sources import read_splits
from zotune.events import Note
from zotune.runs import evaluate
from zotune.tasks import resolve_task


def seen(model: Path, data: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """What an objective of all inputs gets, and the notes."""
    inputs: dict[str, Any] = {}

    def objective(completions: list[str], **columns: Any) -> list[float]:
        inputs.update(columns, completions=completions)
        return [1.0] * len(completions)

    notes: list[str] = []
    evaluate.evaluate(
        model=str(model),
        dataset=str(data),
        objective=objective,
        emit=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        **options,
    )
    return inputs, notes


def notes_of(model: Path, data: Path, **options: Any) -> list[str]:
    """The notes of an evaluation by accuracy, which reads no column of the data."""
    notes: list[str] = []
    evaluate.evaluate(
        model=str(model),
        dataset=str(data),
        objective="accuracy",
        emit=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        **options,
    )
    return notes


def test_the_same_rows_have_the_same_labels_in_every_format(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"q": "x", "a": 3, "b": 1, "c": 2, "label": 1}, {"q": "y", "a": 2, "b": 0, "c": 1, "label": 1}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        inputs, notes = seen(tiny_llama, tmp_path / name, choices="a,b,c", template="{q} {choice}")
        assert inputs["references"] == ["1", "0"]
        assert inputs["labels"] == [1, 1]
        assert notes == ["label is read as an option's index from 0, though it could be an option's text"]


def test_multiple_choice_of_mmlu_and_arc(tiny_llama: Path, tmp_path: Path) -> None:
    mmlu = [{"question": "q", "choices": ["w", "x", "y", "z"], "answer": a} for a in "AD"]
    arc = [
        {"question": "q", "choices": {"text": ["w", "x", "y"], "label": list(marks)}, "answerKey": key}
        for marks, key in (("ABC", "C"), ("123", "2"))
    ]
    for rows, references in ((mmlu, ["w", "z"]), (arc, ["y", "x"])):
        data = write_jsonl(tmp_path / "a.jsonl", rows)
        inputs, notes = seen(tiny_llama, data, choices="choices", template="{question} {choice}")
        assert inputs["references"] == references
        assert notes[0] == f"the correct option is read from the column {'answer' if rows is mmlu else 'answerKey'}"


def test_pairs_of_texts_are_read_as_pairs(tiny_classifier: Path, tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"sentence1": "the cat", "sentence2": f"sat {i}", "label": i % 2} for i in range(4)]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    inputs, notes = seen(tiny_classifier, data)
    assert notes == ["the columns sentence1 and sentence2 are read as a pair of texts"]
    same, _ = seen(tiny_classifier, data, template="{sentence1} {sep}{sentence2}")
    assert inputs["logits"].tolist() == same["logits"].tolist()
    alone, _ = seen(tiny_classifier, data, template="{sentence1}")
    assert inputs["logits"].tolist() != alone["logits"].tolist()


def test_columns_that_nothing_uses_are_named_once(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [
        {"id": i, "text": "a", "text_pair": f"b {i}", "topic": "c", "label": ("bad", "good")[i % 2]} for i in range(4)
    ]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    assert notes_of(tiny_llama, data) == ["columns that nothing uses: text_pair, topic"]
    assert notes_of(tiny_llama, data, template="{text} {text_pair} {label}") == ["columns that nothing uses: topic"]
    assert not seen(tiny_llama, data)[1]  # an objective of all inputs uses all


@pytest.mark.parametrize("hole", [None, float("nan"), "", " "])
def test_records_without_a_label_are_left_out_with_a_note(tiny_llama: Path, tmp_path: Path, hole: Any) -> None:
    labels = ["good", hole, "bad", "good"]
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": f"row {i}", "label": x} for i, x in enumerate(labels)])
    inputs, notes = seen(tiny_llama, data)
    assert inputs["references"] == ["good", "bad", "good"]
    assert notes == ["1 of 4 train records have no label and are left out: 'row 1'"]


def test_a_fit_shows_the_notes(tiny_llama: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    labels = ["Good", "bad", "good", None] * 4
    rows = [{"text": f"row {i}", "more": "x" * i, "label": x} for i, x in enumerate(labels)]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    done = cli("fit", "-m", tiny_llama, "-d", data, "-o", "accuracy", "--dry-run")
    for note in (
        "train records have no label and are left out",
        "labels that differ only in case are classes of their own: 'Good' and 'good'",
        "columns that nothing uses: more",
    ):
        assert note in done.stdout + done.stderr


def test_a_backslash_n_is_a_line_break(tiny_llama: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", [{"q": "the cat", "completion": "sat"}])
    inputs, _ = seen(tiny_llama, data, template=r"Q: {q}\nA:\\n {completion}", max_new_tokens=2)
    assert inputs["prompts"] == ["Q: the cat\nA:\\n"]
    chat = shutil.copytree(tiny_llama, tmp_path / "chat")
    (chat / "chat_template.jinja").write_text("{{ messages[0].content }}")
    config = RunConfig(model=str(chat), template=r"{q}\t{completion}", stop=(r"\n", r"\\n"), system=r"a\nb")
    _, spec, _ = resolve_task.resolve(config, resolve_task.parse_task(None), read_splits(data))
    assert (spec.template.text, spec.stop, spec.system) == ("{q}\t{completion}", ("\n", r"\n"), "a\nb")


def test_completions_rated_false_are_no_references(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "the", "completion": word, "label": word != "dog"} for word in ("cat", "dog", "film")]
    inputs, notes = seen(tiny_llama, write_jsonl(tmp_path / "a.jsonl", rows), max_new_tokens=2)
    assert inputs["references"] == ["cat", "film"]
    assert notes[0] == "label rates completions: 1 of 3 records have label false and are left out"


def test_instructions_are_prompts(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "Say", "input": "cat", "output": "cat"}, {"instruction": "Go", "input": "", "output": "a"}]
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    inputs, notes = seen(tiny_llama, data, max_new_tokens=2)
    assert (inputs["prompts"], inputs["references"]) == (["Say\n\ncat", "Go"], ["cat", "a"])
    assert not any("columns" in note for note in notes)
    score = zotune.evaluate(model=str(tiny_llama), dataset=str(data), objective="cross-entropy", max_new_tokens=2)
    assert score.rows == 2


def test_label_words_with_commas(tiny_llama: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    for labels in ('"bad, film",good', ("bad, film", "good"), '1=good,0="bad, film"'):
        inputs, _ = seen(tiny_llama, data, labels=labels)
        assert inputs["references"] == ["bad, film", "good"]


def test_label_words_of_a_configuration_file_may_be_a_list(tiny_llama: Path, tmp_path: Path) -> None:
    text = f"model: {tiny_llama}\nlabels: ['bad, film', good]\n"
    (tmp_path / "a.yaml").write_text(text)
    config = resolve({}, str(tmp_path / "a.yaml"))
    assert config.labels == ("bad, film", "good")
    assert resolve({"labels": ["bad,good"]}, None).labels == ("bad,good",)


def test_half_of_a_surrogate_pair_is_scored(tiny_llama: Path, tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"text": "half \\ud83d pair", "label": "a"}\n' + json.dumps({"text": "ok", "label": "b"}))
    inputs, notes = seen(tiny_llama, data)
    assert inputs["prompts"][0] == "half \ufffd pair "
    assert notes == [f"{data}: half of a surrogate pair is read as U+FFFD in line 1"]
