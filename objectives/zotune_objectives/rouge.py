"""ROUGE: the F-measure of what a completion has in common with the best reference, for any language.

    P = common / in the completion,  R = common / in the reference,  F = 2·P·R / (P + R)
    rouge1, rouge2: words and pairs of words;  rougeL: the longest common subsequence of words
    rougeLsum: longest common subsequences of lines, which are taken as sentences, united over the lines

A row with several references gets the best score, in [0, 1]; a row without references scores None. A text without words
scores 0, even against itself.

The tokenizer of rouge-score keeps only a–z and 0–9, so Chinese scores 0 against itself. This module's tokenizer gives
the same words for ASCII text. Other alphabets keep whole words with accents and vowel signs; scripts without blanks
between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, …) give one token for each character, and an emoji is a
token. The stemmer is Porter's for English; it changes no other words.

Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries"; computed by the rouge-score package.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import zotune
from zotune.text import texts
from zotune_objectives.references import References, best_score

ASCII_WORD = re.compile("[a-z0-9]+")
UNSPACED = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF)),  # Thai to Tibetan, Burmese, Khmer, Tai
    *((0x1A20, 0x1AAF), (0xA980, 0xA9FF), (0xAA60, 0xAADF)),  # Tai Tham, Javanese, Burmese, Tai Viet
    *((0x3005, 0x3007), (0x3040, 0x312F), (0x31A0, 0x31FF), (0xFF66, 0xFF9F)),  # kana, bopomofo
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xA000, 0xA4CF)),  # Chinese characters, Yi
    *((0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),
)
EMOJI = ((0x2300, 0x23FF), (0x2600, 0x27BF), (0x2B00, 0x2BFF), (0x1F000, 0x1FAFF))
FLAG, SKIN = (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF)
JOINERS = "\u200c\u200d"
"""Zero-width characters inside words (Persian, Indic scripts) and between the parts of an emoji."""
EMOJI_STYLE = "\ufe0f"
"""Variation selector that shows the character before it as an emoji; it is optional, so it is removed."""


def _within(code: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def without_blanks(text: str, most: int = 8) -> bool:
    """Whether a text has more than `most` letters in a row of scripts that put no blanks between words."""
    run = 0
    for char in text if not text.isascii() else "":
        run = run + 1 if _within(ord(char), UNSPACED) else 0
        if run > most:
            return True
    return False


@functools.lru_cache(1 << 14)
def _kind(char: str) -> str:
    """The kind of a character: "mark" joins the token before it, "letter" joins letters, "single", "emoji" and "flag"
    are tokens, and "gap" separates words."""
    code = ord(char)
    if char in JOINERS or unicodedata.category(char)[0] == "M" or _within(code, [SKIN]):
        return "mark"
    if _within(code, EMOJI):
        return "flag" if _within(code, [FLAG]) else "emoji"
    if not char.isalnum():
        return "gap"
    return "single" if _within(code, UNSPACED) else "letter"


def words(text: str) -> list[str]:
    """The tokens of a text, in lower case."""
    text = unicodedata.normalize("NFC", text.lower()).replace(EMOJI_STYLE, "")
    return ASCII_WORD.findall(text) if text.isascii() else ["".join(t) for t in _tokens(text)]


def _tokens(text: str) -> Iterator[list[str]]:
    token: list[str] = []
    last = "gap"
    for char in text:
        kind = _kind(char)
        glued = kind == "mark" or (kind == last == "letter") or (kind == "emoji" and token[-1:] == ["\u200d"])
        pair = kind == last == "flag" and len(token) == 1
        if token and (glued or pair):
            token.append(char)
            last = last if kind == "mark" else kind
            continue
        if token:
            yield token
        token, last = ([char], kind) if kind not in ("gap", "mark") else ([], "gap")
    if token:
        yield token


class Tokenizer:
    """The tokenizer that rouge-score calls: words, or their English stems."""

    def __init__(self, stemmer: bool) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stem = PorterStemmer().stem if stemmer else None

    def tokenize(self, text: str) -> list[str]:
        if self._stem is None:
            return words(text)
        stems = [self._stem(w) if len(w) > 3 and w.isascii() else w for w in words(text)]
        return [s for s in stems if s]


@functools.cache
def _scorer(kind: str, stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=Tokenizer(stemmer))


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class Rouge1:
    """F-measure of words."""

    stemmer: bool = False  # whether English words are stemmed

    kind: ClassVar[str] = "rouge1"

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """The F-measure with the best reference of each row; None if it has none."""
        scorer = _scorer(self.kind, self.stemmer)

        def score(completion: str, reference: str) -> float:
            return float(scorer.score(reference, completion)[self.kind].fmeasure)

        return [best_score(score, c, r) for c, r in zip(texts(completions), references, strict=True)]


@dataclass(frozen=True)
class Rouge2(Rouge1):
    """F-measure of pairs of words."""

    kind: ClassVar[str] = "rouge2"


@dataclass(frozen=True)
class RougeL(Rouge1):
    """F-measure of the longest common subsequence of words."""

    kind: ClassVar[str] = "rougeL"


@dataclass(frozen=True)
class RougeLsum(Rouge1):
    """F-measure of the longest common subsequences of lines, united over the lines."""

    kind: ClassVar[str] = "rougeLsum"
