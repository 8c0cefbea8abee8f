"""Token F1 and exact match of completions with references.

    F1 = 2·|common tokens| / (|tokens of the completion| + |tokens of the reference|)
    exact match = the same tokens in the same order

A row with several references gets the best score. Two texts without tokens are equal; a text without tokens and another
have F1 0. One score in [0, 1] for each row. The option `normalize` decides what counts as the same token:

    number: case, whitespace, quotation marks, brackets and sentence punctuation around a token, and one leading article
            before a word do not count; numbers are equal if their values are (1,000 = 1000.0, $5 = 5, 50% = 50, but
            35 ≠ 3.5 and 5 ≠ -5). No text becomes empty and no two numbers become one.
    squad:  lower case, without ASCII punctuation and the words a, an, the, as the script of SQuAD 1.1 does it. It is
            for comparison with published scores: "A" becomes empty, C++ equals C, 3.5 equals 35.
    none:   tokens are the parts between whitespace, unchanged.

Source of squad: SQuAD (arXiv:1606.05250), section 6.1, and its evaluation script.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

import zotune
from zotune.text import texts
from zotune.types import ObjectiveInfo
from zotune_objectives.references import References, best_score, references_of
from zotune_objectives.rouge import without_blanks

Normalize = Literal["number", "squad", "none"]
PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
ARTICLES: Final = re.compile(r"\b(a|an|the)\b")

_CLOSING: Final = ".,;:!?'\"`*…¡¿。、"
"""Punctuation that may stand around a token, beside quotation marks and brackets. A symbol such as # or + is part of
the token."""
_OPENING: Final = _CLOSING.replace(".", "")  # .5 is a number and .NET a name
_WIDE: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x2212: "-"}
"""Full-width forms and the minus sign as ASCII. Not all of NFKC, which makes 52 of 5²."""
_NUMBER: Final = re.compile(r"([-+]?)[$€£¥]?([-+]?)((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(e[-+]?\d{1,4})?%?")


def normalize(text: str) -> str:
    """The text as SQuAD compares it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def tokens(text: str, how: Normalize) -> list[str]:
    """The tokens of a text that are compared."""
    if how == "none":
        return text.split()
    if how == "squad":
        return normalize(text).split()
    words = unicodedata.normalize("NFC", text).translate(_WIDE).casefold().split()
    if len(words) > 1 and words[0] in ("a", "an", "the") and words[1][:2].isalpha() and len(words[1]) > 1:
        words = words[1:]
    return [_number(bare) or bare for bare in map(_bare, words)]


def f1(completion: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the tokens that two texts have in common."""
    if not completion or not reference:
        return float(completion == reference)
    common = sum((Counter(completion) & Counter(reference)).values())
    return 2 * common / (len(completion) + len(reference))


@dataclass(frozen=True)
class TokenF1:
    normalize: Normalize = "number"  # number: compare values; squad: as SQuAD's script; none: texts as they are

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="sample", check_row=self._check)

    def _check(self, row: Mapping[str, Any]) -> str | None:
        text = "token-f1 splits words at blanks, and references have none between words: rouge1 or chrf splits them"
        return text if any(map(without_blanks, references_of(row))) else None

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """Token F1 with the best reference of each row; None if it has none."""

        def score(completion: str, reference: str) -> float:
            return f1(tokens(completion, self.normalize), tokens(reference, self.normalize))

        return [best_score(score, c, r) for c, r in zip(texts(completions), references, strict=True)]


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class ExactMatch:
    normalize: Normalize = "number"  # number: compare values; squad: as SQuAD's script; none: texts as they are

    def __call__(self, completions: Sequence[Any], references: References) -> list[float | None]:
        """1.0 if a completion equals one of the row's references, else 0.0; None if it has none."""

        def score(completion: str, reference: str) -> float:
            return float(tokens(completion, self.normalize) == tokens(reference, self.normalize))

        return [best_score(score, c, r) for c, r in zip(texts(completions), references, strict=True)]


token_f1, exact_match = TokenF1(), ExactMatch()


def _bare(word: str) -> str:
    """A word without the punctuation around it; the word itself where it is punctuation alone."""
    first, last = 0, len(word)
    while first < last and _is_around(word[first], _OPENING):
        first += 1
    while first < last and _is_around(word[last - 1], _CLOSING):
        last -= 1
    return word[first:last] or word


def _is_around(character: str, punctuation: str) -> bool:
    return character in punctuation or unicodedata.category(character) in ("Ps", "Pe", "Pi", "Pf")


def _number(word: str) -> str | None:
    """A text that numbers of the same value share; None where the word is no number."""
    match = _NUMBER.fullmatch(word)
    if match is None or (match[1] and match[2]):
        return None
    value = Decimal((match[1] or match[2]) + match[3].replace(",", "") + (match[4] or ""))
    sign, digits, exponent = value.as_tuple()
    significant = "".join(map(str, digits)).lstrip("0")
    short = significant.rstrip("0")
    return f"{'-' if sign else ''}{short}e{int(exponent) + len(significant) - len(short)}" if short else "0"
