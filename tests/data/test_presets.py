"""Task files: the prompts of the shipped presets, a user's file, and what is refused in it."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zotune.data import presets
from zotune.data.presets import LabelWord, TaskFile
from zotune.data.synthetic import make_splits
from zotune.errors import OptionError
from zotune.yaml_file import read_yaml

REWARDED = [name for name in presets.names() if presets.load(name).reward]
PAPERS = [name for name in presets.names() if name not in REWARDED]
FOLDER = Path(presets.__file__).parent / "tasks"
FILTERS = {
    "unstop": lambda s, _: s.removesuffix("."),
    "uncap": lambda s, _: s[:1].lower() + s[1:],
    "cap": lambda s, _: s[:1].upper() + s[1:],
    "fill": lambda s, option: s.replace("@placeholder", option),
}


def render(task: TaskFile, text: str, row: dict[str, str], target: str) -> str:
    """The template with a row's columns in its places and `target` in the place of the answer."""
    out = ""
    for literal, place, _, _ in string.Formatter().parse(text):
        out += literal
        if place is not None:
            name, *filters = place.split("|")
            value = target if name == presets.TARGETS[task.kind] else row[name]
            value = task.values.get(name, {}).get(value, value)
            for f in filters:
                value = FILTERS[f](value, target)
            out += value
    return out


def places(text: str) -> set[str]:
    return {p.split("|")[0] for _, p, _, _ in string.Formatter().parse(text) if p is not None} - {"sep"}


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_the_presets_are_those_of_the_papers() -> None:
    sentences, pairs = ["cola", "sst2", "sst5", "trec"], ["cb", "mnli", "qnli", "rte", "snli"]
    others = ["boolq", "multirc", "wic", "wsc", "copa", "record", "squad", "drop"]
    assert sorted([*sentences, *pairs, *others]) == PAPERS


def test_the_tasks_with_a_reward_suit_chat_models() -> None:
    assert REWARDED == ["concise", "countdown", "gsm8k", "json", "sentiment", "summarize"]
    for name in REWARDED:
        task = presets.load(name)
        assert task.about
        assert task.paper
        assert task.kind == "generation"
        assert task.chat
        assert task.max_new_tokens
        assert presets.needed_columns(task)
        for head in ("causal", "seq2seq"):
            assert places(presets.template_for(task, head)) <= set(task.columns)
        if task.data:
            rows = make_splits(task.data.partition(":")[2])["test"]
            assert all(any(n in rows[0] for n in names) for names in presets.needed_columns(task))


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["question", "answer"], "--task concise"),
        (["article", "highlights"], "--task summarize"),
        (["nums", "target"], "--task countdown"),
        (["article"], "--task summarize is the nearest preset; it also needs completion/summary/highlights/target"),
        (["x", "y"], "zotune ls tasks shows what each task needs"),
    ],
)
def test_the_nearest_preset_is_named(columns: list[str], hint: str) -> None:
    assert presets.nearest_task(columns).startswith(hint)


@pytest.mark.parametrize("name", PAPERS)
def test_every_preset_is_complete(name: str) -> None:
    task = presets.load(name)
    assert task.name == name
    assert task.about
    assert "arXiv" in task.paper
    target = presets.TARGETS[task.kind]
    for head in presets.HEADS:
        text = presets.template_for(task, head)
        assert places(text) - {target} <= set(task.columns), (head, text)
        assert places(text) - {target}, (head, text)
        if head in ("causal", "seq2seq"):
            assert text.endswith((f"{{{target}}}", f"{{{target}|uncap}}", "{query|fill}")), (
                "ends in the place of the answer"
            )
    assert places(task.calibration or "") <= {*task.columns, target}
    assert set(task.choices) <= set(task.columns)
    if task.kind == "classification":
        values = [v for label in task.labels for v in label.values]
        assert [label.values[0] for label in task.labels] == [str(i) for i in range(len(task.labels))]
        assert len({label.word for label in task.labels}) == len(task.labels) >= 2
        assert len(set(values)) == len(values)
        assert len({label.description for label in task.labels} - {None}) == len(task.labels)
        assert task.calibration
    assert (task.objective == "token-f1") == (task.kind == "generation") == (task.max_new_tokens is not None)
    assert (task.objective_args == {"normalize": "squad"}) == (task.kind == "generation")


def scalars(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from (*scalars(key), *scalars(value))
    elif isinstance(node, list):
        for value in node:
            yield from scalars(value)
    else:
        yield node


@pytest.mark.parametrize("name", presets.names())
def test_shipped_files_hold_no_truth_values_by_accident(name: str) -> None:
    """YAML reads a bare yes, no, on or off as true or false."""
    plain = yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
    read = read_yaml(FOLDER / f"{name}.yaml")
    assert [str(x) for x in scalars(read)] == list(scalars(plain))
    assert {type(x) for x in scalars(read)} <= {str, int}


NLI = {"premise": "A man sleeps.", "hypothesis": "A person rests."}
SENTENCE = {"text": "A joy to watch."}
CB = 'Suppose A man sleeps. Can we infer that "A person rests."? Yes, No, or Maybe?\n'
MULTIRC = {"paragraph": "Ann has a cat.", "question": "What has Ann?", "answer": "a dog"}
WIC = {"word": "bank", "sentence1": "We sat on the bank.", "sentence2": "The bank is shut."}
WSC = {"text": "Ann saw Eve. She waved.", "span1": "Eve", "span2": "She"}
RECORD = {"passage": "Ann won. Eve lost.", "query": "The cup is for @placeholder today."}
SQUAD = {"title": "Tea", "context": "Tea is hot.", "question": "What is tea?"}


@pytest.mark.parametrize(
    ("name", "head", "row", "target", "expected"),
    [
        # Table 11: RoBERTa
        ("sst2", "masked", SENTENCE, "great", "A joy to watch. It was great."),
        ("sst5", "masked", SENTENCE, "okay", "A joy to watch. It was okay."),
        ("trec", "masked", {"text": "Who is Ann?"}, "Human", "Human: Who is Ann?"),
        ("mnli", "masked", NLI, "Maybe", "A man sleeps? Maybe, a person rests."),
        ("snli", "masked", NLI, "No", "A man sleeps? No, a person rests."),
        ("rte", "masked", NLI, "Yes", "A man sleeps? Yes, a person rests."),
        # Table 12: OPT
        ("sst2", "causal", SENTENCE, "terrible", "A joy to watch. It was terrible"),
        (
            "rte",
            "causal",
            NLI,
            "Yes",
            'A man sleeps.\nDoes this mean that "A person rests." is true? Yes or No?\nYes',
        ),
        ("cb", "causal", NLI, "Maybe", CB + "Maybe"),
        (
            "boolq",
            "causal",
            {"passage": "Tea is hot.", "question": "is tea cold"},
            "No",
            "Tea is hot. Is tea cold? No",
        ),
        (
            "wsc",
            "causal",
            WSC,
            "Yes",
            'Ann saw Eve. She waved.\nIn the previous sentence, does the pronoun "she" refer to Eve? Yes or No?\nYes',
        ),
        (
            "wic",
            "causal",
            WIC,
            "No",
            'Does the word "bank" have the same meaning in these two sentences? Yes, No?\n'
            "We sat on the bank.\nThe bank is shut.\nNo",
        ),
        (
            "multirc",
            "causal",
            MULTIRC,
            "No",
            'Ann has a cat.\nQuestion: What has Ann?\nI found this answer "a dog". Is that correct? Yes or No?\nNo',
        ),
        (
            "copa",
            "causal",
            {"premise": "The man woke.", "question": "cause"},
            "The dog barked.",
            "The man woke because the dog barked.",
        ),
        (
            "copa",
            "causal",
            {"premise": "The man woke.", "question": "effect"},
            "He got up.",
            "The man woke so he got up.",
        ),
        ("record", "causal", RECORD, "Ann", "Ann won. Eve lost.\nThe cup is for Ann today."),
        ("squad", "causal", SQUAD, "hot", "Title: Tea\nContext: Tea is hot.\nQuestion: What is tea?\nAnswer: hot"),
        (
            "drop",
            "causal",
            {"passage": "Two and two.", "question": "How many?"},
            "4",
            "Passage: Two and two.\nQuestion: How many?\nAnswer: 4",
        ),
    ],
)
def test_prompts_are_the_papers(name: str, head: str, row: dict[str, str], target: str, expected: str) -> None:
    task = presets.load(name)
    assert render(task, presets.template_for(task, head), row, target) == expected
    if task.kind == "classification":
        assert target in {label.word for label in task.labels}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sst2", "terrible great"),
        ("sst5", "terrible bad okay good great"),
        ("trec", "Expression Entity Description Human Location Number"),
        ("mnli", "Yes Maybe No"),
        ("snli", "Yes Maybe No"),
        ("rte", "Yes No"),
        ("cb", "Yes No Maybe"),
        *[(name, "No Yes") for name in ("boolq", "wsc", "wic", "multirc")],
    ],
)
def test_label_words_in_the_order_of_the_hubs_numbers(name: str, words: str) -> None:
    assert [label.word for label in presets.load(name).labels] == words.split()


def test_texts_and_numbers_of_a_label_mean_the_same_class() -> None:
    named = {name: [label.values for label in presets.load(name).labels] for name in ("cb", "snli", "rte", "boolq")}
    assert named["cb"] == [("0", "entailment"), ("1", "contradiction"), ("2", "neutral")]
    assert named["snli"] == [("0", "entailment"), ("1", "neutral"), ("2", "contradiction")]
    assert named["rte"] == [("0", "entailment"), ("1", "not_entailment")]
    assert named["boolq"] == [("0", "False", "false"), ("1", "True", "true")]


@pytest.mark.parametrize("name", ["cola", "copa", "rte", "sst2", "sst5"])
def test_presets_fit_the_data_beside_the_checkout(shared: Path, name: str) -> None:
    with (shared / "data" / name / "train.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(50), lines, strict=False)]
    task = presets.load(name)
    for row in rows:
        assert all(any(n in row for n in known) for known in task.columns.values())
        if task.kind == "classification":
            (match,) = [label for label in task.labels if str(row["label"]) in label.values]
            assert row["label_text"] in match.values


def test_short_forms(tmp_path: Path) -> None:
    task = presets.load(
        write(
            tmp_path,
            "template: '{text} It was {label}'\nlabels: {0: terrible, 1: great}\n"
            'columns: {text: sentence, label: [label, y]}\nstop: "\\n"\n',
        )
    )
    assert task.name == "mine"
    assert presets.template_for(task, "causal") == "{text} It was {label}"
    assert task.labels == (LabelWord(("0",), "terrible"), LabelWord(("1",), "great"))
    assert task.columns == {"text": ("sentence",), "label": ("label", "y")}
    assert task.stop == ("\n",)


def test_long_forms(tmp_path: Path) -> None:
    task = presets.load(
        write(
            tmp_path,
            "name: films\ncolumns: [text, label]\ncut: text\nvalues: {text: {1: one}}\n"
            "template:\n  embedding: '{text}'\n  default: '{text} It was {label}'\n"
            "labels:\n- {values: [0, neg], word: terrible, description: a bad film}\n- {values: pos, word: great}\n",
        )
    )
    assert task.name == "films"
    assert task.columns == {"text": ("text",), "label": ("label",)}
    assert task.labels == (LabelWord(("0", "neg"), "terrible", "a bad film"), LabelWord(("pos",), "great"))
    assert task.values == {"text": {"1": "one"}}
    assert presets.template_for(task, "embedding") == "{text}"


TEXT = "template: '{text} {label}'\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("templates: x", "mine.yaml: unknown key 'templates' (did you mean 'template'?)"),
        ("about: x", "mine.yaml has no template (such as template: '{text} It was {label}')"),
        ("template: [a]", "template: default must be text, got ['a']"),
        ("template: '{text'", "'{text': expected '}' before end of string"),
        ("template: {casual: '{text} {label}'}", "template: unknown head 'casual' (did you mean 'causal'?)"),
        ("template: {causal: '{text}'}", "template 'causal' has no {label}, which head 'causal' needs"),
        ("template: {masked: '{text}'}", "template 'masked' has no {label}, which head 'masked' needs"),
        (
            "template: {embedding: '{text} {label}'}",
            "would show {label} to head 'embedding' (give embedding a template without it)",
        ),
        ("kind: choices\ntemplate: x", "kind must be one of classification, choice, generation, got 'choices'"),
        ("kind: choice\nchoices: a\ntemplate: {seq2seq: x}", "template 'seq2seq' has no {choice}"),
        ("kind: choice\ntemplate: '{a} {choice}'", "has no choices (the columns of the options"),
        (TEXT + "choices: a", "choices are for kind choice, not classification"),
        (TEXT + "labels: terrible, great", "labels must map values to words"),
        (TEXT + "labels: [terrible, great]", "labels must map values to words"),
        (TEXT + "labels: [{word: a}]", "labels, entry 1 has no values"),
        (TEXT + "labels: [{values: [], word: a}]", "labels, entry 1 has no values"),
        (TEXT + "labels: [{values: 0, word: a}, {values: 1}]", "labels, entry 2 has no word"),
        (TEXT + "labels: [{value: 0, word: a}]", "entry 1: unknown key 'value' (did you mean 'values'?)"),
        (TEXT + "labels: [{values: [0, a], word: a}, {values: a, word: b}]", "labels: value 'a' occurs twice"),
        (TEXT + "labels: {0: a, 1: a}", "labels: word 'a' occurs twice"),
        (TEXT + "labels: {0: No, 1: Yes}", "entry 1: word must be text, got false (quote a bare yes, no, true or"),
        (TEXT + "labels: {true: a, false: b}", "entry 1: values must be text, got true (quote a bare"),
        (TEXT + "columns: text", "columns must be a mapping, got 'text'"),
        (TEXT + "columns: {text: {a: b}}", "columns: text must be text, got {'a': 'b'}"),
        (TEXT + "values: {text: cause}", "values: text must be a mapping, got 'cause'"),
        (TEXT + "values: {txt: {a: b}}", "no template has a place for column 'txt' (did you mean 'text'?)"),
        (TEXT + "cut: sep", "no template has a place for column 'sep'"),
        (TEXT + "cut: premise", "no template has a place for column 'premise'"),
        (TEXT + "calibration: It was", "calibration 'It was' has no {label}"),
        (TEXT + "max_new_tokens: many", "max_new_tokens must be a whole number, got 'many'"),
        (TEXT + "max_new_tokens: 0", "max_new_tokens must be positive, got 0"),
        ("- a", "must hold a mapping"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(OptionError) as caught:
        presets.load(write(tmp_path, text))
    assert expected in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"unknown task 'sst3', and no such file \(did you mean 'sst"):
        presets.load("sst3")
    with pytest.raises(OptionError, match=r"nowhere\.yaml cannot be read"):
        presets.load("nowhere.yaml")
    with pytest.raises(OptionError, match=r"unknown head 'maskd' \(did you mean 'masked'\?\)"):
        presets.template_for(presets.load("sst2"), "maskd")


def test_a_default_template_is_checked_for_each_head(tmp_path: Path) -> None:
    """The short form, one template for all heads, is refused only for the heads that it does not suit."""
    shown = presets.load(write(tmp_path, TEXT))
    with pytest.raises(OptionError, match=r"mine: template 'default' would show \{label\} to head 'embedding'"):
        presets.template_for(shown, "embedding")
    hidden = presets.load(write(tmp_path, "template: '{text}'"))
    assert presets.template_for(hidden, "classification") == "{text}"
    with pytest.raises(OptionError, match=r"mine: template 'default' has no \{label\}, which head 'causal' needs"):
        presets.template_for(hidden, "causal")
    only = presets.load(write(tmp_path, "template: {embedding: '{text}'}"))
    with pytest.raises(OptionError, match=r"task mine has no template for head 'causal', only for embedding"):
        presets.template_for(only, "causal")


def test_a_generation_template_may_leave_its_place_out(tmp_path: Path) -> None:
    task = presets.load(write(tmp_path, "kind: generation\ntemplate: {causal: 'Question: {question}'}"))
    assert presets.template_for(task, "causal") == "Question: {question}"
