"""Populations in runs: every row of a pass follows its member, whatever the model, the prompts and the objective."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import WORDS as VOCABULARY
from families import Families

import zotune
from zotune.core.member_kernels import member_kernels
from zotune.core.population import Population, RowWise, matrix_shape
from zotune.core.recipe import Directions
from zotune.core.space import Space
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.distributed import ALONE
from zotune.errors import OptionError, RunFolderError
from zotune.runs.member_signal import MemberSignal
from zotune.runs.replay import replay
from zotune.runs.row_wise import reads_rows, row_wise, rows_of_step
from zotune.runs.training_signal import TrainingSignal
from zotune.scoring.objective import Objective, wrap
from zotune.search.batches import Batches
from zotune.search.journal import Journal
from zotune.search.oracle import Oracle
from zotune.tasks.generation import GenerationTask

PROMPTS = ("the cat", "the dog saw the man and", "what", "the film was", "who ran . the cat")
PAIRS = 3
WORDS = VOCABULARY.split()


def generation(families: Families, family: str, **spec: Any) -> tuple[GenerationTask, Any]:
    task = families.task(family, TaskSpec("generation", Template("{prompt}"), max_new_tokens=5, **spec))
    return task, task.rows([{"prompt": p} for p in PROMPTS])


class Members:
    """A population of a task's model, evaluated by rows, and one member at a time under written weights."""

    def __init__(
        self, task: Any, rows: Any, objective: Callable[..., Any], samples: int = 1, in_pass: int = 128
    ) -> None:
        self.task, self.rows = task, rows
        self.space = Space(task.loaded.model, 3)
        self.space.step = 4
        found = row_wise(task, rows, self.space)
        assert found is not None
        self.evaluation, self.without = found
        self.objective = objective if isinstance(objective, Objective) else wrap(objective, "mine")
        self.signal = TrainingSignal(self.objective, task, rows, self.space, ALONE, smooth=0, samples=samples)
        self.messages: list[str] = []
        self.score = MemberSignal(self.signal, self.evaluation, in_pass, ALONE, self.messages.append)

    def population(self, sigma: float = 0.3) -> Population:
        names = {t.name: t.shape for t in self.space.theta.tensors if len(t.shape) == 2 and min(t.shape) > 1}
        shapes = {n: tuple(s) for n, s in names.items() if n not in self.without}
        sizes = {n: sigma * float(self.space.params[n].detach().square().mean().sqrt()) for n in shapes}
        return Population(Directions(shapes, PAIRS, 4), sizes)  # type: ignore[arg-type]

    def alone(self, population: Population, pair: int, sign: int, rows: Sequence[int], draw: int = 0) -> Any:
        """The ids that a member generates for its rows, under written weights."""
        with self.space.at(population.member(self.space.theta, pair, sign)), self.task.forward.one_pass():
            return self.signal.raw_outputs(rows, draw)


FILTERED = {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3}


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.8}, FILTERED], ids=["0", "0.8", "all"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "t5", "bart"])
def test_rows_generate_what_their_members_generate(families: Families, family: str, sampling: Any) -> None:
    temperature = sampling["temperature"]
    task, rows = generation(families, family, **sampling, stop=("cat",))
    seen: list[tuple[list[int], str]] = []

    def objective(completions: Any, completion_ids: Any) -> list[float]:
        seen.extend(zip(completion_ids, completions, strict=True))
        return [float(len(x)) for x in completions]

    members = Members(task, rows, objective, samples=2)
    population, order = members.population(), [0, 1, 2, 3, 0, 4]  # a prompt comes twice
    members.score(population, order, 2)
    assert len(seen) == 2 * 12
    for draw in range(2):
        for half, sign in enumerate((1, -1)):
            for pair in range(PAIRS):
                own = order[2 * pair : 2 * pair + 2]
                place = 12 * draw + 6 * half + 2 * pair
                expected = members.alone(population, pair, sign, own, draw)
                assert [ids for ids, _ in seen[place : place + 2]] == [list(x) for x in expected]
                assert all("cat" not in text for _, text in seen[place : place + 2])
    if temperature:
        assert seen[:12] != seen[12:], "draws differ"


def test_a_smaller_pass_after_short_memory_changes_no_completion(families: Families) -> None:
    task, rows = generation(families, "llama", temperature=0.8)
    whole, halved = ([], [])  # type: ignore[var-annotated]
    for texts, in_pass in ((whole, 128), (halved, 128)):

        def objective(completions: Any, texts: list[str] = texts) -> list[float]:
            texts.extend(completions)
            return [1.0] * len(completions)

        members = Members(task, rows, objective, in_pass=in_pass)
        if texts is halved:
            inner = task.loaded.model.generate

            def generate(*args: Any, **options: Any) -> Any:
                if len(options["input_ids"]) > 4:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
                return inner(*args, **options)  # noqa: B023

            task.loaded.model.generate = generate
        members.score(members.population(), [0, 1, 2], 1)
        if texts is halved:
            del task.loaded.model.generate
            assert members.score.rows == 4
            assert "4 rows of a population" in members.messages[-1]
    assert whole == halved


def oracle_of(members: Members, **options: Any) -> Oracle:
    batches = Batches(len(members.rows), 4, 0)
    oracle = Oracle(members.space, members.signal.evaluate, batches, members.objective.direction, **options)
    oracle.score_members = members.score
    return oracle


def test_a_verdict_about_two_rows_is_the_sign_of_their_direction(families: Families) -> None:
    task, rows = generation(families, "llama")
    asked: list[Any] = []

    @zotune.objective(gives="order")
    def longer(prompts: Any, candidates: Any) -> list[list[float]]:
        asked.extend(candidates)
        return [[float(len(c)) for c in row] for row in candidates]

    members = Members(task, rows, longer, samples=2)
    oracle = oracle_of(members, collect=members.signal.outputs, compare=members.signal.compare, unit=0.5)
    population, order = members.population(0.5), (0, 1, 2)
    theta = members.space.theta
    up, down = oracle.population(population.directions, population.size(theta), batch=zotune.types.Batch(order))
    for pair in range(PAIRS):
        texts = [task.text(members.alone(population, pair, sign, [order[pair]])[0]) for sign in (1, -1)]
        a, b = map(len, texts)
        assert (up[pair], down[pair]) == ((0.25, 0.25) if a == b else (0.0, 0.5) if a > b else (0.5, 0.0))
    assert all(len({*row}) == 2 for row in asked), "identical texts are not asked about"


def test_rows_without_a_score_leave_their_pair_out(families: Families) -> None:
    task, rows = generation(families, "llama")

    def some(completions: Any, prompts: Any) -> list[float | None]:
        return [None if p == PROMPTS[1] else 1.0 for p in prompts]

    members = Members(task, rows, some)
    assert members.score(members.population(), [0, 1, 2], 1) == [1.0, None, 1.0, 1.0, None, 1.0]

    def failing(completions: Any, prompts: Any) -> list[float]:
        if PROMPTS[1] in prompts:
            raise ValueError("not this one")
        return [1.0] * len(completions)

    members = Members(task, rows, failing)
    assert members.score(members.population(), [0, 1, 2], 1) == [1.0, None, 1.0, 1.0, None, 1.0]
    assert "1 with +, 1 with −" in members.messages[0]


def test_what_an_objective_reads_decides_whether_rows_do(families: Families) -> None:
    task, _ = generation(families, "llama")
    for inputs, possible in (
        ({"completions"}, True),
        ({"completion_ids", "prompts"}, True),
        ({"completions", "losses"}, False),
        ({"completions", "model"}, False),
        ({"completions", "chosen_logps"}, False),
        ({"losses"}, False),
    ):
        assert reads_rows(task, frozenset(inputs)) is possible


def test_each_option_of_a_row_belongs_to_its_member(families: Families) -> None:
    task = families.task("llama", TaskSpec("choice", Template("{text} {choice}"), choices=("options",)))
    equal = [{"text": p, "options": ["so good", "bad"], "label": 0} for p in PROMPTS]
    rows = task.rows(equal)
    seen: list[torch.Tensor] = []

    def objective(logits: torch.Tensor) -> list[float]:
        seen.append(logits)
        return [0.0] * len(logits)

    members = Members(task, rows, objective)
    population, order = members.population(), [0, 1, 0]
    members.score(population, order, 1)
    for half, sign in enumerate((1, -1)):
        for pair in range(PAIRS):
            with members.space.at(population.member(members.space.theta, pair, sign)):
                alone = task.logits(rows, [order[pair]])[0]
            assert torch.allclose(seen[0][PAIRS * half + pair], alone, atol=1e-4)
    unequal = [*equal[:4], {"text": "what", "options": ["good", "bad", "fine"], "label": 1}]
    assert row_wise(task, task.rows(unequal), members.space) is None, "shares of a pass would be no rows"


def test_one_matrix_that_is_read_in_another_way_shows_in_half_precision() -> None:
    class Head(torch.nn.Module):
        def __init__(self, honest: bool) -> None:
            super().__init__()
            self.honest, self.embed = honest, torch.nn.Embedding(32, 16)
            self.inner, self.head = torch.nn.Linear(16, 16, bias=False), torch.nn.Linear(16, 32, bias=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.inner(self.embed(ids)))
            out: torch.Tensor = self.head(h)
            return out if self.honest else out + 3 * h @ self.head.weight.T  # behind the module's back

    with torch.random.fork_rng():
        torch.manual_seed(0)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for honest in (True, False):
                module = Head(honest).to(dtype)
                space = Space(module, 1)
                ids = torch.arange(10).view(2, 5).repeat(2, 1)
                with torch.no_grad():
                    rows = RowWise(space, lambda m=module, x=ids: m(x), 4)
                    shapes = {t.name: s for t in space.theta.tensors if (s := matrix_shape(t))}
                    sizes = {n: 0.1 * float(space.params[n].float().square().mean().sqrt()) for n in shapes}
                    population = Population(Directions(shapes, 2, 0), sizes)
                    assert rows.agrees(population, lambda m=module, x=ids: m(x)) is honest


def texts_of(folder: Path, count: int) -> Path:
    for split, n in (("train", count), ("validation", 6), ("test", 6)):
        write_jsonl(folder / f"{split}.jsonl", [{"prompt": f"{PROMPTS[i % 5]} {WORDS[i % 7]}"} for i in range(n)])
    return folder


def words(completions: Sequence[str]) -> list[float]:
    return [float(len({*x.split()})) for x in completions]


@pytest.mark.parametrize("compiled", [False, True])
def test_runs_on_generated_text_resume_and_replay(
    families: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if compiled and member_kernels() is None:
        pytest.skip("no compiler for C++")
    monkeypatch.setattr("zotune.runs.row_wise.COMPILED", 1)  # --compile off compiles nothing all the same
    data = texts_of(tmp_path / "data", 20)
    made: dict[str, Any] = {
        "model": str(families.folder("llama")),
        "dataset": str(data),
        "max_new_tokens": 4,
        "temperature": 0.7,
        "eval_steps": 2,
        "save_steps": 2,
        "max_steps": 4,
        "threads": 1,
        "compile": "auto" if compiled else "off",
        "device": "cpu",
    }
    whole = zotune.fit(objective=words, output_dir=str(tmp_path / "whole"), **made)
    journal = Journal.open(tmp_path / "whole" / "journal.jsonl", read_only=True)
    assert journal.header["population"]["rows"] > 0
    assert journal.header["population"].get("compiled", False) is compiled
    assert [e[0] for e in journal.first("step")["tape"]] == ["members"]
    asked = [0]
    stopped = zotune.fit(
        objective=words, output_dir=str(tmp_path / "half"), stop=lambda: asked.append(0) or len(asked) == 4, **made
    )
    assert stopped.reason == "interrupted"
    with pytest.raises(RunFolderError, match="eval batch size"):
        zotune.fit(objective=words, resume="last", output_dir=str(tmp_path / "half"), **{**made, "eval_batch_size": 3})
    monkeypatch.setattr("zotune.runs.row_wise.COMPILED", 1 << 24)  # a resumed run keeps to what it began with
    zotune.fit(objective=words, resume="last", output_dir=str(tmp_path / "half"), **made)
    for name in ("journal.jsonl", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes()
    replayed = replay(tmp_path / "whole", tmp_path / "replayed", base=made["model"], step=whole.steps)
    assert replayed.confirmed


@pytest.mark.parametrize(
    ("fast", "limit", "each"),
    [(True, "max_score_calls", 1), (None, "max_score_calls", 8), (None, "max_evals", 1), (False, "max_evals", 8)],
)
def test_rows_of_a_set_get_credit_where_scoring_them_again_is_cheap(
    families: Families, tmp_path: Path, fast: bool | None, limit: str, each: int
) -> None:
    seen = [0]

    @zotune.objective(direction="maximize", level="set", fast=fast)
    def different_words(completions: Sequence[str]) -> float:
        seen[0] += len(completions)
        return len({w for x in completions for w in x.split()}) / len(completions)

    data = texts_of(tmp_path / "data", 20)
    more: dict[str, Any] = {"model": str(families.folder("llama")), "device": "cpu", "max_new_tokens": 4, limit: 240}
    run = zotune.fit(
        objective=different_words, dataset=str(data), output_dir=str(tmp_path / "run"), preflight=False, **more
    )
    header = Journal.open(tmp_path / "run" / "journal.jsonl", read_only=True).header
    assert header["population"]["each"] == each
    assert run.steps > 0
    if limit == "max_score_calls":
        assert run.scoring.rows <= 240
        assert (seen[0] > 2 * run.scoring.rows) is (each == 1), "a row that is scored again counts once"


@pytest.mark.parametrize("each", [1, 2])
def test_members_whose_set_fails_are_left_out(families: Families, each: int) -> None:
    calls, pairs = [0], 4

    def flaky(completions: Sequence[str]) -> float:
        calls[0] += 1
        if calls[0] == 8:
            raise ValueError("busy")
        return len({w for x in completions for w in x.split()}) / len(completions)

    task, rows = generation(families, "llama")
    members = Members(task, rows, wrap(zotune.objective(direction="maximize", level="set")(flaky), "mine"))
    directions = Directions({t.name: s for t in members.space.theta.tensors if (s := matrix_shape(t))}, pairs, 4)
    population = Population(directions, dict.fromkeys(directions.shapes, 0.05))
    values = members.score(population, [k % len(PROMPTS) for k in range(pairs * each)], each)
    assert sum(value is None for value in values) == 1
    assert "could not be scored" in members.messages[-1]


def test_a_scorer_outside_the_process_is_not_called_for_credit(families: Families, tmp_path: Path) -> None:
    script = tmp_path / "scorer.py"
    script.write_text(
        "import json, sys\nfor line in sys.stdin:\n"
        "    print(len({w for x in json.loads(line)['completions'] for w in x.split()}), flush=True)\n"
    )
    zotune.fit(
        model=str(families.folder("llama")),
        dataset=str(texts_of(tmp_path / "data", 20)),
        objective=f"exec:{script}",
        objective_args={"level": "set"},
        output_dir=str(tmp_path / "run"),
        device="cpu",
        max_new_tokens=4,
        max_steps=1,
        preflight=False,
    )
    header = Journal.open(tmp_path / "run" / "journal.jsonl", read_only=True).header
    assert header["population"]["each"] == 8


def test_classification_keeps_to_points_and_says_nothing(tiny_classifier: Path, toy: Path, tmp_path: Path) -> None:
    messages: list[Any] = []
    zotune.fit(
        model=str(tiny_classifier),
        dataset=str(toy),
        objective="accuracy",
        output_dir=str(tmp_path / "run"),
        max_evals=8,
        emit=messages.append,
    )
    header = Journal.open(tmp_path / "run" / "journal.jsonl", read_only=True).header
    assert not header.get("population")
    assert not any("directions of their own" in str(m) for m in messages)


def test_an_objective_that_reads_weights_in_another_way_gets_written_ones(families: Families, tmp_path: Path) -> None:
    data = texts_of(tmp_path / "data", 8)
    for split in ("train", "validation", "test"):
        lines = [json.loads(x) for x in (data / f"{split}.jsonl").read_text().splitlines()]
        write_jsonl(data / f"{split}.jsonl", [{**x, "completion": "the cat sat"} for x in lines])

    def fluent(completions: Sequence[str], losses: Sequence[float]) -> list[float]:
        return [-x for x in losses]

    made: dict[str, Any] = {
        "model": str(families.folder("llama")),
        "dataset": str(data),
        "max_new_tokens": 3,
        "optimizer": "eggroll",
        "optimizer_args": {"rows": 4},
        "max_steps": 1,
        "device": "cpu",
    }
    zotune.fit(objective=fluent, output_dir=str(tmp_path / "run"), **made)
    line = Journal.open(tmp_path / "run" / "journal.jsonl", read_only=True).first("step")
    a, b, c, d = dict(line["tape"])["members"]
    assert a != c
    assert b != d, "partners were scored under the same weights"
    with pytest.raises(OptionError, match="reads more than each row's"):
        zotune.fit(objective=fluent, perturb="population", output_dir=str(tmp_path / "no"), **made)


def test_rows_of_a_step_follow_the_budget() -> None:
    seen: list[int] = []

    def by_rows(total: int) -> Callable[[int], int | None]:
        def planned(rows: int) -> int | None:
            seen.append(rows)
            return total // rows

        return planned

    assert rows_of_step(by_rows(10_000)) == 128
    assert rows_of_step(by_rows(800)) == 64
    assert rows_of_step(by_rows(100)) == 16
    assert seen[-1] == 16
    assert rows_of_step(lambda rows: None) == 128
    seen.clear()

    def three_steps(rows: int) -> int:
        seen.append(rows)
        return 3

    assert rows_of_step(three_steps) == 64
    assert seen[-1] == 64
