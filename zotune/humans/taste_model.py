"""A model of a person's taste: a Bradley–Terry model of their answers, whose strengths are linear in features of the
texts. It predicts how often they would prefer the tuned model's text to the base model's.

    P(a is preferred to b) = 1 / (1 + exp(−w · (f(a) − f(b))))

f: which words a text has, its length, how many of its pairs of words differ, and its punctuation, each in units of its
spread. w: logistic regression (scikit-learn) without intercept on f(chosen) − f(rejected), with an L2 penalty, so that
few answers predict little. The win rate is a s + (1 − a) (1 − s): s is the share of prompts where the model prefers
the text of now, and a the share of answers that it predicts when it was fitted without them, for it and the person may
err. The interval is that of a bootstrap over answers and prompts, with a from Beta(½ + right, ½ + wrong).

Source: Bradley and Terry 1952. Knows texts; knows no store, no page and no model of language.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

FEWEST: Final = 8
"""Decided answers before which nothing is predicted."""
RESAMPLES: Final = 100
WORDS: Final = 200
"""Words with a feature of their own: those in most texts, but in two at least and not in all."""
STRENGTHS: Final = (0.003, 0.02, 0.15)
"""Values of C of the logistic regression; the one that predicts most answers is used."""
FOLDS: Final = 5

Pair = tuple[str, str]
"""(chosen, rejected) of an answer, or (before, now) of a prompt."""


@dataclass(frozen=True)
class PredictedWinRate:
    """rate: how often the person would prefer the texts of now; low, high: its 95 % interval. answers: decided answers
    that the model is fitted to; accuracy: the share of answers that it predicts when it was fitted without them."""

    rate: float
    low: float
    high: float
    answers: int
    accuracy: float


def predict(answers: Sequence[Pair], held_out: Sequence[Pair], seed: int = 0) -> PredictedWinRate | None:
    """How often (before, now) would be answered by "now", from (chosen, rejected) of the answers so far. Equal texts
    are a tie. None for fewer than FEWEST answers, or without a prompt."""
    import numpy

    if len(answers) < FEWEST or not held_out:
        return None
    features = _Features([text for pair in (*answers, *held_out) for text in pair])
    won, new = features.differences(answers), -features.differences(held_out)
    rng, count = numpy.random.default_rng(seed), len(won)
    order = rng.permutation(count)
    right, strength = max((_right(won, order, c), c) for c in STRENGTHS)
    rates = []
    for _ in range(RESAMPLES):
        w = _fit(won[rng.integers(count, size=count)], strength)
        share = _share(new[rng.integers(len(new), size=len(new))] @ w)
        rates.append(_with_errors(share, rng.beta(0.5 + right, 0.5 + count - right)))
    low, high = numpy.quantile(rates, (0.025, 0.975))
    rate = _with_errors(_share(new @ _fit(won, strength)), right / count)
    return PredictedWinRate(rate, float(low), float(high), count, right / count)


class _Features:
    """Features of texts, in units of their spread over all of these texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy

        self._index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        words = [_words(text) for text in self._index]
        counts = Counter(word for row in words for word in set(row))
        kept = [w for w, n in counts.most_common() if 1 < n < len(words)][:WORDS]
        rows = [[*(float(w in row) for w in kept), *_form(t, row)] for t, row in zip(self._index, words, strict=True)]
        x = numpy.array(rows)
        self._x = (x - x.mean(0)) / numpy.where(x.std(0) > 0, x.std(0), 1.0)

    def differences(self, pairs: Sequence[Pair]) -> Any:
        """f(first) − f(second) of each pair: (pairs, features)."""
        first, second = ([self._index[pair[side]] for pair in pairs] for side in (0, 1))
        return self._x[first] - self._x[second]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text.lower())


def _form(text: str, words: Sequence[str]) -> list[float]:
    """Numbers about the form of a text: its length, its repetitions, its sentences and its punctuation."""
    pairs = list(itertools.pairwise(words))
    marks = [float(text.count(mark)) for mark in ("!", "?", ",", '"', "\n")]
    ends = max(len(re.findall(r"[.!?]+", text)), 1)
    distinct = len(set(pairs)) / len(pairs) if pairs else 1.0
    return [math.log1p(len(text)), len(words) / ends, distinct, len(set(words)) / max(len(words), 1), *marks]


def _fit(won: Any, strength: float) -> Any:
    """w from f(chosen) − f(rejected). The mirrored differences make two classes; without an intercept they change
    nothing but the strength of the penalty."""
    import numpy
    from sklearn.linear_model import LogisticRegression

    x, y = numpy.concatenate([won, -won]), numpy.repeat([1, 0], len(won))
    return LogisticRegression(C=strength, fit_intercept=False).fit(x, y).coef_[0]


def _share(strengths: Any) -> float:
    """The share of positive numbers, 0 counting as half."""
    return float(((strengths > 0) + 0.5 * (strengths == 0)).mean())


def _with_errors(share: float, accuracy: float) -> float:
    """A share of predictions, as a share of answers of somebody whom they meet so often."""
    return accuracy * share + (1 - accuracy) * (1 - share)


def _right(won: Any, order: Any, strength: float) -> float:
    """How many answers a fit without them predicts, a tie counting as half."""
    import numpy

    right = 0.0
    for fold in range(FOLDS):
        tested = order[fold::FOLDS]
        right += _share(won[tested] @ _fit(numpy.delete(won, tested, 0), strength)) * len(tested)
    return right


__all__ = ["FEWEST", "PredictedWinRate", "predict"]
