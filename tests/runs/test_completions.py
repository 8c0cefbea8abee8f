"""completions.jsonl, `zotune eval --save-completions` and `zotune chat`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

import zotune
from zotune.errors import OptionError, ZotuneError
from zotune.events import Event, Note, StepDone
from zotune.runs import completions_log
from zotune.runs.conversation import BASE, TUNED, Chat

PROMPTS = ["the film was", "the plot was", "a cast was", "it was so", "the cast was very", "a film was not"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{p} {'very ' * (i // 6)}".strip(), "completion": "good"} for i, p in enumerate(PROMPTS * 6)]
    for name, part in (("train", rows[:16]), ("validation", rows[16:26]), ("test", rows[26:])):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", part)
    return tmp_path / "data"


@zotune.objective(level="sample")
def good(completions: list[str]) -> list[float | None]:
    """The share of words that are good; None for an empty completion."""
    return [sum(w == "good" for w in c.split()) / len(c.split()) if c.strip() else None for c in completions]


@pytest.fixture
def fit(tiny_llama: Path, data: Path, tmp_path: Path) -> Callable[..., Any]:
    options = {"max_steps": 6, "batch_size": 8, "max_new_tokens": 4, "eval_steps": 2, "eps": 0.1, "learning_rate": 0.1}

    def run(name: str, **more: Any) -> Any:
        folder = str(tmp_path / name)
        both = {**options, "optimizer": "mezo", **more}
        return zotune.fit(objective=good, model=str(tiny_llama), dataset=str(data), output_dir=folder, **both)

    return run


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (folder / "completions.jsonl").read_text().splitlines()]


def test_every_evaluation_has_its_completions(fit: Callable[..., Any], tmp_path: Path) -> None:
    result = fit("run", guard=0.0)
    rows = lines(tmp_path / "run")
    assert set(rows[0]) == {"step", "set", "phase", "row", "prompt", "completion", "reference", "score"}
    keys = [(r["step"], r["set"], r["phase"]) for r in rows]
    assert len(set(keys)) == len({(s, part) for s, part, _ in keys})
    assert [k for k in dict.fromkeys(keys) if k[1] == "validation"] == [
        (0, "validation", "before"),
        *((step, "validation", "during") for step in (2, 4, 6)),
    ]
    assert [k for k in dict.fromkeys(keys) if k[1] == "test"] == [
        (0, "test", "before"),
        *([(result.best_step, "test", "after")] if result.best_step else []),
    ]
    for r in rows:
        assert r["score"] == good([r["completion"]])[0]
        assert r["prompt"]
        assert r["reference"] == ["good"] or r["reference"] == "good"
    assert [r["row"] for r in rows if r["set"] == "test" and r["phase"] == "before"] == list(range(10))
    assert len([r for r in rows if r["step"] == 2 and r["set"] == "validation"]) == completions_log.ROWS


def test_a_resumed_run_has_each_line_once(fit: Callable[..., Any], tmp_path: Path) -> None:
    fit("whole")
    taken: list[int] = []

    def emit(event: Event) -> None:
        if isinstance(event, StepDone):
            taken.append(event.step)
            assert event.completions

    first = fit("cut", emit=emit, stop=lambda: len(taken) >= 3)
    assert first.reason == "interrupted"
    assert not [r for r in lines(tmp_path / "cut") if r["phase"] == "after"]
    with (tmp_path / "cut" / "completions.jsonl").open("a") as file:
        file.write('{"step": 6, "set": "test", "phase": "after"}\n{"torn')  # of an end that is made again
    fit("cut", resume="last")
    assert (tmp_path / "cut/completions.jsonl").read_text() == (tmp_path / "whole/completions.jsonl").read_text()


def test_the_file_is_bounded(fit: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions_log, "MAX_BYTES", 10)
    fit("run")
    assert {r["set"] for r in lines(tmp_path / "run")} == {"test"}
    monkeypatch.setattr(completions_log, "CHARACTERS", 10)
    outputs = {"completions": ["x" * 40], "prompts": [[{"role": "user", "content": "a"}]], "completion_ids": [[1]]}
    (row,) = completions_log.completion_rows(outputs, [None])
    assert row["completion"] == "xxxxx … xxxxx"
    assert (row["prompt"], row["score"], row["reference"]) == ("a", None, None)


def test_eval_saves_completions(tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    options = {"model": str(tiny_llama), "dataset": str(data), "max_new_tokens": 4, "save_completions": str(path)}
    score = zotune.evaluate(objective=good, **options)
    rows = [json.loads(x) for x in path.read_text().splitlines()]
    assert len(rows) == 10
    assert {r["set"] for r in rows} == {"test"}
    scored = [r["score"] for r in rows if r["score"] is not None]
    assert sum(scored) / len(scored) == pytest.approx(score.value)
    zotune.evaluate(objective=[good, "exact-match"], **options)
    first = json.loads(path.read_text().splitlines()[0])
    assert set(first["scores"]) == {"good", "exact-match"}
    assert first["scores"]["good"] == first["score"]
    with pytest.raises(ZotuneError, match="cannot be written"):
        zotune.evaluate(objective=good, **{**options, "save_completions": str(tmp_path / "no" / "out.jsonl")})


def test_chat_asks_the_base_model_and_the_tuned_one(
    fit: Callable[..., Any], tiny_llama: Path, tmp_path: Path, tiny_encoder: Path
) -> None:
    fit("run", guard=0.0)
    talk = Chat(str(tmp_path / "run"), max_new_tokens=5)
    assert talk.names == (BASE, TUNED)
    assert not talk.remembers
    first = talk.ask("the film was")
    assert set(first) == {BASE, TUNED}
    assert talk.ask("the film was") == first  # plain prompts are answered by themselves
    alone = Chat(str(tiny_llama), max_new_tokens=5)
    assert alone.names == ("model",)
    assert alone.ask("the film was")["model"] == first[BASE]
    with pytest.raises(OptionError, match="the prompt is empty"):
        talk.ask(" ")
    with pytest.raises(OptionError, match="generates no text"):
        Chat(str(tiny_encoder))


def test_chat_without_the_base_model(fit: Callable[..., Any], tiny_llama: Path, tmp_path: Path) -> None:
    config = fit("run").folder / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_llama), str(tmp_path / "gone")))
    notes: list[str] = []
    talk = Chat(str(tmp_path / "run"), emit=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert talk.names == (TUNED,)
    assert any("the base model cannot be loaded" in note for note in notes)
    assert Chat(str(tmp_path / "run"), base=False).names == (TUNED,)


CHAT = (
    "{% for m in messages %}{{ 'it ' if m['role'] == 'user' else 'so ' }}{{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}so {% endif %}"
)


def test_a_conversation_has_its_earlier_turns(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    talk = Chat(str(folder), max_new_tokens=3)
    assert talk.remembers
    first = talk.ask("the film was")["model"]
    speaker = talk._speakers["model"]
    talk.ask("the plot was")
    assert [m["role"] for m in speaker.messages] == ["user", "assistant", "user", "assistant"]
    assert speaker.messages[1]["content"] == first
    talk.reset()
    assert talk.ask("the film was")["model"] == first


def test_a_chat_argument_has_the_value_that_a_run_gives_it(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(tiny_llama, folder)
    template = "{% if fast %}good {% else %}bad {% endif %}{{ messages[-1]['content'] }}"
    (folder / "chat_template.jinja").write_text(template)
    talk = Chat(str(folder), max_new_tokens=3, chat_args={"fast": "false"})
    assert talk._speakers["model"]._task.spec.chat_args == {"fast": False}


def test_the_command_answers_prompts(cli: Any, tiny_llama: Path) -> None:
    done = cli("chat", tiny_llama, "--prompt", "the film was", "--prompt", "it was", "--max-new-tokens", 3, "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(x) for x in done.stdout.splitlines()]
    assert [r["prompt"] for r in rows] == ["the film was", "it was"]
    assert all(set(r) == {"prompt", "model"} for r in rows)
    typed = cli("chat", tiny_llama, "--max-new-tokens", 3, input="the film was\n/reset\n\nit was\n/quit\nmore\n")
    assert typed.returncode == 0, typed.stderr
    assert [x.split()[0] for x in typed.stdout.splitlines()] == ["model", "model"]
    assert "new conversation" in typed.stderr
