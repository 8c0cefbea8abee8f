"""Short memory: fewer rows in a forward pass, the same values, and unchanged weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows
from torch import nn

import zotune
from zotune.cli import app
from zotune.core.recipe import Noise
from zotune.core.space import Space
from zotune.data.classes import Classes
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.errors import ObjectiveError, OutOfMemory
from zotune.events import Event, Note
from zotune.models.loading import load
from zotune.models.model_files import find_model
from zotune.tasks import build, forward
from zotune.types import RunContext

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB free."),
    lambda: RuntimeError(f"{CPU} 40000000000000 bytes. Error code 12 (Cannot allocate memory)"),
    MemoryError,
)


class Injector:
    """Makes a module run out of memory for more than `most` rows, in its middle: weights are swapped in by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type[nn.Module], most: int) -> None:
        self.most, self.refused, self.allowed = most, 0, 0
        self.error = ERRORS[0]
        plain = owner.forward

        def limited(module: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if len(x) > self.most:
                self.refused += 1
                raise self.error()
            self.allowed += 1
            return plain(module, x, *args, **kwargs)

        monkeypatch.setattr(owner, "forward", limited)


@pytest.fixture
def bert(monkeypatch: pytest.MonkeyPatch) -> Injector:
    from transformers.models.bert.modeling_bert import BertOutput

    return Injector(monkeypatch, BertOutput, 10**6)


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Injector:
    from transformers.models.llama.modeling_llama import LlamaMLP

    return Injector(monkeypatch, LlamaMLP, 10**6)


def task_of(folder: Path, kind: str, micro: int = 16, **more: Any) -> tuple[build.Task, build.EncodedRows]:
    """A task on ten rows."""
    found = find_model(str(folder))
    classes = Classes(("0", "1"), ("bad", "good")) if kind == "classification" else None
    text = {"classification": "{text} {label}" if found.head == "causal" else "{text}", "generation": "{text}"}[kind]
    spec = TaskSpec(kind, Template(text), classes=classes, max_new_tokens=6, **more)  # type: ignore[arg-type]
    task = build.build(load(found.source, found.folder, found.head, classes=2), spec, 32, micro)
    records = rows(10) if kind == "classification" else [{**r, "completion": "good"} for r in rows(10)]
    return task, task.rows(records)


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_rows_are_halved_until_they_fit_with_one_note(
    tiny_encoder: Path, bert: Injector, error: Callable[[], BaseException]
) -> None:
    task, coded = task_of(tiny_encoder, "classification")
    whole = task.logits(coded, range(10))
    said: list[str] = []
    task.forward.report = said.append
    bert.most, bert.error = 3, error
    torch.testing.assert_close(task.logits(coded, range(10)), whole, rtol=1e-5, atol=1e-5)
    assert (bert.refused, task.forward.micro_batch) == (2, 2)  # 10 rows, 5, 2
    assert said == ["out of memory: using 2 rows a forward pass from here on (--eval-batch-size 2)"]
    task.logits(coded, range(10))
    assert (bert.refused, len(said)) == (2, 1)


def test_other_errors_are_not_swallowed(tiny_encoder: Path, bert: Injector) -> None:
    task, coded = task_of(tiny_encoder, "classification")
    bert.most, bert.error = 3, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        task.logits(coded, range(10))
    assert (bert.refused, task.forward.micro_batch) == (1, 16)


def test_a_single_row_that_does_not_fit_is_one_line_with_advice(tiny_encoder: Path, bert: Injector) -> None:
    task, coded = task_of(tiny_encoder, "classification")
    bert.most = 0
    with pytest.raises(
        OutOfMemory, match=r"single row: CUDA out of memory.*--max-length.*--dtype.*--perturb"
    ) as failed:
        task.logits(coded, range(10))
    assert "\n" not in str(failed.value)
    assert task.forward.micro_batch == 1


def test_memory_of_a_failed_pass_is_free_in_the_next(tiny_encoder: Path, bert: Injector) -> None:
    import gc
    import weakref

    task, coded = task_of(tiny_encoder, "classification")
    held: list[weakref.ref[torch.Tensor]] = []

    def error() -> BaseException:
        assert all(x() is None for x in held)
        taken = torch.zeros(8)
        held.append(weakref.ref(taken))
        found = MemoryError()
        found.taken = taken  # type: ignore[attr-defined]
        return found

    bert.most, bert.error = 3, error
    gc.disable()
    try:
        task.logits(coded, range(10))
    finally:
        gc.enable()
    assert len(held) == 2


def test_many_labels_are_embedded_in_parts(tiny_encoder: Path, bert: Injector) -> None:
    words = ("good", "fine", "nice", "great", "lovely")
    spec = TaskSpec("classification", Template("{text}"), classes=Classes(tuple("01234"), words))
    found = find_model(str(tiny_encoder))
    task = build.build(load(found.source, found.folder, found.head), spec, 32, 16)
    coded = task.rows([{"text": "the film was good", "label": 0}])
    whole = task.logits(coded, [0])
    bert.most = 2
    torch.testing.assert_close(task.logits(coded, [0]), whole, rtol=1e-5, atol=1e-5)


def test_label_words_and_generated_text_are_unchanged(tiny_llama: Path, llama: Injector) -> None:
    task, coded = task_of(tiny_llama, "classification")
    whole = task.logits(coded, range(10))
    llama.most = 3
    torch.testing.assert_close(task.logits(coded, range(10)), whole, rtol=1e-4, atol=1e-5)
    llama.most = 10**6
    task, coded = task_of(tiny_llama, "generation")
    said = task.outputs(coded, range(10), frozenset({"completions", "losses"}))
    llama.most = 3
    again = task.outputs(coded, range(10), frozenset({"completions", "losses"}))
    assert (again["completions"], task.forward.micro_batch) == (said["completions"], 2)
    assert again["losses"] == pytest.approx(said["losses"], rel=1e-5)


def test_sampled_text_is_that_of_the_smaller_batch(tiny_llama: Path, llama: Injector) -> None:
    """A repeated generation draws anew from the same seed: what came before the failure leaves no trace."""
    wants = frozenset({"completions"})
    small, coded = task_of(tiny_llama, "generation", micro=2, temperature=1.0)
    expected = small.outputs(coded, range(10), wants)["completions"]
    large, coded = task_of(tiny_llama, "generation", temperature=1.0)
    llama.most = 3
    before = torch.random.get_rng_state()
    assert large.outputs(coded, range(10), wants)["completions"] == expected
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_frozen_prefix_is_computed_in_parts(tiny_encoder: Path, bert: Injector) -> None:
    """The blocks before the first tuned one; where even a single row is too much, nothing is stored."""
    task, coded = task_of(tiny_encoder, "classification")
    whole, tuned = task.logits(coded, range(10)), ["encoder.layer.1.output.dense.bias"]
    bert.most = 3
    assert task.cache_prefix(tuned, [coded])
    assert task.forward.micro_batch < 4
    torch.testing.assert_close(task.logits(coded, range(10)), whole, rtol=1e-4, atol=1e-4)
    task, coded = task_of(tiny_encoder, "classification")
    bert.most = 0
    assert not task.cache_prefix(tuned, [coded])
    assert (task.forward.frozen_prefix, task.forward.micro_batch) == (None, 16)


@pytest.mark.parametrize("in_forward", [False, True], ids=["copy", "in forward"])
def test_weights_are_unchanged(tiny_encoder: Path, bert: Injector, in_forward: bool) -> None:
    task, coded = task_of(tiny_encoder, "classification")
    space = Space(task.loaded.model, 0)
    if in_forward:
        space.small = 0
        assert space.perturb_in_forward(lambda: task.logits(coded, range(10))) == []
        space.max_in_forward = math.inf
    point = space.theta + 0.1 * Noise("normal", 0, 0)
    before, data = space.digest(), {n: p.data.data_ptr() for n, p in space.params.items()}

    def unchanged() -> bool:
        return space.digest() == before and {n: p.data.data_ptr() for n, p in space.params.items()} == data

    with space.at(point, 1):
        whole = task.logits(coded, range(10))
    bert.most = 3
    with space.at(point, 1):
        torch.testing.assert_close(task.logits(coded, range(10)), whole, rtol=1e-5, atol=1e-5)
    assert unchanged()
    bert.most = 0
    with pytest.raises(OutOfMemory), space.at(point, 1):
        task.logits(coded, range(10))
    assert unchanged()
    bert.most = 10**6
    with space.at(point, 1):
        torch.testing.assert_close(task.logits(coded, range(10)), whole, rtol=1e-5, atol=1e-5)


def test_a_reward_model_scores_in_smaller_parts(tiny_classifier: Path, bert: Injector, tmp_path: Path) -> None:
    from zotune_objectives.reward_model import RewardModel

    model = RewardModel(str(tiny_classifier), reward_label="1")
    texts = [r["text"] for r in rows(10)]
    whole = model(texts, [""] * 10)
    bert.most = 3
    assert model(texts, [""] * 10) == pytest.approx(whole, rel=1e-5)
    said: list[str] = []
    start = model.info().start
    assert start is not None
    start(RunContext(tmp_path, said.append, lambda: False, 0, 0))
    assert said == ["out of memory: using 2 rows a forward pass from here on (reward-model: batch_size 2)"]
    bert.most = 0
    with pytest.raises(ObjectiveError, match=r"reward-model .* single row: CUDA out of memory.*max_length"):
        model(texts, [""] * 10)


def fit(folder: Path, model: Path, toy: Path, init: str = "none", **more: Any) -> tuple[Any, list[str]]:
    said: list[str] = []

    def emit(event: Event) -> None:
        said.extend([event.text] if isinstance(event, Note) else [])

    result = zotune.fit(
        model=str(model),
        dataset=str(toy),
        labels="bad,good",
        objective="cross-entropy",
        optimizer="mezo",
        init=init,
        max_steps=6,
        eval_steps=3,
        batch_size=8,
        tune="all",
        output_dir=str(folder),
        emit=emit,
        **more,
    )
    return result, [text for text in said if "out of memory" in text]


def values(folder: Path) -> list[float]:
    """Every number of a journal's steps and evaluations."""
    lines = [json.loads(line)["body"] for line in (folder / "journal.jsonl").read_text().splitlines()]
    found: list[float] = []
    for line in lines:
        if line["kind"] == "step":
            found += [x for kind, got in line["tape"] if kind == "values" for x in got]
        if line["kind"] == "eval":
            found.append(line["score"])
    return found


@pytest.mark.parametrize("probe", ["copy", "forward"])
def test_a_run_that_runs_out_of_memory_has_the_same_journal(
    tiny_encoder: Path, toy: Path, tmp_path: Path, bert: Injector, probe: str
) -> None:
    _, quiet = fit(tmp_path / "a", tiny_encoder, toy, perturb=probe)
    bert.most = 3
    _, told = fit(tmp_path / "b", tiny_encoder, toy, perturb=probe)
    assert quiet == []
    assert told == ["out of memory: using 2 rows a forward pass from here on (--eval-batch-size 2)"]
    assert values(tmp_path / "b") == pytest.approx(values(tmp_path / "a"), rel=1e-4)
    assert len(values(tmp_path / "a")) == 6 * 2 + 3


@pytest.mark.parametrize("init", ["auto", "linear-probe"])
def test_the_note_is_said_once_where_a_probe_reads_rows_too(
    tiny_encoder: Path, toy: Path, tmp_path: Path, bert: Injector, init: str
) -> None:
    bert.most = 3
    _, told = fit(tmp_path / "a", tiny_encoder, toy, init=init)
    assert told == ["out of memory: using 2 rows a forward pass from here on (--eval-batch-size 2)"]


@pytest.mark.parametrize("again", [True, False], ids=["short again", "enough now"])
def test_a_run_resumes_whether_or_not_memory_is_short_again(
    tiny_encoder: Path, toy: Path, tmp_path: Path, bert: Injector, again: bool
) -> None:
    fit(tmp_path / "whole", tiny_encoder, toy)
    bert.most = 3
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == 4

    result, _ = fit(tmp_path / "run", tiny_encoder, toy, stop=stop)
    assert result.reason == "interrupted"
    bert.most = 3 if again else 10**6
    result, told = fit(tmp_path / "run", tiny_encoder, toy, resume="last")
    assert (result.reason, len(told)) == ("done", int(again))
    assert values(tmp_path / "run") == pytest.approx(values(tmp_path / "whole"), rel=1e-4)


def test_a_run_without_memory_ends_in_one_line_and_can_be_resumed(
    tiny_encoder: Path, toy: Path, tmp_path: Path, bert: Injector
) -> None:
    fit(tmp_path / "whole", tiny_encoder, toy)
    steps: list[int] = []

    def short() -> bool:
        steps.append(1)
        bert.most = 0 if len(steps) == 4 else 10**6
        return False

    with pytest.raises(OutOfMemory):
        fit(tmp_path / "run", tiny_encoder, toy, stop=short)
    bert.most = 10**6
    result, _ = fit(tmp_path / "run", tiny_encoder, toy, resume="last")
    assert result.reason == "done"
    assert values(tmp_path / "run") == values(tmp_path / "whole")


def test_the_command_reports_it_in_one_line(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is not a forward pass that does not fit."""

    def load(*args: Any, **kwargs: Any) -> Any:
        raise ERRORS[0]()

    monkeypatch.setattr("zotune.models.loading.load", load)
    with pytest.raises(SystemExit) as ended:
        app.main(["eval", "-d", str(toy), "--labels", "bad,good"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("zotune: out of memory: CUDA out of memory")


def test_errors_that_count_as_out_of_memory() -> None:
    assert all(forward.out_of_memory(e()) for e in ERRORS)
    assert forward.out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not forward.out_of_memory(RuntimeError("expected scalar type Float but found Half"))
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60)
    assert forward.out_of_memory(real.value)
