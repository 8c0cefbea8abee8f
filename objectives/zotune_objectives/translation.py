"""BLEU and chrF over a set of completions, as sacreBLEU computes and reports them: from 0 to 100.

    BLEU = 100 · min(1, exp(1 − r/c)) · (p1·p2·p3·p4)^(1/4):  pn the share of the completions' n-grams that occur in a
           reference, c and r the numbers of words in completions and references
    chrF = 100 · (1 + β²)·P·R / (β²·P + R) over n-grams of characters, n from 1 to 6, β = 2

Counts are summed over all rows before the division, so no row has a score of its own. Rows may have several references,
and different numbers of them; rows without references are left out.

BLEU is 0 for sets in which no text has four words, even if completions equal references. This concerns short answers,
and Chinese, Japanese and Thai unless `tokenizer` splits their words: zh, ja-mecab, or char for any language. chrF needs
no tokenizer and has no such zeros. Needs sacrebleu: pip install 'zotune[text]'.

Sources: BLEU, Papineni et al. 2002; chrF, Popović 2015; sacreBLEU (arXiv:1804.08771).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import zotune
from zotune.errors import OptionError
from zotune.text import texts
from zotune.types import ObjectiveInfo
from zotune_objectives.references import References, as_list, references_of
from zotune_objectives.rouge import without_blanks


@functools.cache
def metric(name: str, **options: Any) -> Any:
    """A metric of sacreBLEU: "BLEU" or "CHRF". Raises OptionError if it, or its tokenizer, is not installed."""
    try:
        from sacrebleu import metrics
    except ImportError:
        raise OptionError(f"{name.lower()} needs sacrebleu", hint="pip install 'zotune[text]'") from None
    try:
        return {"BLEU": metrics.BLEU, "CHRF": metrics.CHRF}[name](**options)
    except (ImportError, RuntimeError):  # sacrebleu raises either if a tokenizer's package is missing
        tokenizer = str(options.get("tokenize"))
        raise OptionError(
            f"{name.lower()}: the package of the tokenizer {tokenizer} is not installed",
            hint=f"pip install 'sacrebleu[{tokenizer.removesuffix('-mecab')}]'",
        ) from None


def corpus_score(scorer: Any, completions: Sequence[Any], references: References) -> float:
    """The score of all rows. Raises ValueError if no row has a reference."""
    rows = [(c, as_list(r)) for c, r in zip(texts(completions), references, strict=True)]
    rows = [(completion, several) for completion, several in rows if several]
    if not rows:
        raise ValueError("no row has a reference")
    count = max(len(several) for _, several in rows)
    streams = [[several[i] if i < len(several) else None for _, several in rows] for i in range(count)]
    return float(scorer.corpus_score([completion for completion, _ in rows], streams).score)


@dataclass(frozen=True)
class Bleu:
    tokenizer: Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"] = "13a"  # splits text into words
    lowercase: bool = False  # whether upper and lower case are equal
    effective_order: bool = False  # omit n-gram lengths that no completion has, as for single sentences

    def __post_init__(self) -> None:
        self._metric()

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="set", fast=True, check_row=self._check)

    def _check(self, row: Mapping[str, Any]) -> str | None:
        if self.tokenizer not in ("13a", "intl", "none") or not any(map(without_blanks, references_of(row))):
            return None
        return "bleu splits words at blanks, and references have none between words: tokenizer=zh, ja-mecab or char"

    def _metric(self) -> Any:
        options = {"lowercase": self.lowercase, "effective_order": self.effective_order}
        return metric("BLEU", tokenize=self.tokenizer, force=True, **options)

    def __call__(self, completions: Sequence[Any], references: References) -> float:
        """A float in [0, 100]."""
        return corpus_score(self._metric(), completions, references)


@zotune.objective(direction="maximize", level="set", fast=True)
@dataclass(frozen=True)
class Chrf:
    word_order: int = 0  # largest n of n-grams of words; 2 is chrF++
    char_order: int = 6  # largest n of n-grams of characters
    beta: int = 2  # β: weight of recall relative to precision
    lowercase: bool = False  # whether upper and lower case are equal

    def __post_init__(self) -> None:
        for name, value, minimum in (
            ("word_order", self.word_order, 0),
            ("char_order", self.char_order, 1),
            ("beta", self.beta, 1),
        ):
            if value < minimum:
                raise OptionError(f"chrf: {name} must be {minimum} or more, got {value}")
        self._metric()

    def _metric(self) -> Any:
        options = {"word_order": self.word_order, "char_order": self.char_order, "beta": self.beta}
        return metric("CHRF", lowercase=self.lowercase, **options)

    def __call__(self, completions: Sequence[Any], references: References) -> float:
        """A float in [0, 100]."""
        return corpus_score(self._metric(), completions, references)
