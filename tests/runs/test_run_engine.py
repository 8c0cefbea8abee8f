"""Runs whose completions come from an engine with weights of its own: the same values and weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import engine_double
import pytest
from conftest import write_jsonl
from families import WORDS as VOCABULARY
from families import Families

import zotune
from zotune.errors import EngineError, OptionError, PluginError, RunFolderError
from zotune.plugins import Host, Source
from zotune.runs.replay import replay
from zotune.search.journal import Journal

ENGINE = "engine_double:Written"
WORDS = VOCABULARY.split()


def words(completions: Sequence[str]) -> list[float]:
    return [float(len(set(x.split())) + 0.1 * len(x)) for x in completions]


Run = Callable[..., tuple[Any, Journal]]


@pytest.fixture
def run(families: Families, tmp_path: Path) -> Run:
    """Fits a tiny model; returns the result and the journal. name: of the run directory."""
    data = tmp_path / "data"
    for name, count, start in (("train", 24, 0), ("validation", 6, 24), ("test", 6, 30)):
        texts = [" ".join(WORDS[(3 * i + k) % len(WORDS)] for k in range(3 + i % 3)) for i in range(count)]
        write_jsonl(data / f"{name}.jsonl", [{"prompt": texts[(i + start) % count]} for i in range(count)])

    def fit(name: str, **options: Any) -> tuple[Any, Journal]:
        made: dict[str, Any] = {
            "model": str(families.folder("llama")),
            "dataset": str(data),
            "max_new_tokens": 3,
            "optimizer": "eggroll",
            "optimizer_args": {"rows": 8},
            "max_steps": 3,
            "eval_steps": 2,
            "save_steps": 2,
            "threads": 1,
            "compile": "off",
            "device": "cpu",
            "preflight": False,
        }
        engine_double.CALLS.clear()
        result = zotune.fit(objective=words, output_dir=str(tmp_path / name), **(made | options))
        return result, Journal.open(tmp_path / name / "journal.jsonl", read_only=True)

    return fit


def values(journal: Journal) -> list[Any]:
    return [value for line in journal.lines if line["kind"] == "step" for kind, value in line["tape"]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_gives_the_values_and_the_weights_of_the_loaded_model(run: Run, dtype: str, tmp_path: Path) -> None:
    result, journal = run("own", engine=ENGINE, dtype=dtype)
    calls = [*engine_double.CALLS]
    assert journal.header["engine"] == {"name": ENGINE, "versions": {"double": "1.0"}}
    assert calls.count("members") == calls.count("update") == result.steps == 3
    assert calls[-1] == "close"
    _, other = run("loaded", dtype=dtype)
    assert "engine" not in other.header
    assert "members" not in engine_double.CALLS
    if dtype == "float32":  # a member's weights are rounded below it
        assert values(journal) == values(other)
        assert [x["weights"] for x in journal.lines if x["kind"] == "end"] == [
            x["weights"] for x in other.lines if x["kind"] == "end"
        ]
    model = str(journal.header["model"])
    assert replay(tmp_path / "own", tmp_path / "replayed", base=model, step=3).confirmed, "replayed without the engine"


def test_a_run_that_was_stopped_and_resumed_ends_with_the_same_bits(run: Run, tmp_path: Path) -> None:
    run("whole", engine=ENGINE)
    asked: list[int] = []
    stopped, _ = run("half", engine=ENGINE, stop=lambda: asked.append(0) or len(asked) == 2)
    assert stopped.reason == "interrupted"
    with pytest.raises(RunFolderError, match="engine"):
        run("half", resume="last")
    run("half", engine=ENGINE, resume="last")
    for name in ("journal.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()


def test_points_reach_an_engine_as_files(run: Run) -> None:
    options: dict[str, Any] = {"optimizer": "mezo", "optimizer_args": {"lr": 0.01, "eps": 0.05}, "max_steps": 2}
    _, journal = run("own", engine=ENGINE, **options)
    assert "members" not in engine_double.CALLS
    assert engine_double.CALLS.count("load") >= 6, "two points of two steps, and the weights between them"
    _, other = run("loaded", perturb="copy", **options)
    assert values(journal) == values(other)


def test_a_matrix_that_an_engine_cannot_vary_stays(run: Run) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    _, journal = run("own", engine=ENGINE, engine_args={"without": name})
    assert journal.header["population"]["without"] == [name]


def test_an_engine_with_other_weights_ends_the_run(run: Run) -> None:
    with pytest.raises(EngineError, match=r"holds other weights than the run: .*weight"):
        run("own", engine=ENGINE, engine_args={"fault": "update"})


def test_what_cannot_run_is_one_line(run: Run, tiny_classifier: Path, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"it cannot be started: no such device") as error:
        run("own", engine=ENGINE, engine_args={"fault": "start"})
    assert error.value.exit_code == 2
    assert engine_double.CALLS[-1] == "close"
    assert not (tmp_path / "own").exists()
    with pytest.raises(PluginError, match="unknown engine 'vlm'"):
        run("own", engine="vlm")
    with pytest.raises(OptionError, match=r"no start method"):
        run("own", engine=ENGINE.replace("Written", "Unfinished"))
    with pytest.raises(OptionError, match="takes no options"):
        run("own", engine_args={"a": 1})
    with pytest.raises(OptionError, match="needs the loaded model"):
        run("own", engine=ENGINE, perturb="joint")
    with pytest.raises(EngineError, match="no adapter"):
        run("own", engine=ENGINE, peft="lora", perturb="copy", optimizer="mezo", optimizer_args={})
    with pytest.raises(OptionError, match="generates none"):
        zotune.fit(
            model=str(tiny_classifier),
            dataset=str(toy),
            objective="accuracy",
            engine=ENGINE,
            output_dir=str(tmp_path / "classes"),
        )


def test_plugins_register_engines() -> None:
    class Hooks:
        @staticmethod
        @zotune.hookimpl
        def register_engines(register: Any) -> None:
            register("double", "engine_double:Written", summary="for tests")

    host = Host([Source("engines", "some-package", "1.0", lambda: Hooks)])
    assert not host.failures
    assert host.find("engine", "double").load() is engine_double.Written
    assert not host.check()
