"""Questions for tests, and a rater."""

from __future__ import annotations

import itertools

from zotune.humans.ratings import REPEAT_EVERY, BlindQuestion, Question, Ratings
from zotune.seeds import derive


def question(key: str, count: int = 2, purpose: str = "tune") -> Question:
    return Question(key, f"prompt of {key}", tuple(f"{key}/{i}" for i in range(count)), purpose)


def rate_all(store: Ratings, verdict: str = "1", limit: int = 10**6) -> list[BlindQuestion]:
    """Gives the same verdict on every open question; returns what was shown."""
    shown = []
    while len(shown) < limit and (now := store.next_question()):
        shown.append(now)
        assert store.record(now.id, verdict)
    return shown


def repeat_is_due(key: str) -> bool:
    """Whether a question with this key is preceded by a repeat, if one is possible."""
    return derive(0, "repeat", key) % REPEAT_EVERY == 0


def without_repeats(count: int, purpose: str = "tune") -> list[Question]:
    """Questions before which no repeat is due, with the keys p0, p1, …"""
    keys = (key for key in (f"p{i}" for i in itertools.count()) if not repeat_is_due(key))
    return [question(key, purpose=purpose) for key in itertools.islice(keys, count)]


def with_repeats(count: int) -> list[Question]:
    """Questions before which a repeat is due."""
    keys = (key for key in (f"d{i}" for i in itertools.count()) if repeat_is_due(key))
    return [question(key) for key in itertools.islice(keys, count)]
