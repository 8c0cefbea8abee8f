"""A record that cannot be used is refused before the model is loaded, with its file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import Families

import zotune
from zotune.config import RunConfig
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import DataError, OptionError
from zotune.models import loading
from zotune.runs.plan import plan

PLAIN = {"prompt": "it was"}
PAIR = {"prompt": "it was", "chosen": "good", "rejected": "bad"}
LABELLED = {"text": "it was", "label": "good"}
CHOICE = {"text": "it was", "a": "good", "b": "bad", "label": 0}
CHOOSES = {"choices": "a,b", "template": "{text} {choice}"}


def write(path: Path, good: dict[str, Any], broken: Any) -> Path:
    """Ten records with empty lines between them and one broken record in line 9."""
    lines = [json.dumps(good)] * 10
    lines[4] = json.dumps(broken)
    lines[5] = json.dumps(good | {"label": "bad"}) if good is LABELLED else lines[5]
    path.write_text("\n\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("good", "broken", "reason", "options"),
    [
        (PLAIN, {"prompt": ["it was"]}, "the column 'prompt' holds a list where a text belongs: ['it was']", {}),
        (PLAIN, {"prompt": {"a": 1}}, "the column 'prompt' holds an object where a text belongs: {'a': 1}", {}),
        (PLAIN, {"prompt": None}, "has no column 'prompt'", {}),
        (PLAIN, {"text": "it was"}, "has no column 'prompt'", {}),
        (PLAIN, 3, "a record must be an object, got int", {}),
        (PLAIN, {"messages": "it was"}, "has no column 'prompt'", {}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": "it"}, "messages must be a list", {}),
        (PLAIN, {"prompt": [{"role": "cat", "content": "a"}]}, "prompt: message 1 has the role 'cat'", {}),
        (PLAIN, PLAIN | {"completion": {"a": 1}}, "the column 'completion' holds an object", {}),
        (PLAIN, PLAIN | {"completion": ["a", ["b"]]}, "the column 'completion' holds a list", {}),
        (PAIR, PAIR | {"chosen": " "}, "a chosen completion must be a text, got ' '", {}),
        (PAIR, PAIR | {"rejected": 3}, "a rejected completion must be a text, got 3", {}),
        (LABELLED, LABELLED | {"text": ["a"]}, "the column 'text' holds a list", {"objective": "accuracy"}),
        (LABELLED, LABELLED | {"label": ["a"]}, "a label must be a number or a text", {"objective": "accuracy"}),
        (CHOICE, CHOICE | {"label": 7}, "7 is none of its 2 options", {"objective": "accuracy", **CHOOSES}),
        (CHOICE, CHOICE | {"b": {"x": 1}}, "the column 'b' holds an object", {"objective": "accuracy", **CHOOSES}),
        (PLAIN, PLAIN, "has no column 'question'", {"columns": {"prompt": "question"}}),
    ],
)
def test_the_line_is_named_before_a_model_is_loaded(
    good: dict[str, Any], broken: Any, reason: str, options: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", good, broken)
    settings = {"model": str(tiny_llama), "dataset": str(data), "objective": "perplexity", "head": "causal"} | options
    with pytest.raises(DataError) as error:
        plan(RunConfig(**settings))
    line = 1 if "columns" in options else 9
    at = f"--column prompt=question: {data}, line {line}" if "columns" in options else f"{data}, line {line}"
    assert str(error.value).startswith(at)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("objective", "column", "good", "broken", "reason"),
    [
        ("json", "schema", {"type": "object"}, {"type": "strin"}, "json: the column schema: no type 'strin'"),
        ("json", "schema", "{}", "{", "json: the column schema is no JSON"),
        ("countdown", "numbers", [1, 2], ["a"], "countdown: numbers ['a'] and target 3 must be whole numbers"),
        ("countdown", "numbers", [1, 2], "12", "countdown: numbers '12' and target 3 must be whole numbers"),
    ],
)
def test_rows_that_an_objective_cannot_score(
    objective: str, column: str, good: Any, broken: Any, reason: str, tiny_llama: Path, tmp_path: Path
) -> None:
    row = PLAIN | {"target": 3, "completion": "good"}
    data = write(tmp_path / "rows.jsonl", row | {column: good}, row | {column: broken})
    with pytest.raises(DataError) as error:
        plan(RunConfig(model=str(tiny_llama), dataset=str(data), objective=objective))
    assert str(error.value).startswith(f"{data}, line 9: {reason}")


@pytest.mark.parametrize(
    ("objective", "options", "says"),
    [
        ("token-f1", {}, "token-f1 splits words at blanks, and references have none between words: rouge1 or chrf"),
        ("bleu", {}, "bleu splits words at blanks, and references have none between words: tokenizer=zh"),
        ("bleu", {"tokenizer": "char"}, ""),
        ("rouge1", {}, ""),
    ],
)
def test_a_language_that_a_metric_cannot_split(
    objective: str, options: dict[str, str], says: str, tiny_llama: Path, tmp_path: Path
) -> None:
    if objective == "bleu":
        pytest.importorskip("sacrebleu")
    data = write(
        tmp_path / "rows.jsonl", PLAIN | {"completion": "从前有一只小狗在花园里跑"}, PLAIN | {"completion": "yes"}
    )
    made = plan(RunConfig(model=str(tiny_llama), dataset=str(data), objective=objective, objective_args=options))
    notes = [note for note in made.notes if "blanks" in note]
    assert len(notes) == bool(says)
    assert all(note.startswith(says) and note.endswith("(9 of 10 rows)") for note in notes)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.csv", 'prompt\n"a\nb"\n,\n', "line 4"),
        ("b.json", '[{"prompt": "a"}, {"prompt": ["b"]}]', "record 2"),
        ("c.json", '{"train": [{"prompt": "a"}, {"prompt": ["b"]}]}', "train record 2"),
    ],
)
def test_places_in_other_files(name: str, text: str, place: str, tmp_path: Path, tiny_llama: Path) -> None:
    data = tmp_path / name
    data.write_text(text)
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "a"}\n' * 2)
    options = {"model": str(tiny_llama), "dataset": str(data), "eval_split": str(test), "test_split": str(test)}
    with pytest.raises(DataError, match=f"^{data}, {place}"):
        plan(RunConfig(objective="perplexity", **options))


def test_records_in_memory_are_counted(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(loading, "load", load)
    rows: list[dict[str, Any]] = [dict(PLAIN) for _ in range(8)]
    rows[2] = {"prompt": ["a"]}
    with pytest.raises(DataError, match=r"^data, record 3: the column 'prompt' holds a list"):
        zotune.fit(model=tiny_llama, data=rows, objective=lambda completions: [1.0])
    with pytest.raises(DataError, match=r"^data\['train'\], record 3: the column 'prompt' holds a list"):
        zotune.fit(model=tiny_llama, data={"train": rows, "test": rows[3:]}, objective=lambda completions: [1.0])


def test_a_record_that_does_not_fit_its_tokenizer_is_named(families: Families, tmp_path: Path) -> None:
    from zotune.data.sources import read_splits

    answer = "good " * 200
    path = write(tmp_path / "rows.jsonl", PLAIN | {"completion": "good"}, PLAIN | {"completion": answer})
    task = families.task("llama", TaskSpec("generation", Template("{prompt}"), max_new_tokens=4))
    with pytest.raises(OptionError, match=f"^{path}, line 9: .* alone is longer than --max-length"):
        task.rows(read_splits(path)["train"])


def test_the_last_message_of_a_chosen_conversation_is_the_reference(tiny_llama: Path, tmp_path: Path) -> None:
    chosen = [{"role": "user", "content": "it was"}, {"role": "assistant", "content": "good"}]
    row = PLAIN | {"chosen": chosen, "rejected": [chosen[0], {"role": "assistant", "content": "bad"}]}
    data = write(tmp_path / "rows.jsonl", row, row)
    made = plan(RunConfig(model=str(tiny_llama), dataset=str(data), objective="perplexity"))
    assert made.spec.references(made.splits.train[0]) == ["good"]
