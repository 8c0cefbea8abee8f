"""Data sets that are made instead of read: `synthetic:countdown` and others, always the same rows.

Each is made from a fixed seed, so that runs with different seeds are scored on the same test set. Knows records; knows
no template and no model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from zotune.data.records import Record
from zotune.errors import DataError, nearest
from zotune.seeds import derive

PREFIX: Final = "synthetic:"
ROWS: Final = {"train": 256, "validation": 40, "test": 80}
"""Rows of each split."""

Answer = tuple[int, str]
"""A value and an expression that has it."""


def synthetic_name(source: str) -> str | None:
    """The name after `synthetic:`; None where a source is of another kind."""
    return source.removeprefix(PREFIX) if source.startswith(PREFIX) else None


def make_splits(name: str) -> dict[str, list[Record]]:
    """The splits of a data set. No prompt is in two of them. Raises DataError for an unknown name."""
    if name not in MAKERS:
        raise DataError(f"no synthetic data set {name!r:.80}", hint=nearest(name, MAKERS))
    rng = random.Random(derive(0, f"synthetic {name}"))
    seen: set[str] = set()
    splits: dict[str, list[Record]] = {}
    for split, count in ROWS.items():
        rows: list[Record] = []
        while len(rows) < count:
            row = MAKERS[name](rng)
            key = json.dumps(row, sort_keys=True)
            if key not in seen:
                seen.add(key)
                rows.append(row)
        splits[split] = rows
    return splits


def countdown(rng: random.Random) -> Record:
    """Three or four numbers and a target that some of + - * / makes of all of them. `completion` is one solution."""
    while True:
        numbers = [rng.randint(1, 50) for _ in range(rng.choice((3, 4)))]
        items: list[Answer] = [(n, str(n)) for n in numbers]
        while len(items) > 1:
            left, right = (items.pop(rng.randrange(len(items))) for _ in range(2))
            items.append(_combined(rng, left, right))
        target, solution = items[0]
        if 1 <= target <= 500:
            return {"numbers": numbers, "target": target, "completion": solution}


def _combined(rng: random.Random, left: Answer, right: Answer) -> Answer:
    """Two values joined by an operation whose result is a positive whole number."""
    if left[0] < right[0]:
        left, right = right, left
    (a, first), (b, second) = left, right
    possible = [("+", a + b)]
    if a > b:
        possible.append(("-", a - b))
    if a * b <= 500:
        possible.append(("*", a * b))
    if b > 1 and a % b == 0:
        possible.append(("/", a // b))
    sign, value = rng.choice(possible)
    return value, f"({first} {sign} {second})"


def _items(text: str, separator: str = " ") -> list[str]:
    return text.split(separator)


FIRST_NAMES: Final = _items(
    "Amara Boris Carla Dmitri Elena Farid Greta Hiro Ingrid Jorge Keiko Liam Maria Nadia Omar Priya Quinn Rosa Samuel "
    "Tomas Umar Vera Walter Yusuf Zoe"
)
LAST_NAMES: Final = _items(
    "Alvarez Brown Costa Dubois Eriksen Fischer Garcia Haddad Ito Jansen Kim Larsen Mehta Novak Okafor Petrov Rossi "
    "Schmidt Tanaka Weber"
)
CITIES: Final = _items("Austin Cairo Hanoi Kyoto Lima Lisbon Nairobi Oslo Prague Toronto")
JOBS: Final = _items("chemist florist gardener judge nurse pilot sailor teacher translator welder")
SENTENCES: Final = (
    "{name} is a {age}-year-old {job} from {city}.",
    "At {age}, {name} works as a {job} in {city}.",
    "The {job} {name} ({age}) has lived in {city} since childhood.",
    "Born in {city} {age} years ago, {name} is now a {job}.",
    "{name}, aged {age}, moved to {city} to become a {job}.",
)
KEY_SETS: Final = (("name", "age"), ("name", "job"), ("age", "city"), ("age", "job"), ("city", "job"))
TYPES: Final = {"name": "string", "age": "integer", "city": "string", "job": "string"}


def _person(rng: random.Random) -> dict[str, Any]:
    name = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
    return {"name": name, "age": rng.randint(19, 89), "city": rng.choice(CITIES), "job": rng.choice(JOBS)}


def json_answers(rng: random.Random) -> Record:
    """A sentence about an invented person and the keys that the answer must have. `completion` is the right answer."""
    person, keys = _person(rng), rng.choice(KEY_SETS)
    schema = {
        "type": "object",
        "properties": {key: {"type": TYPES[key]} for key in keys},
        "required": list(keys),
        "additionalProperties": False,
    }
    listed = ", ".join(keys[:-1]) + f" and {keys[-1]}"
    return {
        "prompt": f"Return JSON with the keys {listed}.\n\n{rng.choice(SENTENCES).format(**person)}",
        "keys": list(keys),
        "schema": json.dumps(schema),
        "completion": json.dumps({key: person[key] for key in keys}),
    }


QUESTIONS: Final = {
    "age": ("How old is {name}?", "What is the age of {name}?"),
    "city": ("Which city does the text name?", "Which city is {name} connected with?"),
    "job": ("What does {name} do for a living?", "What is the job of {name}?"),
    "name": ("Who is the text about?", "What is the name of the {job}?"),
}


def concise(rng: random.Random) -> Record:
    """A question about a sentence; `completion` is the short answer."""
    person, key = _person(rng), rng.choice(list(QUESTIONS))
    text = rng.choice(SENTENCES).format(**person)
    question = rng.choice(QUESTIONS[key]).format(**person)
    return {"prompt": f"{text} {question}", "completion": str(person[key])}


SUBJECTS: Final = _items(
    "a walk by the river,a bus in the morning,a letter from a friend,a small bakery,a rainy Sunday,a school concert,"
    "a garden in spring,a train to the north,a new neighbour,a lost umbrella,a library at night,a market in autumn,"
    "a first day at work,a phone call,a cup of coffee,a hotel by the sea,a long queue,an old bicycle,a birthday,"
    "a film about space,a visit to the dentist,a football match,a cat on the stairs,a broken lift,a soup for six",
    ",",
)
FORMS: Final = (
    "Write one sentence about {subject}.",
    "Describe {subject} in one sentence.",
    "Say something about {subject}.",
    "Write a short message to a friend about {subject}.",
    "Write the first sentence of a story about {subject}.",
    "Write a short post about {subject}.",
)
DETAILS: Final = ("", "It is winter. ", "It is summer. ", "You are in a hurry. ", "You are on holiday. ")


def sentiment(rng: random.Random) -> Record:
    """A prompt for a sentence whose tone is open."""
    return {"prompt": rng.choice(DETAILS) + rng.choice(FORMS).format(subject=rng.choice(SUBJECTS))}


MAKERS: Mapping[str, Callable[[random.Random], Record]] = {
    "countdown": countdown,
    "json": json_answers,
    "concise": concise,
    "sentiment": sentiment,
}
"""Name → what makes one row."""

__all__ = ["MAKERS", "PREFIX", "make_splits", "synthetic_name"]
