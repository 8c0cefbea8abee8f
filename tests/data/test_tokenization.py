"""Tokenization: what is shortened where a text is too long, and tokenizers without offsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import BOS, EOS, PAD, Families, classification

from zotune.data.templates import FilledTemplate
from zotune.data.tokenization import PromptTokenizer
from zotune.errors import OptionError
from zotune.tasks import build


def test_a_slow_tokenizer_scores_the_same(families: Families) -> None:
    """Without offsets, the prompt's tokens are found by tokenizing the prompt alone; the end token is no answer."""
    from transformers import PythonBackend

    quick = families.task("llama", classification("{text} it was {label}"))
    vocabulary = quick.loaded.tokenizer.get_vocab()

    class Slow(PythonBackend):  # type: ignore[misc]
        vocab_size = len(vocabulary)

        def get_vocab(self) -> dict[str, int]:
            return dict(vocabulary)

        def _tokenize(self, text: str, **more: Any) -> list[str]:
            return text.split()

        def _convert_token_to_id(self, token: str) -> int:
            return vocabulary.get(token, 1)

        def _convert_id_to_token(self, index: int) -> str:
            return next(w for w, i in vocabulary.items() if i == index)

        def build_inputs_with_special_tokens(self, a: list[int], b: list[int] | None = None) -> list[int]:
            return [2, *a, 3]

    slow = families.load("llama")
    slow.tokenizer = Slow(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    scores = [task.logits(task.rows(ROWS), range(2)) for task in (build.build(slow, quick.spec, 90, 4), quick)]
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


ROWS = [{"text": "the film was bad", "label": 0}, {"text": "a cat ran", "label": 1}]


def decoded(task: Any, row: Any) -> str:
    """The text of a row's first option, without special tokens."""
    option = row[0][0]
    text: str = task.loaded.tokenizer.decode([t for t in option.ids if t not in (PAD, BOS, EOS)])
    return text


LONG = {"text": "the cat saw the dog and " * 20 + "ran", "query": "who ran", "label": 0}


@pytest.mark.parametrize("family", ["llama", "roberta", "t5"])
def test_the_cut_column_is_shortened_and_the_question_stays(families: Families, family: str) -> None:
    spec = classification("{text}. question: {query} answer: {label}", ("so good", "bad"), cut="text")
    task = families.task(family, spec, length=24)
    rows = task.rows([LONG, {"text": "a cat", "query": "who ran", "label": 0}])
    assert rows.truncated == 1
    option = rows.tokens[0][0][0]
    assert len(option.ids) in (22, 23, 24)
    text = decoded(task, rows.tokens[0])
    answer = {"llama": " so", "roberta": "<mask><mask>", "t5": ""}[family]
    assert text.startswith("the cat saw the dog and the"), "the passage's end is left out"
    assert text.replace(" <mask>", "<mask>").endswith(f". question : who ran answer :{answer}")


def test_another_column_is_shortened_where_cut_names_it(families: Families) -> None:
    spec = classification("{text}. question: {query} answer: {label}", ("good", "bad"), cut="query")
    task = families.task("llama", spec, length=20)
    rows = task.rows([{"text": "the cat ran", "query": "the film was bad and " * 9, "label": 1}])
    assert decoded(task, rows.tokens[0]).startswith("the cat ran . question : the film")
    assert decoded(task, rows.tokens[0]).endswith("answer :")


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_demonstrations_are_shortened_first_and_from_their_beginning(families: Families, family: str) -> None:
    lead = "a film was bad it was bad\n\n" * 4 + "the dog saw a man it was good\n\n"
    spec = classification("{text} it was {label}", ("good", "bad"), demonstrations=lead, cut="text")
    task = families.task(family, spec, length=24)
    rows = task.rows([{"text": "the cat ran and the dog sat", "label": 1}])
    text = decoded(task, rows.tokens[0])
    assert rows.truncated == 1
    assert "the dog saw a man it was good the cat ran and the dog sat it was" in text
    assert not text.startswith("a film was bad it was bad a film was bad")


@pytest.mark.parametrize("family", ["llama", "roberta", "t5"])
def test_an_option_longer_than_the_limit_is_refused(families: Families, family: str) -> None:
    task = families.task(family, classification("{text} {label}", ("bad", "very " * 30 + "good")), length=20)
    with pytest.raises(OptionError, match="alone is longer than --max-length 20"):
        task.rows(ROWS)


def test_a_token_that_the_model_has_no_embedding_for_is_refused_by_name(families: Families) -> None:
    coder = PromptTokenizer(families.load("llama").tokenizer, 20)
    coder.vocabulary = 10
    with pytest.raises(OptionError, match=r"'film' has the id .* 10 embeddings"):
        coder.encode(FilledTemplate("the film"))
