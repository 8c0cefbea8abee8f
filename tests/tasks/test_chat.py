"""Chat templates around plain prompts, against the tokenizer's own `apply_chat_template` and reference loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import CHAT_TEMPLATE, NO_SYSTEM, Families, classification, greedy, log_p, mean

from zotune.data.classes import Classes
from zotune.data.task import TaskSpec
from zotune.data.templates import FilledTemplate, Template
from zotune.data.tokenization import PromptTokenizer
from zotune.errors import ModelError, OptionError
from zotune.tasks import build
from zotune.tasks.chat import ChatTemplate, chat_record, example_messages, settle_chat
from zotune.tasks.completion_notes import completion_notes
from zotune.tasks.row_length import encode_sets

ROWS = [{"prompt": "who saw the cat", "completion": " the dog"}, {"prompt": "was it bad", "completion": "yes"}]
SPEC = TaskSpec("generation", Template("{prompt}"), max_new_tokens=5, chat_template="on")


def chat_model(families: Families, template: str = CHAT_TEMPLATE) -> Any:
    loaded = families.load("llama")
    loaded.tokenizer.chat_template = template
    return loaded


def chat_text(loaded: Any, *messages: tuple[str, str], **arguments: Any) -> str:
    turns = [{"role": role, "content": content} for role, content in messages]
    text: str = loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
    return text


def ids(loaded: Any, text: str) -> list[int]:
    result: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return result


def answer_log_p(loaded: Any, prompt: str, answer: str) -> list[float]:
    whole, before = ids(loaded, prompt + answer), len(ids(loaded, prompt))
    scores = log_p(loaded, whole)
    return [float(scores[i - 1, whole[i]]) for i in range(before, len(whole))]


def test_plain_prompts_are_a_turn_of_the_user(families: Families) -> None:
    loaded = chat_model(families)
    task = build.build(loaded, SPEC, 90, 4)
    rows = task.rows(ROWS)
    texts = [chat_text(loaded, ("user", row["prompt"])) for row in ROWS]
    assert [list(t[0]) for t in rows.tokens] == [ids(loaded, text) for text in texts]
    assert rows.prompts == [row["prompt"] for row in ROWS]  # as the data have them
    out = task.outputs(rows, range(2), frozenset({"completions", "losses"}))
    assert out["completion_ids"] == [greedy(loaded, ids(loaded, text), 5) for text in texts]
    expected = [-mean(answer_log_p(loaded, t, r["completion"].strip())) for t, r in zip(texts, ROWS, strict=True)]
    assert out["losses"] == pytest.approx(expected, abs=1e-4)


def test_label_words_follow_the_chat(families: Families) -> None:
    loaded = chat_model(families)
    spec = classification("{text} . it was {label} .", system="the cast", chat_template="on")
    task = build.build(loaded, spec, 90, 4)
    rows = task.rows([{"text": "the film ran", "label": 0}])
    text = chat_text(loaded, ("system", "the cast"), ("user", "the film ran . it was"))
    expected = [mean(answer_log_p(loaded, text, word)) for word in ("bad", "so good")]
    assert task.logits(rows, [0])[0].tolist() == pytest.approx(expected, abs=1e-4)  # type: ignore[union-attr]


def test_choices_and_calibration_follow_the_chat(families: Families) -> None:
    loaded = chat_model(families)
    spec = TaskSpec(
        "choice",
        Template("{text} so {choice}"),
        choices=("a", "b"),
        chat_template="on",
        calibration=Template("so {choice}"),
    )
    task = build.build(loaded, spec, 90, 4)
    rows = task.rows([{"text": "the cat", "a": "it ran", "b": "it sat", "label": 0}])
    text, neutral = chat_text(loaded, ("user", "the cat so")), chat_text(loaded, ("user", "so"))
    expected = [
        sum(answer_log_p(loaded, text, word)) - sum(answer_log_p(loaded, neutral, word))
        for word in ("it ran", "it sat")
    ]
    assert task.logits(rows, [0])[0].tolist() == pytest.approx(expected, abs=1e-4)  # type: ignore[union-attr]


def test_demonstrations_are_turns_of_the_chat(families: Families) -> None:
    loaded = chat_model(families)
    spec = replace(SPEC, example_messages=tuple(example_messages(SPEC, ROWS[1])), demonstrations="unused")
    task = build.build(loaded, spec, 90, 4)
    expected = chat_text(loaded, ("user", "was it bad"), ("assistant", "yes"), ("user", "who saw the cat"))
    assert list(task.rows(ROWS[:1]).tokens[0][0]) == ids(loaded, expected)
    conversation = [{"messages": [{"role": "user", "content": "who saw the cat"}]}]
    assert list(task.rows(conversation).tokens[0][0]) == ids(loaded, expected)


def test_a_long_prompt_loses_its_own_beginning_and_no_control_token(families: Families) -> None:
    loaded = chat_model(families)
    task = build.build(loaded, SPEC, 12, 4)
    rows = task.rows([{"prompt": "the cat sat . the man ran . who saw the dog", "completion": "yes"}])
    text = loaded.tokenizer.decode(rows.tokens[0][0])
    assert rows.truncated == 1
    assert text.startswith("<s> question :")
    assert text.endswith("answer :")
    assert "dog" in text


TURNS: list[dict[str, str]] = [
    {"role": "system", "content": "the cast"},
    {"role": "user", "content": "the cat sat . the man ran . the dog saw the cat"},
    {"role": "assistant", "content": "it was so good"},
    {"role": "user", "content": "who saw the dog"},
]


def shown(loaded: Any, messages: list[dict[str, str]]) -> str:
    return str(loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("answer", ["", "yes"])
def test_a_long_conversation_loses_its_oldest_turns_whole(families: Families, answer: str) -> None:
    """The begin token, the system message and the turns that stay are those that the template writes for them."""
    loaded = chat_model(families)
    messages = [*TURNS, *([{"role": "assistant", "content": answer}] if answer else [])]
    rows = build.build(loaded, SPEC, 24, 4).rows([{"messages": messages}])
    expected = shown(loaded, [TURNS[0], TURNS[3]])
    assert rows.truncated == 1
    assert list(rows.tokens[0][0]) == ids(loaded, expected)
    for encoded in rows.tokens[0][1]:
        assert list(encoded.ids) == ids(loaded, expected)[: len(encoded.ids)]
    whole = build.build(loaded, SPEC, 60, 4).rows([{"messages": messages}])
    assert (whole.truncated, list(whole.tokens[0][0])) == (0, ids(loaded, shown(loaded, TURNS)))


def test_of_a_long_last_message_the_beginning_is_lost(families: Families) -> None:
    loaded = chat_model(families)
    last = {"role": "user", "content": "the cat sat . " * 5 + "who saw the dog"}
    rows = build.build(loaded, SPEC, 24, 4).rows([{"messages": [TURNS[0], last]}])
    text = loaded.tokenizer.decode(rows.tokens[0][0])
    assert (rows.truncated, len(rows.tokens[0][0])) == (1, 24 - SPEC.max_new_tokens)
    assert text.startswith("<s> plot : the cast . question :")
    assert text.endswith("who saw the dog answer :")


def test_a_system_message_without_room_for_a_prompt_is_refused(families: Families) -> None:
    system = {"role": "system", "content": "the cat sat . " * 9}
    with pytest.raises(OptionError, match=r"alone is longer than --max-length"):
        build.build(chat_model(families), SPEC, 24, 4).rows([{"messages": [system, TURNS[3]]}])


def test_demonstrations_in_a_chat_are_left_out_whole(families: Families) -> None:
    loaded = chat_model(families)
    examples = (*example_messages(SPEC, ROWS[1]), *example_messages(SPEC, ROWS[1]))
    spec = replace(SPEC, example_messages=examples)
    one = shown(loaded, [*examples[2:], {"role": "user", "content": ROWS[0]["prompt"]}])
    task = build.build(loaded, spec, len(ids(loaded, one)) + SPEC.max_new_tokens, 4)
    rows = task.rows(ROWS[:1])
    assert (rows.truncated, list(rows.tokens[0][0])) == (1, ids(loaded, one))


def test_a_prompt_with_control_tokens_of_its_own_keeps_them(families: Families) -> None:
    """A prompt that was rendered beforehand loses words in the middle of its longest turn."""
    loaded = chat_model(families)
    text = (
        "<s> plot : the cast </s> <mask> question : the cat sat . " + "the man ran . " * 5 + "who </s> <mask> answer :"
    )
    spec = replace(SPEC, chat_template="off")
    rows = build.build(loaded, spec, 24, 4).rows([{"prompt": text, "completion": "yes"}])
    read = loaded.tokenizer.decode(rows.tokens[0][0])
    assert (rows.truncated, len(rows.tokens[0][0])) == (1, 24 - SPEC.max_new_tokens)
    assert read.startswith("<s> plot : the cast </s> <mask> question : the")
    assert read.endswith("who </s> <mask> answer :")


@pytest.mark.parametrize(
    ("changes", "rows", "state", "note"),
    [
        ({}, ROWS, "on", "chat template: on, the tokenizer has one"),
        ({"chat_template": "off"}, ROWS, "off", ""),
        ({"prompt_from_file": True}, ROWS, "off", "the task file gives the prompts"),
        ({}, [{"prompt": "<s> question : who", "completion": "x"}], "off", "a prompt holds"),
        ({"system": "the cast"}, ROWS, "on", "for --system"),
    ],
)
def test_auto(families: Families, changes: dict[str, Any], rows: Any, state: str, note: str) -> None:
    loaded = chat_model(families)
    spec, notes = settle_chat(loaded, replace(SPEC, **{"chat_template": "auto", **changes}), rows)
    assert spec.chat_template == state
    assert note in " ".join(notes)
    assert bool(chat_record(spec)) == (state == "on")
    loaded.tokenizer.chat_template = None
    if not changes.get("system"):
        assert settle_chat(loaded, replace(SPEC, chat_template="auto"), rows)[0].chat_template == "off"


def test_messages_need_no_choice(families: Families) -> None:
    rows = [{"messages": [{"role": "user", "content": "who"}]}]
    spec, notes = settle_chat(chat_model(families), replace(SPEC, chat_template="auto"), rows)
    assert (spec.chat_template, notes) == ("auto", [])


def test_label_words_get_a_chat_only_when_asked(families: Families) -> None:
    loaded, rows = chat_model(families), [{"text": "a", "label": 0}]
    spec = classification("{text} {label}", chat_template="auto")
    assert settle_chat(loaded, spec, rows)[0].chat_template == "off"
    assert settle_chat(loaded, replace(spec, chat_template="on"), rows)[0].chat_template == "on"
    assert settle_chat(loaded, replace(spec, system="the cast"), rows)[0].chat_template == "on"


@pytest.mark.parametrize("template", [NO_SYSTEM, NO_SYSTEM.replace("{{ raise_exception('no system role') }}", "")])
def test_system_text_begins_the_first_user_message_without_a_system_role(families: Families, template: str) -> None:
    loaded = chat_model(families, template)
    spec, notes = settle_chat(loaded, replace(SPEC, chat_template="auto", system="the cast"), ROWS)
    assert any("no system role" in note for note in notes)
    rows = build.build(loaded, spec, 90, 4).rows(ROWS[:1])
    assert list(rows.tokens[0][0]) == ids(loaded, chat_text(loaded, ("user", "the cast\n\nwho saw the cat")))


def test_arguments_of_the_template(families: Families) -> None:
    loaded = chat_model(families)
    spec, _ = settle_chat(loaded, replace(SPEC, chat_args={"thinking": False}), ROWS)
    rows = build.build(loaded, spec, 90, 4).rows(ROWS[:1])
    expected = chat_text(loaded, ("user", "who saw the cat"), thinking=False)
    assert expected != chat_text(loaded, ("user", "who saw the cat"))
    assert list(rows.tokens[0][0]) == ids(loaded, expected)


@pytest.mark.parametrize(
    ("template", "changes", "error", "message"),
    [
        (CHAT_TEMPLATE, {"chat_args": {"thinkin": False}}, OptionError, "does not read it"),
        (CHAT_TEMPLATE, {"chat_args": {"tokenize": True}}, OptionError, "zotune sets this argument"),
        (
            CHAT_TEMPLATE,
            {"chat_args": {"thinking": False}, "chat_template": "off"},
            OptionError,
            "no chat template here",
        ),
        (None, {}, ModelError, "no chat template for --chat-template on"),
        (None, {"chat_template": "auto", "system": "a"}, ModelError, "no chat template for --system"),
    ],
)
def test_refusals(families: Families, template: Any, changes: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        settle_chat(chat_model(families, template), replace(SPEC, **changes), ROWS)


def test_a_model_that_reads_no_chat_is_refused(families: Families) -> None:
    with pytest.raises(OptionError, match="reads no chat"):
        settle_chat(
            families.load("bert"), classification("{text} {label}", chat_template="on"), [{"text": "a", "label": 0}]
        )


def test_a_template_without_text_and_messages_without_a_template_are_one_line(families: Families) -> None:
    with pytest.raises(ModelError, match="renders an empty text"):
        build.build(chat_model(families, "{% if false %}a{% endif %}"), SPEC, 90, 4).rows(ROWS)
    conversation = [{"messages": [{"role": "user", "content": "who"}]}]
    with pytest.raises(ModelError, match="no chat template for `messages`"):
        build.build(families.load("llama"), SPEC, 90, 4).rows(conversation)


def test_control_texts_leave_ordinary_words_out(families: Families) -> None:
    texts = ChatTemplate(chat_model(families), SPEC).control_texts()
    assert "<s>" in texts
    assert "<unk>" not in texts
    assert not any(t in "who saw the cat : question and answer" for t in texts)


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_one_begin_token(families: Families, family: str, kind: str) -> None:
    tokenizer = families.load(family, kind).tokenizer
    plain, marked = FilledTemplate("the cat"), FilledTemplate("<s>the cat")
    coder = PromptTokenizer(tokenizer, 90)
    bare = coder.encode(plain).ids
    expected = bare if bare[0] == tokenizer.bos_token_id else (tokenizer.bos_token_id, *bare)
    assert coder.encode(marked).ids == expected


def test_default_length_grows_to_the_longest_that_the_model_reads(families: Families) -> None:
    loaded = families.load("llama")  # 96 positions
    spec = TaskSpec("classification", Template("{text} {label}"), Classes(("0", "1"), ("bad", "good")))
    long = [{"text": "cat " * 40, "label": 0}]

    def make(length: int) -> Any:
        return build.build(loaded, spec, length, 4)

    task, (rows,), notes = encode_sets(make, 20, False, [long])
    assert (task.max_length, rows.truncated) == (96, 0)
    assert notes == ["1 rows are longer than 20 tokens: rows are read up to 96 (--max-length)"]
    task, (rows,), notes = encode_sets(make, 20, True, [long])
    assert (task.max_length, rows.truncated) == (20, 1)
    assert notes == ["1 of 1 rows are longer than 20 tokens and were shortened (--max-length)"]
    task, (rows,), notes = encode_sets(make, 20, False, [[{"text": "cat " * 200, "label": 0}]])
    assert (task.max_length, rows.truncated) == (96, 1)
    assert "all that the model reads" in notes[-1]
    task, (rows,), notes = encode_sets(make, 20, False, [[{"text": "cat", "label": 0}]])
    assert (task.max_length, notes) == (20, [])


def test_cut_and_empty_completions_are_counted() -> None:
    outputs = {"completion_ids": [[1, 2, 3, 4, 5], [], [1]], "completions": ["a b", "", " "]}
    assert completion_notes(SPEC, outputs) == [
        "1 of 3 completions were cut at 5 tokens (--max-new-tokens)",
        "2 of 3 completions are empty",
    ]
    assert completion_notes(SPEC, {"losses": torch.zeros(1)}) == []
