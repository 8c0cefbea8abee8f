"""The model of a person's taste: it finds a taste in few answers with errors among them, and claims nothing else."""

from __future__ import annotations

import random

import pytest

from zotune.humans.taste_model import FEWEST, Pair, predict

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "tree",
    "run",
    "jump",
    "park",
    "ball",
    "red",
    "blue",
    "mom",
    "dad",
    "big",
    "day",
]


def text(rng: random.Random, happy: bool) -> str:
    words = [rng.choice(WORDS) for _ in range(20)]
    return " ".join([*words[:10], "happy", *words[10:]] if happy else words)


def answers(rng: random.Random, count: int, wrong: float) -> list[Pair]:
    """Answers of somebody who likes "happy" and errs in a share of them."""
    made = []
    for _ in range(count):
        pair = text(rng, True), text(rng, False)
        made.append(pair[::-1] if rng.random() < wrong else pair)
    return made


def held_out(rng: random.Random, share: float) -> list[Pair]:
    """(before, now): so many of the texts of now have the word."""
    return [(text(rng, False), text(rng, rng.random() < share)) for _ in range(12)]


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.2])
def test_a_taste_is_found(wrong: float) -> None:
    rng = random.Random(1)
    found = predict(answers(rng, 80, wrong), held_out(rng, 1.0))
    assert found is not None
    assert found.answers == 80
    assert 0.5 < found.low < found.rate <= 1, found
    assert found.accuracy > 0.9 - 2 * wrong


def test_the_other_way_round() -> None:
    rng = random.Random(2)
    found = predict(answers(rng, 80, 0.1), [(now, before) for before, now in held_out(rng, 1.0)])
    assert found is not None
    assert found.high < 0.5


def test_nothing_is_claimed_without_a_taste() -> None:
    claims = 0
    for seed in range(6):
        rng = random.Random(seed)
        pairs = [(text(rng, False), text(rng, False)) for _ in range(40)]
        found = predict(pairs, [(text(rng, False), text(rng, False)) for _ in range(12)], seed)
        assert found is not None
        claims += found.low > 0.5
    assert claims <= 1


def test_equal_texts_are_a_tie_and_few_answers_predict_nothing() -> None:
    rng = random.Random(3)
    many, same = answers(rng, 30, 0.0), [("same", "same")] * 5
    found = predict(many, same)
    assert found is not None
    assert (found.low, found.rate, found.high) == (0.5, 0.5, 0.5)
    assert predict(many[: FEWEST - 1], same) is None
    assert predict(many, []) is None
    assert predict(many, same) == found, "the same numbers again"
