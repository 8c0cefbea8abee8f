"""Scores in the JSON that programs and servers reply with.

This module knows the formats of replies; it knows neither processes nor connections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

SCORE_NAMES = ("score", "reward")
"""Names of the score in an object that a program or zotune's own format replies."""
SERVER_SCORE_NAMES = (*SCORE_NAMES, "probs", "embedding", "data")
"""The same, and the names that reward servers use."""
LIST_NAMES = ("rewards", "scores", "data")
"""Names of the list of scores in a server's reply."""


def parse(text: str) -> Any:
    """A JSON value; NaN and Infinity, which are not JSON, are refused. Raises ValueError."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def number(value: Any) -> float | None:
    """One score: a number, true or false, null, or an object with `score` or `reward`. Raises ValueError."""
    if isinstance(value, dict):
        name = next((n for n in SCORE_NAMES if n in value), None)
        if name is None:
            raise ValueError(f"an object without score: {shorten(value)}")
        value = value[name]
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise ValueError(f"{shorten(value)} is not a number")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise ValueError(f"{shorten(value)} is out of range")
    return score


def server_scores(reply: Any, rows: int, label: str | None = None) -> list[float | None]:
    """A server's reply in any of the supported formats as one score for each row.

    label: name or index of the score, for servers that reply several for each row. Raises ValueError that describes
    the reply.
    """
    items: Any = reply
    if isinstance(reply, dict):
        name = next((n for n in LIST_NAMES if isinstance(reply.get(n), list)), None)
        items = [reply] if name is None else reply[name]
    elif not isinstance(reply, list):
        items = [reply]
    elif rows == 1 and len(reply) > 1 and all(isinstance(x, dict) and "label" in x for x in reply):
        items = [reply]  # one row with a score for each label
    if len(items) != rows:
        raise ValueError(f"{len(items)} scores for {rows} rows")
    if items and all(isinstance(x, dict) and isinstance(x.get("index"), int) for x in items):
        items = sorted(items, key=lambda x: int(x["index"]))
        if [x["index"] for x in items] != list(range(rows)):
            raise ValueError("scores whose indices are not those of the rows, each once")
    return [_server_score(item, label) for item in items]


def _server_score(item: Any, label: str | None) -> float | None:
    """The score of one row."""
    if isinstance(item, dict):
        name = next((n for n in SERVER_SCORE_NAMES if n in item), None)
        if name is None:
            keys = ", ".join(map(str, item)) or "nothing"
            raise ValueError(f"an object without a score; it has {shorten(keys)}")
        item = item[name]
    if not isinstance(item, list):
        return number(item)
    if len(item) == 1 and label is None:
        if isinstance(item[0], list):
            raise _nested(item)
        return _server_score(item[0], None)
    if all(isinstance(x, dict) and "label" in x for x in item):
        by_label = {str(x["label"]): x for x in item}
        for key in (label, f"LABEL_{label}"):
            if key in by_label:
                return _server_score(by_label[str(key)], None)
        raise _label_needed(label, list(by_label))
    if any(isinstance(x, list) for x in item):
        raise _nested(item)
    if label is None or not label.isdecimal() or int(label) >= len(item):
        raise _label_needed(label, [str(i) for i in range(len(item))])
    return number(item[int(label)])


def _nested(item: Any) -> ValueError:
    return ValueError(f"a nested list instead of one number for a row: {shorten(item)}")


def _label_needed(label: str | None, possible: Sequence[str]) -> ValueError:
    choices = shorten(", ".join(possible))
    if label is None:
        return ValueError(f"{len(possible)} numbers for a row; set reward_label to one of {choices}")
    return ValueError(f"no score for reward_label {label!r}; possible: {choices}")


def shorten(value: Any, most: int = 80) -> str:
    """A value in a message: on one line, with at most so many characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
