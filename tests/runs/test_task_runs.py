"""Tasks with a reward in runs, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from families import CHAT_TEMPLATE, Families

import zotune
from zotune.config import RunConfig
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import DataError, ModelError, OptionError, UsageError
from zotune.events import Event, Note
from zotune.runs.estimate import estimate
from zotune.runs.plan import plan
from zotune.runs.task_defaults import resolve_config
from zotune.tasks.completion_notes import completion_notes, reason_for_silence


def test_a_task_brings_data_prompts_and_reward(tiny_llama: Path, tmp_path: Path) -> None:
    options = {"max_steps": 1, "batch_size": 4, "max_new_tokens": 3, "optimizer": "mezo", "preflight": False}
    run = str(tmp_path / "run")
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    zotune.fit(model=str(tiny_llama), task="json", output_dir=run, emit=emit, **options)
    header = json.loads((tmp_path / "run/journal.jsonl").read_text().splitlines()[0])["body"]
    assert header["objective"] == "json"
    assert "no --dataset given: the rows of synthetic:json" in notes
    score = zotune.evaluate(model=run)
    assert (score.value, score.rows) == (0.0, 80)
    assert zotune.evaluate(model=run, objective="length").rows == 80


@pytest.mark.parametrize("task", ["json", "countdown", "concise", "sentiment"])
def test_tasks_with_own_data_are_planned(task: str, tiny_llama: Path) -> None:
    config = resolve_config({"task": task, "model": str(tiny_llama)}, None)
    made = plan(config)
    assert made.objective.name == {"sentiment": "vader"}.get(task, task)
    assert len(made.splits.test) == 80
    prompt = made.spec.template.fill(made.splits.train[0], "completion", "", "drop").text
    assert len(prompt.split()) > 4
    assert not made.spec.prompt_from_file, "a chat template goes around it"


def test_the_users_objective_goes_before_the_tasks(tmp_path: Path) -> None:
    assert resolve_config({"task": "json"}, None).objective == "json"
    assert resolve_config({"task": "json", "objective": "cross-entropy"}, None).objective == "cross-entropy"
    assert resolve_config({"task": "sst2"}, None).objective == "cross-entropy"
    assert resolve_config({}, None).objective == "cross-entropy"
    file = tmp_path / "run.yaml"
    file.write_text("task: json\nobjective: length\n")
    assert resolve_config({}, str(file)).objective == "length"
    file.write_text("task: json\n")
    assert resolve_config({}, str(file)).objective == "json"


def test_gsm8k_and_summaries_read_their_columns(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"} for i in range(12)]
    data = write_jsonl(tmp_path / "math.jsonl", rows)
    made = plan(resolve_config({"task": "gsm8k", "model": str(tiny_llama), "dataset": str(data)}, None))
    assert made.objective.name == "final-number"
    rows = [{"article": f"Long text {i}.", "highlights": f"Text {i}."} for i in range(12)]
    data = write_jsonl(tmp_path / "news.jsonl", rows)
    made = plan(resolve_config({"task": "summarize", "model": str(tiny_llama), "dataset": str(data)}, None))
    assert made.objective.name == "rougeL"
    assert "Long text" in made.spec.template.fill(made.splits.train[0], "completion", "", "drop").text


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as error:
        plan(resolve_config(options, None))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_data_that_do_not_fit_are_refused_with_the_nearest_preset(tiny_llama: Path, tmp_path: Path) -> None:
    model = str(tiny_llama)
    text = refusal(model=model, task="gsm8k")
    assert "task gsm8k has no data of its own" in text
    assert "question, completion/answer/final_answer" in text
    data = str(write_jsonl(tmp_path / "d.jsonl", [{"nums": [1, 2], "target": 3}] * 8))
    assert "--task countdown" in refusal(model=model, dataset=data)
    text = refusal(model=model, dataset=data, task="gsm8k")
    assert "task gsm8k needs a column question; columns found: nums, target" in text
    assert "--task countdown" in text
    other = str(write_jsonl(tmp_path / "o.jsonl", [{"x": "a", "y": 3}] * 8))
    assert "columns found: x, y" in refusal(model=model, dataset=other)
    assert "no prompt found; columns found: x, y" in refusal(model=model, dataset=other, task="generation")
    assert "zotune ls tasks" in refusal(model=model, dataset=other, task="generation")
    assert "no synthetic data set 'jsn'" in refusal(model=model, dataset="synthetic:jsn")
    assert "generates no text" in refusal(task="json")  # the embedded encoder
    file = tmp_path / "task.yaml"
    file.write_text("template: '{prompt}'\nkind: generation\ndata: ../secrets.jsonl\n")
    assert "data must be one of synthetic:countdown" in refusal(model=model, task=str(file))


def test_messages_need_a_chat_template(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"it was {i}"}]} for i in range(12)]
    data = str(write_jsonl(tmp_path / "d.jsonl", rows))
    with pytest.raises(ModelError, match="has no chat template for `messages`") as error:
        zotune.evaluate(model=str(tiny_llama), dataset=data, objective="length", max_new_tokens=4)
    assert "an instruct model" in str(error.value)


def test_conversations_of_several_turns_are_prompts(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_llama, folder)
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    turns = [
        {"role": "user", "content": "the film"},
        {"role": "assistant", "content": "was good"},
        {"role": "user", "content": "very"},
    ]
    data = str(write_jsonl(tmp_path / "d.jsonl", [{"messages": turns, "extra": i} for i in range(12)]))
    seen: list[Any] = []

    def objective(prompts: Any, completions: Any) -> list[float]:
        seen.extend(prompts)
        return [0.0] * len(completions)

    zotune.evaluate(model=str(folder), dataset=data, objective=objective, max_new_tokens=2)
    assert set(seen) == {"the film was good very "}


@pytest.fixture
def mute(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model whose every token ends a completion."""
    folder = tmp_path / "mute"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": list(range(32))}))
    return folder


def test_a_model_that_answers_nothing_is_named(mute: Path, tmp_path: Path) -> None:
    data = str(write_jsonl(tmp_path / "d.jsonl", [{"prompt": f"the film {i}"} for i in range(40)]))
    options: dict[str, Any] = {"model": str(mute), "dataset": data, "objective": "length", "max_new_tokens": 4}
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    zotune.evaluate(**options, emit=emit)
    why = "40 of 40 completions are empty: the model ends each with its first token (write prompts as the model was"
    assert any(note.startswith(why) for note in notes)
    run = {**options, "max_steps": 1, "batch_size": 4, "optimizer": "mezo", "output_dir": str(tmp_path / "run")}
    with pytest.raises(ModelError, match=r"ends each with its first token \(write prompts .*; --no-preflight tunes"):
        zotune.fit(**run)
    assert not (tmp_path / "run").exists()
    assert zotune.fit(**run, preflight=False).steps == 1


def test_a_reward_that_reads_texts_is_told_of_messages(families: Families, tmp_path: Path) -> None:
    """It gets lists of messages, of which json.loads makes an error that the reward takes for a wrong answer."""
    folder = tmp_path / "chat"
    shutil.copytree(families.folder("llama"), folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (tmp_path / "reward.py").write_text(
        "def plain(completions: list[str]) -> list[float]:\n    return [0.0 for _ in completions]\n"
        "def open(completions) -> list[float]:\n    return [0.0 for _ in completions]\n"
    )
    texts = [f"the film {i}" for i in range(40)]
    chats = write_jsonl(tmp_path / "c.jsonl", [{"prompt": [{"role": "user", "content": t}]} for t in texts])
    plain = write_jsonl(tmp_path / "p.jsonl", [{"prompt": t} for t in texts])

    def notes(data: Path, name: str) -> list[str]:
        options = {"model": str(folder), "dataset": str(data), "objective": f"{tmp_path / 'reward.py'}:{name}"}
        return [n for n in plan(RunConfig(**options)).notes if "lists of messages" in n]

    assert "declares completions as list[str], and gets lists of messages" in notes(chats, "plain")[0]
    assert not notes(chats, "open") + notes(plain, "plain")


def test_silence_has_a_reason() -> None:
    spec = TaskSpec("generation", Template("{prompt}"), max_new_tokens=4)
    assert reason_for_silence(spec, {"completion_ids": [[1], []], "completions": ["a", ""]}) is None
    empty = {"completion_ids": [[1], []], "completions": [" ", ""]}
    assert "blanks or special tokens alone" in (reason_for_silence(spec, empty) or ("",))[0]
    stopped = reason_for_silence(replace(spec, stop=("\n",)), empty)
    assert stopped == ("2 of 2 completions are empty: they begin with a stop string ('\\n')", "another --stop, or none")
    assert completion_notes(spec, {"completion_ids": [[1], []], "completions": ["a", ""]}) == [
        "1 of 2 completions are empty"
    ]


@pytest.mark.parametrize(
    ("options", "what"),
    [({}, "`messages`"), ({"system": "be kind"}, "--system"), ({"chat_template": "on"}, "--chat-template on")],
)
def test_a_base_model_with_messages_is_refused_before_its_weights_are_loaded(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], what: str
) -> None:
    from zotune.models import loading

    def load(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("the weights were loaded")

    rows: list[dict[str, Any]] = [{"prompt": f"the film {i}"} for i in range(40)]
    if not options:
        rows = [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    data = str(write_jsonl(tmp_path / "d.jsonl", rows))
    monkeypatch.setattr(loading, "load", load)
    for command in (zotune.fit, zotune.evaluate):
        with pytest.raises(ModelError, match=f"has no chat template for {what}"):
            command(model=str(tiny_llama), dataset=data, objective="length", **options)


def test_prompts_longer_than_the_context_are_shortened_and_counted(tiny_llama: Path, tmp_path: Path) -> None:
    data = str(write_jsonl(tmp_path / "d.jsonl", [{"prompt": "the film was very " * 40} for _ in range(6)]))
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    score = zotune.evaluate(model=str(tiny_llama), dataset=data, objective="length", emit=emit, max_new_tokens=4)
    assert score.rows == 6
    assert any("6 of 6 rows are longer than 64 tokens and were shortened" in note for note in notes)
    limit = r"leaves no room for a prompt in 64 tokens, all that the model reads \(fewer new tokens\)"
    with pytest.raises(OptionError, match=limit):
        zotune.evaluate(model=str(tiny_llama), dataset=data, objective="length", max_new_tokens=64)
    with pytest.raises(OptionError, match=r"for a prompt in 32 tokens \(a larger --max-length, or fewer new tokens\)"):
        zotune.evaluate(model=str(tiny_llama), dataset=data, objective="length", max_new_tokens=32, max_length=32)


def test_the_estimate_knows_the_task(tiny_llama: Path) -> None:
    config = resolve_config({"task": "json", "model": str(tiny_llama), "max_new_tokens": 3, "max_evals": 8}, None)
    found = estimate(config, lambda event: None)
    assert found["rows"] == [256, 40, 80]
    assert isinstance(config, RunConfig)


def test_a_data_error_is_one_line() -> None:
    with pytest.raises(DataError):
        plan(RunConfig(dataset="synthetic:none"))


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (3, "references have at most 3 tokens: --max-new-tokens 8 would be faster than 64"),
        (70, "a reference has 70 tokens, and completions end after 64 (--max-new-tokens)"),
        (30, ""),
    ],
)
def test_the_length_of_references_is_worth_a_note(families: Families, tmp_path: Path, words: int, note: str) -> None:
    rows = [{"prompt": f"the film {i}", "completion": "good " * (words - 1) + "bad"} for i in range(12)]
    data = str(write_jsonl(tmp_path / "d.jsonl", rows))
    notes: list[str] = []

    def emit(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    folder = str(families.folder("llama", "words"))
    options: dict[str, Any] = {"model": folder, "dataset": data, "max_evals": 8, "max_length": 256}
    estimate(RunConfig(**options, objective="exact-match"), emit)
    found = [n for n in notes if "--max-new-tokens" in n and "reference" in n]
    assert found == ([note] if note else [])
    notes.clear()
    estimate(RunConfig(**options, objective="length"), emit)
    estimate(RunConfig(**options, objective="exact-match", max_new_tokens=8), emit)
    assert not [n for n in notes if "reference" in n]
