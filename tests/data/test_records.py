"""Records in uniform shapes: answers, messages, pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from zotune.data.records import normalize
from zotune.data.sources import read_splits
from zotune.errors import DataError


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        (
            {"question": "q", "context": "c", "answers": {"text": ["b", "a", "b"], "answer_start": [5, 0, 9]}},
            ["b", "a"],
        ),
        ({"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}}, []),
        ({"passage": "p", "question": "q", "answers_spans": {"spans": ["1", "1"], "types": ["number"] * 2}}, ["1"]),
    ],
)
def test_answers_become_texts(row: dict[str, Any], answers: list[str]) -> None:
    before = json.dumps(row)
    assert normalize([row]) == [{**row, "answers": answers}]
    assert json.dumps(row) == before


MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x", "label": 1},
        {"question": "q", "answers": ["a", "a"]},
        {"answers": {"A": "one", "B": "two"}},
        {"answers": ["x"], "answers_spans": {"spans": ["y"]}},
        {"messages": MESSAGES},
        {"messages": [{"role": "system", "content": ""}, {"role": "tool", "content": "{}", "name": "t"}]},
        {"messages": "a column of texts that is called so", "label": 1},
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "messages": MESSAGES[:1]},
    ],
)
def test_other_shapes_stay_as_they_are(row: dict[str, Any]) -> None:
    assert normalize([row]) == [row]


def test_conversations_are_joined_to_messages() -> None:
    prompt, answer, other = MESSAGES[:1], MESSAGES[1:], [{"role": "assistant", "content": "go away"}]
    for row, messages in (
        ({"prompt": prompt}, prompt),
        ({"prompt": prompt, "completion": "hello"}, MESSAGES),
        ({"prompt": prompt, "chosen": answer, "rejected": other}, MESSAGES),
    ):
        assert normalize([row]) == [{**row, "messages": messages}]
    whole = {"chosen": MESSAGES, "rejected": [*prompt, *other]}  # the shared beginning becomes the prompt
    assert normalize([whole]) == [{"prompt": prompt, "chosen": answer, "rejected": other, "messages": MESSAGES}]
    with pytest.raises(DataError, match="chosen: message 1 has the role 'nobody'"):
        normalize([{"prompt": prompt, "chosen": [{"role": "nobody", "content": ""}], "rejected": other}])


def test_prompt_and_completion_are_joined_to_messages() -> None:
    row = {"prompt": MESSAGES[:1], "completion": MESSAGES[1:], "id": 3}
    assert normalize([row]) == [{**row, "messages": MESSAGES}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, r"record 2: messages must be a list of messages, got \[\]"),
        ({"messages": None}, "record 2: messages must be a list"),
        ({"messages": ["hi"]}, "message 1 must have a role and a content, got 'hi'"),
        (
            {"messages": [*MESSAGES, {"role": "bot", "content": "x"}]},
            "message 3 has the role 'bot' .roles: system, user",
        ),
        ({"messages": [{"from": "human", "value": "x"}]}, "message 1 has the role None"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "message 1 must have a text as content"),
        ({"messages": [{"role": "user"}]}, "message 1 must have a text as content, got None"),
        ({"prompt": MESSAGES, "completion": [{"role": "x", "content": ""}]}, "record 2: completion: message 1"),
        ({"answers": {"text": ["a", 1]}}, "record 2: answers must be a list of texts, got 1"),
    ],
)
def test_broken_shapes_name_the_record(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "fine"}, row])
    with pytest.raises(DataError, match=message) as error:
        read_splits(path)
    assert str(error.value).startswith(f"{path}, record 2: ")
