"""GGUF files score as the same weights in a folder, and whatever is made from them is a usual folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import Families
from gguf_writer import write_gguf

import zotune
from zotune.errors import ModelError, RunFolderError
from zotune.events import Event, Note
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.runs.compare import compare as zotune_compare
from zotune.runs.export import export
from zotune.runs.replay import replay
from zotune.runs.verify import verify


@pytest.fixture
def file(families: Families, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return write_gguf(families.folder("llama", "bytes"), tmp_path / "models" / "tiny.gguf")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = [("the film was good", "good"), ("the plot was poor", "bad"), ("a lovely cast", "good"), ("so dull", "bad")]
    return write_jsonl(tmp_path / "data.jsonl", [{"text": text, "label": label} for text, label in words * 4])


def score(model: Path, data: Path, **options: Any) -> float:
    settings = {"template": "{text} it was {label}", "objective": "cross-entropy"} | options
    return zotune.evaluate(model=str(model), dataset=str(data), **settings).value


def test_the_file_and_its_folder_score_as_the_same_weights_in_a_folder(
    families: Families, file: Path, data: Path
) -> None:
    files = find_model(str(file))
    loaded = loading.load(files.source, files.folder, files.head, device="cpu")
    plain = families.load("llama", "bytes")
    ids = torch.tensor([[2, 40, 50, 60, 70]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, plain.model(ids).logits, rtol=0, atol=1e-5)
    for text in ("the film was sogood", "what a lovely cast"):
        assert loaded.tokenizer(text, add_special_tokens=False) == plain.tokenizer(text, add_special_tokens=False)
    assert loaded.notes[-1].startswith("tiny.gguf is de-quantised: 0 MiB in the file are 0 MiB as float32")
    assert score(file, data) == score(file.parent, data)


def test_a_file_is_parsed_once_for_configuration_weights_and_tokenizer(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    parsed: list[str] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path: Any) -> None:
            parsed.append(str(path))
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    files = find_model(str(file))
    parsed.clear()
    loading.load(files.source, files.folder, files.head, device="cpu")
    assert len(parsed) == 1
    assert gguf.GGUFReader is Counted
    with pytest.raises(ModelError):
        loading.load(str(file.with_name("none.gguf")), file.parent, "causal", device="cpu")
    assert gguf.GGUFReader is Counted, "put back after an error too"


def test_a_run_from_a_file(file: Path, data: Path, tmp_path: Path) -> None:
    """fit, resume, replay, verify, export and eval; the run directory is a usual folder of a model."""
    seen: list[Event] = []
    options: dict[str, Any] = {"model": str(file), "dataset": str(data), "template": "{text} it was {label}"}
    options |= {"objective": "cross-entropy", "batch_size": 4, "preflight": False, "compile": "off", "guard": 0.0}
    asked = iter([False, True])
    run = tmp_path / "run"
    zotune.fit(**options, max_steps=4, output_dir=str(run), emit=seen.append, stop=lambda: next(asked))
    assert [event.text for event in seen if isinstance(event, Note) and "de-quantised" in event.text]
    zotune.fit(**options, max_steps=4, output_dir=str(run), resume="last")
    assert all(check.ok is not False for check in verify(run))
    assert replay(run, tmp_path / "replayed").confirmed
    export(run, tmp_path / "exported")
    assert score(run, data) == score(tmp_path / "exported", data) == score(tmp_path / "replayed", data)


def test_an_adapter_names_the_file_as_its_base(file: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(file), "dataset": str(data), "template": "{text} it was {label}"}
    options |= {"objective": "cross-entropy", "batch_size": 4, "preflight": False, "compile": "off", "max_steps": 2}
    run = tmp_path / "run"
    zotune.fit(**options, output_dir=str(run), peft="lora")
    base = json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(file.resolve())
    export(run, tmp_path / "merged", merge=True)
    assert score(run, data) == pytest.approx(score(tmp_path / "merged", data), abs=1e-5)


def test_files_that_cannot_be_read_are_named(
    families: Families, file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = file.read_bytes()
    for size in (10, 100, 3000, len(raw) // 2, len(raw) - 200):
        (tmp_path / f"cut{size}.gguf").write_bytes(raw[:size])
        with pytest.raises(ModelError, match="is cut off or damaged"):
            score(tmp_path / f"cut{size}.gguf", data)
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelError, match="is no GGUF file: it begins with b'hell'"):
        score(tmp_path / "text.gguf", data)
    other = write_gguf(families.folder("llama", "bytes"), tmp_path / "other.gguf", "unheard")
    with pytest.raises(ModelError, match="architecture unheard is not supported"):
        score(other, data)
    shutil.copyfile(file, file.parent / "second.gguf")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files \(name one"):
        score(file.parent, data)
    monkeypatch.setitem(sys.modules, "gguf", None)
    from zotune.models import gguf_files

    gguf_files.read_gguf_config.cache_clear()
    with pytest.raises(ModelError, match=r"needs the package gguf \(pip install 'zotune\[gguf\]'\)"):
        score(file, data)


def test_a_file_of_the_hub_is_named_by_its_id_and_its_name(
    file: Path, data: Path, tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A cache with one downloaded file stands for the hub."""
    snapshot = tmp_path / "hub" / "models--own--tiny-GGUF" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copyfile(file, snapshot / "tiny.gguf")
    (tmp_path / "hub" / "models--own--tiny-GGUF" / "refs").mkdir()
    (tmp_path / "hub" / "models--own--tiny-GGUF" / "refs" / "main").write_text("0" * 40)
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    flags = ("-d", data, "-o", "cross-entropy", "--template", "{text} it was {label}")
    done = cli("eval", "-m", "own/tiny-GGUF/tiny.gguf", *flags, "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert "tiny.gguf is de-quantised" in done.stderr
    assert json.loads(done.stdout)["value"] == pytest.approx(score(file, data), abs=1e-6)
    absent = cli("eval", "-m", "own/tiny-GGUF/other.gguf", *flags, env=env)
    assert absent.returncode == 2
    assert "HF_HUB_OFFLINE forbids downloading" in absent.stderr
    wrong = cli("eval", "-m", "own/tiny.gguf", *flags, env=env)
    assert wrong.returncode == 2
    assert "(a file of the hub is named OWNER/NAME/FILE.gguf)" in wrong.stderr


def test_two_files_in_one_folder_are_two_models_of_a_comparison(file: Path, families: Families, tmp_path: Path) -> None:
    other = write_gguf(families.folder("llama", "bytes"), file.parent / "half.gguf", kind="F16")
    rows = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "the film was"}, {"prompt": "it was"}])
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(prompts, completions, **_):\n    return [0.5 for _ in prompts]\n")
    options: dict[str, Any] = {"dataset": str(rows), "judge": f"{judge}:judge", "max_new_tokens": 2}
    zotune_compare(str(file), str(other), output_dir=str(tmp_path / "c"), **options)
    shutil.copyfile(file, other)
    with pytest.raises(RunFolderError, match="another model B: the same name, but it has changed"):
        zotune_compare(str(file), str(other), output_dir=str(tmp_path / "c"), **options)
