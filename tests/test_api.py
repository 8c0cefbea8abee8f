"""zotune.fit with what a program holds: loaded models, records, callables; its result, and resuming it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows

import zotune
from zotune.config import run_options
from zotune.errors import DataError, ModelError, OptionError, RunFolderError
from zotune.fit_options import FitOptions, ResumeOptions
from zotune.types import Tracker

ROOT = Path(__file__).resolve().parents[1]
QUICK: dict[str, Any] = {"optimizer": "mezo", "learning_rate": 1e-2, "eps": 1e-2, "batch_size": 8, "eval_steps": 3}
QUICK |= {"preflight": False, "max_steps": 6, "guard": 0.0, "rollback": 0.0}


@pytest.fixture
def loaded(tiny_classifier: Path) -> tuple[Any, Any]:
    """A loaded classifier with its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_classifier)
    return model, AutoTokenizer.from_pretrained(tiny_classifier)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def leaning(logits: Sequence[Sequence[float]]) -> list[float]:
    """How much more the first class is preferred: every row improves alike."""
    return [float(row[0]) - float(row[1]) for row in logits]


def fit(model: Any, tokenizer: Any, run: Path, **options: Any) -> Any:
    values = {"data": rows(64), "objective": leaning, **QUICK, **options}
    return zotune.fit(model=model, tokenizer=tokenizer, output_dir=run, **values)


def test_a_loaded_model_ends_with_the_kept_weights_and_its_flags(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = loaded
    model.train()
    model.classifier.bias.requires_grad_(False)
    before = weights(model)
    result = fit(model, tokenizer, tmp_path / "run")
    assert result.kept == "tuned"
    assert not same(weights(model), before)
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert same(weights(model), weights(saved))
    assert model.training
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["classifier.bias"]
    assert (tmp_path / "run" / "data" / "train.jsonl").read_text().count("\n") == 64


def test_a_loaded_model_gives_the_weights_of_its_files(
    loaded: tuple[Any, Any], tiny_classifier: Path, tmp_path: Path
) -> None:
    fit(*loaded, tmp_path / "loaded")
    fit(str(tiny_classifier), None, tmp_path / "files")
    ends = [(tmp_path / name / "journal.jsonl").read_text().splitlines()[-1] for name in ("loaded", "files")]
    assert json.loads(ends[0])["body"]["weights"] == json.loads(ends[1])["body"]["weights"]


def test_a_rejected_run_leaves_a_loaded_model_as_it_came(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    before = weights(loaded[0])
    result = fit(*loaded, tmp_path / "run", guard=1e9)
    assert result.kept == "start"
    assert same(weights(loaded[0]), before)


def test_resume_asks_for_the_loaded_model_and_checks_its_weights(
    loaded: tuple[Any, Any], tmp_path: Path, cli: Any
) -> None:
    model, tokenizer = loaded
    before = weights(model)
    uninterrupted = copy.deepcopy(model)
    fit(uninterrupted, tokenizer, tmp_path / "whole")
    stops = iter([False] * 3 + [True])
    run = tmp_path / "run"
    assert fit(model, tokenizer, run, stop=lambda: next(stops)).reason == "interrupted"
    assert same(weights(model), before)
    with pytest.raises(ModelError, match="handed over as an object"):
        zotune.resume(run)
    done = cli("resume", run)
    assert done.returncode == 2
    assert "zotune.resume" in done.stderr
    with pytest.raises(RunFolderError, match="base weights"):
        zotune.resume(run, model=uninterrupted, tokenizer=tokenizer, objective=leaning)
    result = zotune.resume(run, model=model, tokenizer=tokenizer, objective=leaning)
    assert (result.reason, result.steps) == ("done", 6)
    assert same(weights(model), weights(uninterrupted))


def test_an_error_leaves_a_loaded_model_as_it_came(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    before = weights(model)

    class Interrupt(Tracker):
        def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
            if step == 4:
                stopped.append(True)

    stopped: list[bool] = []

    def stop() -> bool:
        if stopped:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        fit(model, tokenizer, tmp_path / "run", stop=stop, callbacks=[Interrupt()])
    assert same(weights(model), before)
    result = zotune.resume(tmp_path / "run", model=model, tokenizer=tokenizer, objective=leaning)
    assert result.reason == "done"


def test_lora_on_a_loaded_model(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (x.from_pretrained(tiny_llama) for x in (AutoModelForCausalLM, AutoTokenizer))
    words = {"template": "{text} {label}", "labels": "bad,good", "objective": "cross-entropy"}
    fit(model, tokenizer, tmp_path / "run", peft="lora", **words)
    assert (tmp_path / "run" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokenizer": None}, "needs its tokenizer"),
        ({"model": torch.nn.Linear(2, 2)}, "not a model of transformers"),
        ({"dtype": "bfloat16"}, "--dtype bfloat16: the loaded model has float32"),
        ({"quantize": "4bit", "peft": "lora"}, "need the model's files"),
    ],
)
def test_what_a_loaded_model_cannot_do_is_refused(
    options: dict[str, Any], said: str, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    arguments = {"model": loaded[0], "tokenizer": loaded[1], **options}
    with pytest.raises(ModelError, match=said):
        fit(arguments.pop("model"), arguments.pop("tokenizer"), tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def as_dataset(records: list[dict[str, Any]]) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    return datasets.Dataset.from_list(records, features=features)


def as_dataset_dict(records: list[dict[str, Any]]) -> Any:
    datasets = pytest.importorskip("datasets")
    parts = {"train": records[:40], "validation": records[40:52], "test": records[52:]}
    return datasets.DatasetDict({name: as_dataset(part) for name, part in parts.items()})


def as_frame(records: list[dict[str, Any]]) -> Any:
    return pytest.importorskip("pandas").DataFrame(records)


@pytest.mark.parametrize("convert", [as_dataset, as_dataset_dict, as_frame, tuple])
def test_data_in_memory(convert: Any, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    result = fit(*loaded, tmp_path / "run", data=convert(rows(64)), max_steps=2)
    files = {p.stem for p in (tmp_path / "run" / "data").iterdir()}
    assert files == ({"train", "validation", "test"} if convert is as_dataset_dict else {"train"})
    assert result.before.rows == (12 if convert is as_dataset_dict else 16)
    first = json.loads((tmp_path / "run" / "data" / "train.jsonl").read_text().splitlines()[0])
    assert {**rows(1)[0]}.items() <= first.items()
    if convert in (as_dataset, as_dataset_dict):
        assert first["label_text"] in ("bad", "good")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "no records"),
        ({}, "empty mapping"),
        ([1, 2], "record 1: a record must be a mapping"),
        (3, "data is a int"),
        ([{"text": object()}], "column 'text' holds a object"),
        ({"train": [{"text": "a"}], "../test": [{"text": "b"}]}, "split named"),
    ],
)
def test_data_that_are_no_records_are_refused(data: Any, said: str, loaded: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        fit(*loaded, tmp_path / "run", data=data)


def test_contradicting_arguments_are_refused(tiny_classifier: Path, toy: Path) -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        zotune.fit(model=tiny_classifier, data=rows(8), dataset=toy)
    with pytest.raises(OptionError, match="tokenizer belongs to a loaded model"):
        zotune.fit(model=tiny_classifier, tokenizer="x", dataset=toy)


def test_paths_and_evaluate(tiny_classifier: Path, loaded: tuple[Any, Any], toy: Path, tmp_path: Path) -> None:
    result = fit(tiny_classifier, None, tmp_path / "run", data=toy, max_steps=2, objective="cross-entropy")
    assert not (tmp_path / "run" / "data").exists()  # files stay where they are
    score = zotune.evaluate(model=loaded[0], tokenizer=loaded[1], data=toy, objective="cross-entropy")
    assert score.value == pytest.approx(result.before.value)
    assert zotune.evaluate(model=tiny_classifier, data=rows(20), objective=["accuracy"]).keys() == {"accuracy"}


def test_the_result_has_history_samples_and_a_figure(tiny_llama: Path, tmp_path: Path) -> None:
    prompts = [{"prompt": "the film", "completion": "was good"} for _ in range(40)]
    result = fit(tiny_llama, None, tmp_path / "run", data=prompts, objective="length", max_new_tokens=4)
    history = result.history
    assert [r["step"] for r in history.steps] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in history.validations] == [0, 3, 6]
    assert "kl" in history.validations[1]
    assert len(history[2:4]) == 2
    assert {"prompt", "completion", "score", "step"} <= result.samples[0].keys()
    assert result.report.name == "report.html"
    frame = pytest.importorskip("pandas") and history.to_pandas()
    assert frame["score"].notna().sum() == 3
    pytest.importorskip("matplotlib")
    result.plot().savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


SCRIPT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
import zotune

model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
records = [{"prompt": f"Once upon a time, a {animal}"} for animal in ["dog", "cat", "bird", "fish"] * 8]
def brevity(completions: list[str]) -> list[float]:
    return [-float(len(text)) for text in completions]
result = zotune.fit(model=model, tokenizer=tokenizer, data=records, objective=brevity, max_steps=3, max_new_tokens=8)
result.plot().savefig("history.png")
print(result.kept, result.before.value, len(result.history.steps))
"""


CONFIG = """\
[mypy]
strict = True
follow_imports = silent
mypy_path = {path}
[mypy-torch.*,transformers.*,numpy.*,peft.*,safetensors.*,rich.*]
follow_imports = skip
[mypy-sklearn.*]
ignore_missing_imports = True
"""
"""Strict for a script; the libraries that it imports are not read, which takes minutes."""


def type_checked(script: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mypy")
    (script.parent / "mypy.ini").write_text(CONFIG.format(path=Path(zotune.__file__).parents[1]))
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", script.name]
    return subprocess.run(command, cwd=script.parent, capture_output=True, text=True)


def test_a_script_of_ten_lines_is_typed_and_runs(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert len(SCRIPT.splitlines()) == 10
    folder = shared / "models" / "stories260K" / "hf"
    (tmp_path / "script.py").write_text(SCRIPT.replace("FOLDER", repr(str(folder))))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = type_checked(tmp_path / "script.py")
    assert done.returncode == 0, done.stdout
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("tuned", "start")
    assert (tmp_path / "history.png").exists()


def test_wrong_types_of_options_are_seen_by_a_type_checker(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("import zotune\n\nzotune.fit(max_steps='many', sede=3)\n")
    done = type_checked(tmp_path / "wrong.py")
    assert "max_steps" in done.stdout
    assert "sede" in done.stdout


def test_the_typed_options_are_those_of_a_run() -> None:
    parameters = {"model", "dataset", "objective", "optimizer", "stop"}
    assert FitOptions.__annotations__.keys() == run_options().keys() - parameters
    assert ResumeOptions.__annotations__.keys() <= FitOptions.__annotations__.keys()
    script = ROOT / "scripts" / "fit_options.py"
    if not script.exists():
        pytest.skip("the script is not beside the tests")
    done = subprocess.run([sys.executable, str(script), "--print"], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "zotune" / "fit_options.py").read_text(), "run python scripts/fit_options.py"


def test_the_notebook_has_its_output_and_no_path_of_a_machine() -> None:
    path = ROOT / "examples" / "loaded_model.ipynb"
    if not path.exists():
        pytest.skip("the examples are not beside the tests")
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert any("validation happy" in "".join(o.get("data", {}).get("text/plain", "")) for o in outputs)
    assert "/tmp" not in text
    assert "/work" not in text
    for cell in cells:
        compile("".join(cell["source"]), str(path), "exec")
