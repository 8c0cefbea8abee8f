"""BLEU and chrF of a whole set of texts, as sacreBLEU computes and reports them: numbers from 0 to 100.

    BLEU = 100 · min(1, exp(1 − r/c)) · (p1·p2·p3·p4)^(1/4):  pn the share of the completions' n-grams that are in a
           right text, c and r the words of completions and right texts
    chrF = 100 · (1 + β²)·P·R / (β²·P + R) over n-grams of characters, n from 1 to 6, β = 2

Sources: BLEU, Papineni et al. 2002; chrF, Popović 2015; sacreBLEU (arXiv:1804.08771), whose numbers these are. Counts
are summed over all rows before they are divided, so no row has a score of its own. A row may have several right texts,
and rows different numbers of them; rows without any are left out.

BLEU is 0 for sets without a text of four words (short answers; Chinese, Japanese or Thai, unless `tokenizer` parts
these: zh, ja-mecab, or char for anything), against itself too. chrF needs no tokenizer and has no such zeros.
Needs sacrebleu: pip install 'zotune[text]'.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import zotune
from zotune.errors import OptionError
from zotune.text import texts

References = Sequence[str | Sequence[str] | None]


@functools.cache
def metric(name: str, **options: Any) -> Any:
    """sacreBLEU's metric. Raises OptionError where it, or what a tokenizer needs, is not installed."""
    try:
        from sacrebleu import metrics
    except ImportError:
        raise OptionError(f"{name.lower()} needs sacrebleu", hint="pip install 'zotune[text]'") from None
    try:
        return getattr(metrics, name)(**options)
    except (ImportError, RuntimeError):
        which = str(options.get("tokenize"))
        raise OptionError(
            f"{name.lower()}: what the tokenizer {which} needs is not installed",
            hint=f"pip install 'sacrebleu[{which.removesuffix('-mecab')}]'",
        ) from None


def corpus_score(scorer: Any, completions: Sequence[Any], references: References) -> float:
    """The score of all rows together. Raises ValueError where no row has a right text."""
    rows = [
        (c, [r] if isinstance(r, str) else list(r or [])) for c, r in zip(texts(completions), references, strict=True)
    ]
    rows = [(c, r) for c, r in rows if r]
    if not rows:
        raise ValueError("no row has a right text")
    most = max(len(r) for _, r in rows)
    streams = [[r[i] if i < len(r) else None for _, r in rows] for i in range(most)]
    return float(scorer.corpus_score([c for c, _ in rows], streams).score)


@zotune.objective(direction="maximize", level="set")
@dataclass(frozen=True)
class Bleu:
    tokenizer: Literal["13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab"] = "13a"  # what parts words
    lowercase: bool = False  # A is a
    effective_order: bool = False  # leave out lengths of n-grams that no completion has, as for single sentences

    def __post_init__(self) -> None:
        self._metric()

    def _metric(self) -> Any:
        options = {"lowercase": self.lowercase, "effective_order": self.effective_order}
        return metric("BLEU", tokenize=self.tokenizer, force=True, **options)

    def __call__(self, completions: Sequence[Any], references: References) -> float:
        """A float in [0, 100]."""
        return corpus_score(self._metric(), completions, references)


@zotune.objective(direction="maximize", level="set")
@dataclass(frozen=True)
class Chrf:
    word_order: int = 0  # runs of words counted too, up to so many: 2 is chrF++
    char_order: int = 6  # runs of characters, up to so many
    beta: int = 2  # β: recall counts β times as much as precision
    lowercase: bool = False  # A is a

    def __post_init__(self) -> None:
        for name, least in (("word_order", 0), ("char_order", 1), ("beta", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"chrf: {name} must be {least} or more, got {getattr(self, name)}")
        self._metric()

    def _metric(self) -> Any:
        options = {"word_order": self.word_order, "char_order": self.char_order, "beta": self.beta}
        return metric("CHRF", lowercase=self.lowercase, **options)

    def __call__(self, completions: Sequence[Any], references: References) -> float:
        """A float in [0, 100]."""
        return corpus_score(self._metric(), completions, references)
