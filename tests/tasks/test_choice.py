"""Multiple choice against reference loops over single, unpadded rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import CAUSAL, MASKED, SEQ2SEQ, Families, mean, option_scores

from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import OptionError


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=1e-5)


CHOICES = [
    {"text": "the cat", "options": ["ran", "saw the dog", "sat"], "label": 1},
    {"text": "the film was very", "options": ["good", "bad"], "label": "bad"},
    {"text": "a", "options": ["man", "dog", "cat and a dog", "plot"], "answers": ["dog", "plot"]},
]


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("family", [*CAUSAL, *MASKED, *SEQ2SEQ])
def test_option_scores_equal_a_reference_loop(families: Families, family: str, kind: str) -> None:
    spec = TaskSpec("choice", Template("{text} {choice}"), choices=("options",))
    task = families.task(family, spec, kind)
    rows = task.rows(CHOICES)
    got = task.outputs(rows, range(3))
    assert got["logits"].shape == (3, 4)
    for i, record in enumerate(CHOICES):
        want = [mean(option_scores(task.loaded, f"{record['text']} ", option)) for option in record["options"]]
        close(got["logits"][i, : len(want)], want)
        assert got["logits"][i, len(want) :].tolist() == [float("-inf")] * (4 - len(want))
        assert got["completions"][i] == record["options"][want.index(max(want))]
        assert got["losses"][i] == pytest.approx(-want[1], abs=1e-5), "the correct option's mean, not over the others"
    assert [list(g) for g in rows.gold] == [[1], [1], [1, 3]]
    assert got["references"] == ["saw the dog", "bad", ["dog", "plot"]]
    assert got["labels"][:2] == [1, 1]
    assert got["labels"][2] == (got["predictions"][2] if got["predictions"][2] in (1, 3) else 1)
    close(task.logits(rows, [2, 0])[:, :3], got["logits"][[2, 0]][:, :3])


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_the_text_after_an_option_is_scored_too(families: Families, family: str) -> None:
    spec = TaskSpec("choice", Template("{text}\n{query|fill}"), choices=("options",))
    task = families.task(family, spec)
    record = {
        "text": "the cat ran.",
        "query": "the dog saw @placeholder and sat",
        "options": ["a man", "it"],
        "label": 0,
    }
    got = task.logits(task.rows([record]), [0])[0]
    for k, option in enumerate(record["options"]):
        close(got[k], mean(option_scores(task.loaded, "the cat ran.\nthe dog saw ", f"{option} and sat")))


@pytest.mark.parametrize("head", ["bert-head", "bert-embedding"])
def test_multiple_choice_needs_a_language_model(families: Families, head: str) -> None:
    with pytest.raises(OptionError, match="multiple choice needs a language model"):
        families.task(head, TaskSpec("choice", Template("{text} {choice}"), choices=("options",)))
