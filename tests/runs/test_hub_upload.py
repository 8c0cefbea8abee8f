"""Uploads to a local server that speaks the hub's protocol, the model card as the hub reads it, and the token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, hub_server

import zotune
from zotune.config import RunConfig
from zotune.errors import OptionError, RunFolderError
from zotune.runs.hub_id import check_hub_id
from zotune.runs.hub_upload import push
from zotune.runs.model_card import objective_name

TOKEN = "a-secret-of-an-own-hub.0123456789"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as served:
        yield served


def environment(hub: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def check_no_token(run: Path, *outputs: str) -> None:
    for text in outputs:
        assert TOKEN not in text
    for path in run.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


def test_a_run_is_uploaded_and_a_refused_upload_loses_nothing(
    hub: Hub, tiny_llama: Path, tmp_path: Path, cli: Any
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the film {i}"}) + "\n" for i in range(40)))
    run = tmp_path / "run"
    options = {"model": tiny_llama, "dataset": prompts, "objective": "length", "output-dir": run}
    options |= {"optimizer": "mezo", "max-steps": 2, "max-new-tokens": 4, "push-to-hub": "me/short"}
    hub.refuse = f"no write access with the token {TOKEN}"
    flags = [str(x) for key, value in options.items() for x in (f"--{key}", value)]
    done = cli("fit", *flags, "--no-preflight", "--hub-private", "--json", env=environment(hub))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"] == "done"
    (line,) = [x for x in done.stderr.splitlines() if "the run is complete, but" in x]
    assert f"zotune push {run} me/short --hub-private" in line
    check_no_token(run, done.stdout, done.stderr)
    assert hub.repositories == {"me/short": {}}
    assert hub.private == {"me/short": True}
    hub.refuse = ""
    again = cli("push", run, "me/short", env=environment(hub))
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == f"{hub.url}/me/short"
    uploaded = hub.repositories["me/short"]
    result = json.loads((run / "result.json").read_text())
    assert uploaded.keys() == result["files"].keys() | {"README.md", "journal.jsonl"}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= uploaded.keys()
    for name, content in uploaded.items():
        assert content == (run / name).read_bytes(), name
        assert TOKEN.encode() not in content
    assert f"Bearer {TOKEN}" in hub.tokens
    check_no_token(run, again.stdout, again.stderr)


def test_the_model_card_says_what_was_done(toy: Path, tiny_classifier: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard, ModelCardData
    from huggingface_hub.repocard_data import model_index_to_eval_results

    options: dict[str, Any] = {"optimizer": "mezo", "max_steps": 4, "preflight": False, "tune": "head"}
    result = zotune.fit(
        model=tiny_classifier, dataset=toy, objective="accuracy", output_dir=tmp_path / "run", **options
    )
    path = tmp_path / "run" / "README.md"
    card, text = ModelCard.load(path), path.read_text()
    data: Any = card.data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.pipeline_tag, data.tags[0]) == ("transformers", "text-classification", "zotune")
    name, entries = (
        model_index_to_eval_results(data.to_dict()["model-index"])
        if data.get("model-index")
        else (
            data.model_name,
            data.eval_results,
        )
    )
    assert name == "run"
    assert [(e.metric_type, e.metric_value) for e in entries] == [
        ("accuracy", result.before.value),
        ("accuracy", result.after.value),
    ]
    assert entries[0].dataset_name == "toy"
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[0])["body"]
    for said in (*header["tensors"], header["base_weights"], header["objective_source"][0], header["data"]):
        assert f"`{said}`" in text
    assert str(tmp_path) not in text  # paths of this machine stay here
    assert "## Limits" in text
    assert "AutoModelForSequenceClassification.from_pretrained" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("f1", "f1"),
        ("/home/me/own.py:margin", "own.py:margin"),
        ("f1 - 0.1 ../x/own.py:margin", "f1 - 0.1 own.py:margin"),
        ("https://host/score", "https://host/score"),
    ],
)
def test_paths_of_objectives_stay_here(name: str, shown: str) -> None:
    assert objective_name(name) == shown


def test_hostile_texts_bring_no_markup_into_the_card(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"a | b\n---\n`<script>alert({i})</script>"} for i in range(40)]

    def longest(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    options: dict[str, Any] = {"optimizer": "mezo", "max_steps": 2, "preflight": False, "max_new_tokens": 3}
    zotune.fit(model=tiny_llama, data=rows, objective=longest, output_dir=tmp_path / "run", **options)
    text = (tmp_path / "run" / "README.md").read_text()
    assert text.count("\n---\n") == 1  # the end of the front matter
    for line in text.splitlines():
        if "<script>" in line:
            assert line.startswith("| `a \\| b --- '<script>")


@pytest.mark.parametrize("wrong", ["", "a/b/c", "../x", "a b", "me/--x", "me/x.git", "https://hub/me/x"])
def test_wrong_ids_are_refused_before_a_run(wrong: str) -> None:
    with pytest.raises(OptionError):
        check_hub_id(wrong)


def test_what_cannot_be_pushed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no finished run"):
        push(tmp_path, "me/x")
    (tmp_path / "result.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(RunFolderError, match="keeps no model"):
        push(tmp_path, "me/x")
    (tmp_path / "result.json").write_text(json.dumps({"files": {"../secret": "0"}}))
    with pytest.raises(RunFolderError, match="lacks"):
        push(tmp_path, "me/x")
    (tmp_path / "model.safetensors").write_text("other")
    (tmp_path / "result.json").write_text(json.dumps({"files": {"model.safetensors": "0"}}))
    with pytest.raises(RunFolderError, match="is not the file"):
        push(tmp_path, "me/x")
    with pytest.raises(OptionError, match="--journal-only"):
        RunConfig(push_to_hub="me/x", journal_only=True)
