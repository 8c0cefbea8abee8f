"""Records in uniform shapes: answers, messages, pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from zotune.data.records import label_key, normalize
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


def test_sharegpt_becomes_messages() -> None:
    talk = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "hello"},
    ]
    messages = [{"role": "system", "content": "Be kind."}, *MESSAGES]
    for column in ("conversations", "messages"):
        (record,) = normalize([{column: talk}])
        assert record["messages"] == messages
    assert normalize([{"conversations": MESSAGES}])[0]["messages"] == MESSAGES


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    for row in (
        {"messages": [{"role": "user", "content": parts}, MESSAGES[1]]},
        {"prompt": [{"role": "user", "content": parts}], "completion": "hello"},
    ):
        (record,) = normalize([row])
        assert record["messages"] == MESSAGES
    pair = {
        "chosen": [{"role": "user", "content": parts}, MESSAGES[1]],
        "rejected": [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        ],
    }
    (record,) = normalize([pair])
    assert (record["prompt"], record["rejected"]) == (MESSAGES[:1], [{"role": "assistant", "content": "no"}])


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Add", "input": "1 1", "output": "2"}, "Add\n\n1 1"),
        ({"instruction": "Add", "input": "", "output": "2"}, "Add"),
        ({"instruction": "Add", "output": "2"}, "Add"),
        ({"instruction": "Add", "context": "1 1", "response": "2", "category": "sums"}, "Add\n\n1 1"),
    ],
)
def test_instructions_become_prompts(row: dict[str, Any], prompt: str) -> None:
    assert normalize([row]) == [{**row, "prompt": prompt, "completion": "2"}]
    assert normalize([{**row, "prompt": "p"}]) == [{**row, "prompt": "p"}]


@pytest.mark.parametrize(
    ("label", "key"),
    [
        (1, "1"),
        (1.0, "1"),
        (True, "1"),
        ("1.0", "1"),
        (" -2.00 ", "-2"),
        ("1.5", "1.5"),
        ("①", "①"),
        ("1.0.0", "1.0.0"),
        ("cafe\u0301", "café"),
    ],
)
def test_keys_of_labels(label: Any, key: str) -> None:
    assert label_key(label) == key


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, r"line 2: messages must be a list of messages, got \[\]"),
        ({"messages": None}, "line 2: messages must be a list"),
        ({"messages": ["hi"]}, "message 1 must have a role and a content, got 'hi'"),
        (
            {"messages": [*MESSAGES, {"role": "bot", "content": "x"}]},
            "message 3 has the role 'bot' .roles: system, user",
        ),
        ({"messages": [{"speaker": "human", "value": "x"}]}, "message 1 has the role None"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "cat", "value": "y"}]},
            "message 2 is from 'cat'",
        ),
        ({"conversations": [{"from": "human", "value": None}]}, "message 1 must have a text as content, got None"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "message 1 must have texts as content, got the part",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]},
            "message 1 must have texts as content, got the part .* .only parts of type text",
        ),
        ({"messages": [{"role": "user"}]}, "message 1 must have a text as content, got None"),
        ({"prompt": MESSAGES, "completion": [{"role": "x", "content": ""}]}, "line 2: completion: message 1"),
        ({"answers": {"text": ["a", 1]}}, "line 2: answers must be a list of texts, got 1"),
    ],
)
def test_broken_shapes_name_the_record(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "fine"}, row])
    with pytest.raises(DataError, match=message) as error:
        read_splits(path)
    assert str(error.value).startswith(f"{path}, line 2: ")
