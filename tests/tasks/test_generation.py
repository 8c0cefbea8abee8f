"""Completions and the losses of references against reference loops over single, unpadded prompts."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CAUSAL, EOS, SEQ2SEQ, Families, greedy, mean, option_scores

from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import DataError, ModelError, OptionError
from zotune.models import adapters, loading, saving
from zotune.models.adapters import AdapterConfig
from zotune.models.generation_settings import end_token_ids
from zotune.models.model_files import find_model
from zotune.tasks import build

FAMILIES = (*CAUSAL, *SEQ2SEQ)
QUESTIONS = [
    "who saw the cat",
    "what",
    "the film was bad because the plot was poor and the cast was awful and who saw it",
    "it was true because the dog ran",
    "who ran",
]
ANSWERS = ["the dog", "", "a man.", "yes", "no"]
ROWS = [{"question": q, "completion": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
SPEC = TaskSpec("generation", Template("question : {question} ? answer : {completion}"), max_new_tokens=9)
PROMPTS = [f"question : {q} ? answer :" for q in QUESTIONS]


def outputs(task: Any, rows: list[dict[str, Any]], wants: set[str] | None = None) -> dict[str, Any]:
    encoded = task.rows(rows)
    out: dict[str, Any] = task.outputs(encoded, range(len(encoded)), frozenset(wants or {"completions", "losses"}))
    return out


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_completions_equal_single_loops(families: Families, family: str, kind: str) -> None:
    """One of the generated tokens is an end token, so the rows of a batch have different lengths."""
    loaded = families.load(family, kind)
    tokenizer = loaded.tokenizer
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS]
    free = [greedy(loaded, p, 9) for p in prompts]
    ends = (EOS, free[0][3])
    loaded.model.generation_config.eos_token_id = list(ends)
    want = [greedy(loaded, p, 9, ends) for p in prompts]
    assert len({len(w) for w in want}) > 1
    for micro in (1, 2, 16):
        got = outputs(build.build(loaded, SPEC, 90, micro), ROWS)
        assert got["completion_ids"] == want
        assert got["completions"] == [tokenizer.decode(w, skip_special_tokens=True).removeprefix(" ") for w in want]
        assert got["prompts"] == PROMPTS
    task = build.build(loaded, SPEC, 90, 3)
    rows = task.rows(ROWS)
    assert task.outputs(rows, [3, 0], frozenset({"completion_ids"}))["completion_ids"] == [want[3], want[0]]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize(
    "owners", [("generation",), ("config",), ("tokenizer",), ("generation", "config", "tokenizer")]
)
def test_each_end_token_of_the_files_ends_a_completion(
    families: Families, tmp_path: Path, owners: tuple[str, ...], adapted: bool
) -> None:
    """A chat model's tokenizer ends a turn with another token than its configuration ends a text with."""
    plain = families.load("llama")
    prompts = [plain.tokenizer(p)["input_ids"] for p in PROMPTS]
    free = [greedy(plain, p, 9, ()) for p in prompts]
    unused = next(i for i in range(len(plain.tokenizer)) if all(i not in row for row in free))
    used = list(dict.fromkeys(t for row in free for t in row[2:6]))[:3]
    ends = {
        owner: used[k] if owner in owners else unused for k, owner in enumerate(("generation", "config", "tokenizer"))
    }
    folder = shutil.copytree(families.folder("llama"), tmp_path / "model")
    for name, owner in (("config.json", "config"), ("generation_config.json", "generation")):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"eos_token_id": ends[owner]}))
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    tokens["eos_token"] = plain.tokenizer.convert_ids_to_tokens(ends["tokenizer"])
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    files = find_model(str(folder))
    if adapted:
        loaded = loading.load(files.source, files.folder, files.head, device="cpu")
        adapters.attach(loaded, AdapterConfig("lora"), 0)
        saving.save(loaded, tmp_path / "adapter")
        files = find_model(str(tmp_path / "adapter"))
    loaded = loading.load(files.source, files.folder, files.head, device="cpu")
    if files.adapter:
        adapters.load(loaded, files.adapter)
    assert end_token_ids(loaded) == sorted(set(ends.values()))
    want = [greedy(plain, p, 9, tuple(ends.values())) for p in prompts]
    assert want != free
    assert outputs(build.build(loaded, SPEC, 90, 2), ROWS, {"completion_ids"})["completion_ids"] == want


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_the_models_generation_settings_are_ignored(families: Families, family: str, tmp_path: Path) -> None:
    plain, penal = families.load(family), families.load(family)
    own = penal.model.generation_config
    own.update(repetition_penalty=9.0, num_beams=3, min_length=8, no_repeat_ngram_size=1, suppress_tokens=[5, 9, 14])
    own.update(forced_eos_token_id=EOS, eos_token_id=EOS, temperature=3.0, top_k=3)
    want, got = (outputs(build.build(x, SPEC, 90, 4), ROWS)["completion_ids"] for x in (plain, penal))
    assert got == want
    assert penal.model.generation_config is own
    saving.save(plain, tmp_path)
    again = loading.load(str(tmp_path), tmp_path, plain.head, device="cpu").model.generation_config
    assert again.eos_token_id == plain.model.generation_config.eos_token_id


def test_a_forced_first_token_is_no_part_of_the_completion(families: Families) -> None:
    """Some BART models generate, and are trained, with a first token after the decoder's start."""
    loaded = families.load("bart")
    loaded.model.generation_config.forced_bos_token_id = 2
    got = outputs(build.build(loaded, SPEC, 90, 4), ROWS[:1])
    encoder = torch.tensor([loaded.tokenizer(PROMPTS[0])["input_ids"]])
    decoder = [3, 2]
    for _ in range(len(got["completion_ids"][0])):
        with torch.no_grad():
            logits = loaded.model(input_ids=encoder, decoder_input_ids=torch.tensor([decoder])).logits
        decoder.append(int(logits[0, -1].argmax()))
    assert decoder[2:] == got["completion_ids"][0]
    targets = loaded.tokenizer("the dog", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = loaded.model(input_ids=encoder, decoder_input_ids=torch.tensor([[3, 2, targets[0]]])).logits[0]
    want = -torch.log_softmax(logits, -1)[[1, 2], targets].mean()
    assert got["losses"][0] == pytest.approx(float(want), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stop_string_ends_a_completion(families: Families, family: str) -> None:
    loaded = families.load(family, "bytes")
    tokenizer = loaded.tokenizer
    free = [greedy(loaded, tokenizer(p)["input_ids"], 9) for p in PROMPTS]
    texts = [tokenizer.decode(x, skip_special_tokens=True) for x in free]
    row, stop = next((k, t[len(t) // 2 :][:2]) for k, t in enumerate(texts) if t[len(t) // 2 :][:2].isascii())
    spec = replace(SPEC, stop=("never said", stop))
    single, batched = (outputs(build.build(loaded, spec, 90, micro), ROWS) for micro in (1, 16))
    assert single["completions"] == batched["completions"] == [t.split(stop)[0].removeprefix(" ") for t in texts]
    assert single["completion_ids"] == batched["completion_ids"]
    assert len(batched["completion_ids"][row]) < len(free[row])
    assert all(x == y[: len(x)] for x, y in zip(batched["completion_ids"], free, strict=True)), (
        "no padding after a stop"
    )


def test_max_new_tokens(families: Families) -> None:
    loaded = families.load("llama")
    loaded.model.generation_config.eos_token_id = loaded.tokenizer.eos_token = None
    for count in (1, 4):
        got = outputs(build.build(loaded, replace(SPEC, max_new_tokens=count), 90, 4), ROWS)
        assert [len(x) for x in got["completion_ids"]] == [count] * 5
    with pytest.raises(OptionError, match="--max-new-tokens 40 leaves no room for a prompt in 40 tokens"):
        build.build(loaded, replace(SPEC, max_new_tokens=40), 40, 4)


def test_an_end_token_after_the_prompt_is_left_out(families: Families) -> None:
    """Some causal tokenizers put an end token after every text."""
    from tokenizers import processors

    loaded, plain = families.load("llama"), families.load("llama")
    loaded.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    assert loaded.tokenizer("what")["input_ids"][-1] == EOS
    got, want = (outputs(build.build(x, SPEC, 90, 4), ROWS) for x in (loaded, plain))
    assert got["completion_ids"] == want["completion_ids"]
    assert got["losses"] == want["losses"]


def test_a_stop_string_ends_completions_of_a_tokenizer_without_letters(families: Families) -> None:
    """transformers cannot look for stop strings with a tokenizer of whole words, which has no token for other words."""
    texts = outputs(families.task("llama", SPEC, "words"), ROWS)["completions"]
    stop = next(t.split()[1] for t in texts if len(t.split()) > 1)
    task = families.task("llama", replace(SPEC, stop=(stop,)), "words")
    assert outputs(task, ROWS)["completions"] == [t.split(stop)[0] for t in texts]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_sampling_depends_on_the_step_and_the_seed(families: Families, family: str) -> None:
    task = build.build(families.load(family), replace(SPEC, temperature=1.0, top_p=0.95), 90, 2, seed=5)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    first = outputs(task, ROWS)["completion_ids"]
    torch.rand(3)
    before_again = torch.get_rng_state()
    assert outputs(task, ROWS)["completion_ids"] == first, "all points of a step have the same randomness"
    assert torch.equal(before_again, torch.get_rng_state())
    task.step = 1
    assert outputs(task, ROWS)["completion_ids"] != first
    task.step = 0
    assert outputs(task, ROWS)["completion_ids"] == first
    torch.set_rng_state(before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    other = build.build(task.loaded, task.spec, 90, 2, seed=6)
    assert outputs(other, ROWS)["completion_ids"] != first
    cold = build.build(task.loaded, replace(task.spec, temperature=1e-4), 90, 2, seed=5)
    greedily = build.build(task.loaded, SPEC, 90, 2)
    assert outputs(cold, ROWS)["completion_ids"] == outputs(greedily, ROWS)["completion_ids"]


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_equal_a_plain_loop(families: Families, family: str, kind: str) -> None:
    """The loss is that of the first reference; a row without a reference has none."""
    task = build.build(families.load(family, kind), SPEC, 90, 3)
    rows = [*ROWS, {"question": "who", "completion": ["the man", "a man"]}, {"question": "who", "completion": None}]
    got = outputs(task, rows, {"losses"})
    assert "completions" not in got, "completions are generated only where the objective asks for them"
    for k, row in enumerate(rows):
        answers = [row["completion"]] if isinstance(row["completion"], str) else row["completion"]
        if not answers or not answers[0]:
            assert got["losses"][k] is None
        else:
            want = -mean(option_scores(task.loaded, f"question : {row['question']} ? answer : ", answers[0]))
            assert got["losses"][k] == pytest.approx(want, abs=1e-5)
    assert got["references"] == ["the dog", None, "a man.", "yes", "no", ["the man", "a man"], None]


def test_a_completion_without_a_place_in_the_template_follows_the_prompt(families: Families) -> None:
    spec = replace(SPEC, template=Template("question : {question} ?"))
    task = build.build(families.load("gpt2", "bytes"), spec, 90, 4)
    got = outputs(task, [{"question": "who ran", "completion": " the dog"}])
    assert got["prompts"] == ["question : who ran ?"]
    want = -mean(option_scores(task.loaded, "question : who ran ?", " the dog"))
    assert got["losses"][0] == pytest.approx(want, abs=1e-5)


CHAT = "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} </s> {% endfor %}"
CHAT += "{% if add_generation_prompt %}<s> answer : {% endif %}"
CONVERSATIONS = [
    {"messages": [{"role": "question", "content": "who ran"}, {"role": "assistant", "content": "the dog"}]},
    {"messages": [{"role": "question", "content": "what film was so very good"}]},
]


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_messages_go_through_the_chat_template(families: Families, family: str) -> None:
    loaded = families.load(family)
    loaded.tokenizer.chat_template = CHAT
    spec = TaskSpec("generation", Template("{messages}"), max_new_tokens=5)
    got = outputs(build.build(loaded, spec, 90, 4), CONVERSATIONS)
    want = "<s> question : who ran </s> <s> answer : "
    ids = loaded.tokenizer(want, add_special_tokens=False)["input_ids"]
    assert got["prompts"][0] == want
    assert got["completion_ids"][0] == greedy(loaded, ids, 5)
    assert got["references"] == ["the dog", None]
    assert got["losses"][1] is None
    if family == "llama":
        whole = loaded.tokenizer(want + "the dog", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_p = torch.log_softmax(loaded.model(input_ids=torch.tensor([whole])).logits[0], -1)
        log_probabilities = [float(log_p[j - 1, whole[j]]) for j in range(len(ids), len(whole))]
        assert got["losses"][0] == pytest.approx(-mean(log_probabilities), abs=1e-5)


def test_messages_without_a_chat_template_are_refused(families: Families) -> None:
    loaded = families.load("llama")
    task = build.build(loaded, TaskSpec("generation", Template("{messages}")), 90, 4)
    with pytest.raises(ModelError, match="has no chat template for `messages`"):
        task.rows(CONVERSATIONS)
    loaded.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="chat template refuses a record: roles must alternate"):
        task.rows(CONVERSATIONS)


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_a_long_passage_is_truncated_and_leaves_room_for_new_tokens(families: Families, family: str) -> None:
    template = Template("{text} question : {question} answer : {completion}")
    spec = TaskSpec("generation", template, cut="text", max_new_tokens=8, demonstrations="a film was good\n\n" * 6)
    task = build.build(families.load(family), spec, 32, 4)
    record = {"text": "the dog saw the cat and " * 9, "question": "who ran", "completion": "so very good"}
    rows = task.rows([record, {**record, "text": "a"}])
    assert rows.truncated == 2, "the demonstrations alone are too long for the second row"
    for (prompt, (option,), _), begin in zip(rows.tokens, ("the dog saw the", "was good a question"), strict=True):
        assert len(prompt) == (24 if family == "llama" else 32) or begin.endswith("question")
        text = task.loaded.tokenizer.decode(prompt, skip_special_tokens=True)
        assert begin in text
        assert text.endswith("question : who ran answer :")
        assert len(option.ids) <= 32
        assert len(option.targets) == 3


def test_a_long_conversation_loses_its_beginning(families: Families) -> None:
    loaded = families.load("llama")
    loaded.tokenizer.chat_template = CHAT
    task = build.build(loaded, TaskSpec("generation", Template("{messages}"), max_new_tokens=4), 16, 4)
    messages = [{"role": "question", "content": "the film " * 9}, {"role": "question", "content": "who ran"}]
    rows = task.rows([{"messages": messages}])
    assert rows.truncated == 1
    assert loaded.tokenizer.decode(rows.tokens[0][0]) == "<s> question : who ran </s> <s> answer :"


def test_a_completion_longer_than_the_limit_is_refused(families: Families) -> None:
    for family in FAMILIES:
        task = build.build(families.load(family), replace(SPEC, max_new_tokens=4), 20, 4)
        with pytest.raises(OptionError, match="alone is longer than --max-length 20"):
            task.rows([{"question": "who", "completion": "very " * 30 + "good"}])


def test_a_prompt_column_keeps_its_end(families: Families) -> None:
    spec = TaskSpec("generation", Template("{prompt}"), max_new_tokens=2)
    task = families.task("llama", spec, length=8)
    encoded = task.rows([{"prompt": "the cat sat . " * 6 + "the dog ran", "completion": " yes"}])
    assert encoded.truncated == 1
    ids, (option,), _ = encoded.tokens[0]
    assert task.loaded.tokenizer.decode(ids).endswith("the dog ran")
    assert task.loaded.tokenizer.decode([*option.ids, option.targets[-1]]).replace(" ", "").endswith("thedogranyes")
