"""BLEU and chrF against sacreBLEU."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from metric_values import value_of

from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec

COMPLETIONS = ["the cat sat on the mat today", "a dog ran in the big park", "hello there my old friend"]
REFERENCES = ["the cat sat on a mat today", "the dog ran in the big green park", "hello there my dear old friend"]


@pytest.mark.parametrize("options", [{}, {"lowercase": True}, {"tokenizer": "char"}, {"effective_order": True}])
def test_bleu_equals_sacrebleu(options: dict[str, Any]) -> None:
    from sacrebleu import corpus_bleu
    from sacrebleu.metrics import BLEU

    sacrebleu_options = {"tokenize" if k == "tokenizer" else k: v for k, v in options.items()}
    expected = BLEU(**sacrebleu_options).corpus_score([COMPLETIONS[0].title(), *COMPLETIONS[1:]], [REFERENCES]).score
    value = value_of("bleu", options, completions=[COMPLETIONS[0].title(), *COMPLETIONS[1:]], references=REFERENCES)
    assert value == pytest.approx(expected)
    assert 0 < value < 100
    if not options:
        assert value_of("bleu", completions=COMPLETIONS, references=REFERENCES) == pytest.approx(
            corpus_bleu(COMPLETIONS, [REFERENCES]).score
        )


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"char_order": 4, "beta": 1}, {"lowercase": True}])
def test_chrf_equals_sacrebleu(options: dict[str, Any]) -> None:
    from sacrebleu.metrics import CHRF

    expected = CHRF(**options).corpus_score([COMPLETIONS[0].title(), *COMPLETIONS[1:]], [REFERENCES]).score
    value = value_of("chrf", options, completions=[COMPLETIONS[0].title(), *COMPLETIONS[1:]], references=REFERENCES)
    assert value == pytest.approx(expected)
    assert 0 < value < 100


@pytest.mark.parametrize(("name", "metric"), [("bleu", "BLEU"), ("chrf", "CHRF")])
def test_different_numbers_of_references(name: str, metric: str) -> None:
    from sacrebleu import metrics

    references = [REFERENCES[0], [REFERENCES[1], COMPLETIONS[1]], ["other", "words", COMPLETIONS[2]]]
    streams = [[REFERENCES[0], REFERENCES[1], "other"], [None, COMPLETIONS[1], "words"], [None, None, COMPLETIONS[2]]]
    expected = getattr(metrics, metric)().corpus_score(COMPLETIONS, streams).score
    assert value_of(name, completions=COMPLETIONS, references=references) == pytest.approx(expected)
    without = value_of(name, completions=[*COMPLETIONS, "no reference", "either"], references=[*references, None, []])
    assert without == pytest.approx(expected)
    assert (
        objective_spec.resolve(name, {}).score(3, {"completions": COMPLETIONS, "references": references}).samples
        is None
    )
    with pytest.raises(ObjectiveError, match="no row has a reference"):
        value_of(name, completions=["x", "y"], references=[None, []])


def test_short_texts_and_other_scripts() -> None:
    chinese = "我今天很高兴"
    assert value_of("bleu", completions=[chinese], references=[chinese]) == 0  # one word for the default tokenizer
    for tokenizer in ("zh", "char"):
        assert value_of("bleu", {"tokenizer": tokenizer}, completions=[chinese], references=[chinese]) == pytest.approx(
            100
        )
    assert value_of("chrf", completions=[chinese, "👍🎉"], references=[chinese, "👍🎉"]) == pytest.approx(100)
    for name in ("bleu", "chrf"):
        assert value_of(name, completions=["", ""], references=["some words that are", "not there"]) == 0
    assert value_of("bleu", {"effective_order": True}, completions=["yes"], references=["yes"]) == pytest.approx(100)


def test_missing_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    from zotune_objectives import translation

    translation.metric.cache_clear()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for name in ("bleu", "chrf"):
        with pytest.raises(OptionError, match=rf"{name} needs sacrebleu \(pip install 'zotune\[text\]'\)"):
            objective_spec.resolve(name, {})


def test_refused_options() -> None:
    with pytest.raises(OptionError, match=r"tokenizer.*13a.*got 'moses'"):
        objective_spec.resolve("bleu", {"tokenizer": "moses"})
    with pytest.raises(OptionError, match="char_order must be 1 or more, got 0"):
        objective_spec.resolve("chrf", {"char_order": 0})


@pytest.mark.parametrize(("tokenizer", "needs"), [("ja-mecab", "MeCab"), ("ko-mecab", "mecab_ko")])
def test_missing_tokenizers(tokenizer: str, needs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zotune_objectives import translation

    translation.metric.cache_clear()
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"sacrebleu.tokenizers.tokenizer_{tokenizer[:2]}_mecab", raising=False)
    message = rf"the package of the tokenizer {tokenizer} is not installed.*sacrebleu\[{tokenizer[:2]}\]"
    with pytest.raises(OptionError, match=message):
        objective_spec.resolve("bleu", {"tokenizer": tokenizer})
