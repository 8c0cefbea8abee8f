"""ROUGE against the official package for English, and by hand for other scripts."""

from __future__ import annotations

import random

import pytest
from metric_values import samples_of

ENGLISH = [
    ("The quick brown fox jumps over the lazy dog.", "The quick brown dog jumps on the log."),
    ("Running runners ran; he's 3rd (of 12)!", "The runner runs, he is 3rd of twelve_ones"),
    ("one line\nand another line", "another line\n\nand one line more"),
    ("same", "same"),
    ("", "nothing"),
    ("...", "nothing"),
    ("snake_case-word", "snake case word"),
]


@pytest.mark.parametrize("stemmer", [False, True])
@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_english_equals_the_official_package(name: str, stemmer: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    official = RougeScorer([name], use_stemmer=stemmer)
    scores = samples_of(name, [c for c, _ in ENGLISH], [r for _, r in ENGLISH], stemmer=stemmer)
    assert scores == [official.score(r, c)[name].fmeasure for c, r in ENGLISH]
    assert max(x for x in scores if x is not None) > 0
    several = [["no such words here", "the dog jumps on a log"]]
    best = max(official.score(r, ENGLISH[0][0])[name].fmeasure for r in several[0])
    assert samples_of(name, [ENGLISH[0][0]], several, stemmer=stemmer) == [best]


def test_tokens_of_ascii_text_equal_the_official_ones() -> None:
    import string

    from rouge_score.tokenizers import DefaultTokenizer
    from zotune_objectives.rouge import Tokenizer

    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(string.printable + "eeeaaassing   ", k=60))
        for stemmer in (False, True):
            assert Tokenizer(stemmer).tokenize(text) == DefaultTokenizer(stemmer).tokenize(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我爱北京。", ["我", "爱", "北", "京"]),
        ("東京タワーは333m", ["東", "京", "タ", "ワ", "ー", "は", "333m"]),
        ("Привет, Мир!", ["привет", "мир"]),
        ("Caf\u0065\u0301 na\u00efve", ["café", "naïve"]),  # combining accent, precomposed accent
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs do not separate words
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("ที่นี่", ["ที่", "นี่"]),  # a character with its vowel and tone
        ("yes👍👍🏽 no", ["yes", "👍", "👍🏽", "no"]),
        ("👩\u200d👩\u200d👧❤\ufe0f", ["👩\u200d👩\u200d👧", "❤"]),
        ("🇫🇷🇩🇪", ["🇫🇷", "🇩🇪"]),
        ("don’t stop—now… snake_case", ["don", "t", "stop", "now", "snake", "case"]),
        ("\u0301 \u200d", []),
        ("", []),
    ],
)
def test_tokens_of_other_scripts(text: str, words: list[str]) -> None:
    from zotune_objectives import rouge

    assert rouge.words(text) == words


@pytest.mark.parametrize("text", ["我爱北京", "すしが好き", "Привет мир", "👍🎉 👍", "ฉันรักคุณ"])
def test_equal_texts_of_any_script_score_1(text: str) -> None:
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert samples_of(name, [text, text, ""], [text, "none of these", text]) == [1.0, 0.0, 0.0]


def test_chinese_by_hand() -> None:
    """我爱北京 and 我在北京: three of four characters, one of three pairs (北京), a subsequence of three."""
    assert samples_of("rouge1", ["我爱北京"], ["我在北京"]) == [pytest.approx(3 / 4)]
    assert samples_of("rouge2", ["我爱北京"], ["我在北京"]) == [pytest.approx(1 / 3)]
    assert samples_of("rougeL", ["我爱北京"], ["我在北京"]) == [pytest.approx(3 / 4)]
    assert samples_of("rougeL", ["x", "x"], [None, "x"]) == [None, 1.0]
