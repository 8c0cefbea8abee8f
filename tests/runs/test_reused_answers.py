"""Learning from all answers so far: the loss of members on earlier answers, the file of the answers, and what a step
from them does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from families import Families
from test_population_runs import PROMPTS, generation
from zotune_objectives.human import Human
from zotune_optimizers.auto_answers import part_of_step
from zotune_optimizers.auto_spending import Situation

from zotune.core.population import Population, matrix_shape
from zotune.core.recipe import Directions
from zotune.core.space import Space
from zotune.distributed import ALONE
from zotune.errors import DataError, OptionError, RunFolderError
from zotune.runs.answered_pairs import AnsweredPair, AnsweredPairs
from zotune.runs.reused_answers import BETA, LEAST_PAIRS, MOST_PAIRS, ReusedAnswers, answer_pairs, read_examples
from zotune.runs.row_wise import reading_rows, row_wise
from zotune.runs.training_signal import TrainingSignal
from zotune.scoring.objective import wrap
from zotune.search.batches import Batches
from zotune.search.context import At
from zotune.search.journal import Tape
from zotune.search.oracle import Oracle
from zotune.search.population_plan import PopulationPlan
from zotune.types import Learning, ObjectiveInfo

STEP = 4
ANSWERS = [(0, [5, 6, 7], [8, 9]), (2, [7, 7], [11, 5, 6, 9, 8]), (3, [], [6])]
"""Training row, chosen and rejected completion; the model ends all but the longest one, and writes nothing in one."""


class Reused:
    """A model with the answers above, given at STEP."""

    def __init__(self, families: Families, family: str = "llama") -> None:
        self.task, self.rows = generation(families, family)
        self.space = Space(self.task.loaded.model, 3)
        self.space.step = STEP
        found = row_wise(self.task, self.rows, self.space, forward=reading_rows(self.task, self.rows))
        assert found is not None
        objective = wrap(lambda completions: [0.0 for _ in completions], "mine")
        signal = TrainingSignal(objective, self.task, self.rows, self.space, ALONE, smooth=0, samples=1)
        self.reused, self.without = ReusedAnswers(signal, found[0], 3, ALONE), found[1]

    def population(self, pairs: int, step: int = STEP, size: float = 0.02) -> Population:
        tensors = [t for t in self.space.theta.tensors if t.name not in self.without]
        shapes = {t.name: s for t in tensors if (s := matrix_shape(t))}
        return Population(Directions(shapes, pairs, step, 1), dict.fromkeys(shapes, size))

    def margins(self) -> list[float]:
        return self.reused._margins(ANSWERS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_the_loss_of_a_member_is_that_under_written_weights(families: Families, family: str) -> None:
    it = Reused(families, family)
    before = it.margins()
    it.reused.add(STEP, ANSWERS)
    population = it.population(3)
    together = it.reused(population)
    assert len(together) == 6
    alone = []
    for sign in (1, -1):
        for pair in range(3):
            with it.space.at(population.member(it.space.theta, pair, sign)):
                alone.append([math.log1p(math.exp(-BETA * (m - b))) for m, b in zip(it.margins(), before, strict=True)])
    dealt = [min(range(3), key=lambda i: abs(losses[i] - x)) for losses, x in zip(alone, together, strict=True)]
    assert together == pytest.approx([losses[i] for losses, i in zip(alone, dealt, strict=True)], abs=1e-4)
    assert sorted(dealt[:3]) == [0, 1, 2], "each answer is dealt to one pair of members"
    assert dealt[:3] == dealt[3:], "partners read the same answer"
    assert len({*together}) == 6


def test_nothing_is_learnt_before_the_first_answer_and_nothing_from_later_ones(families: Families) -> None:
    it = Reused(families)
    assert it.reused(it.population(2)) == []
    it.reused.add(STEP + 1, ANSWERS)
    assert it.reused(it.population(2)) == []
    assert len(it.reused(it.population(2, STEP + 1))) == 4


def test_a_completion_that_the_model_ended_is_scored_with_its_end(families: Families) -> None:
    task, rows = generation(families, "llama")
    prompt, (end,) = rows.tokens[0][0], {task.encode_completion_ids(rows.tokens[0][0], []).targets}
    assert len(end) == 1
    assert task.encode_completion_ids(prompt, (5, 6)).targets == (5, 6, *end)
    assert task.encode_completion_ids(prompt, (5, 6, 7, 8, 9)).targets == (5, 6, 7, 8, 9), "cut at max_new_tokens"


def test_a_step_from_the_answers_makes_what_was_chosen_more_likely(families: Families) -> None:
    it = Reused(families)
    before = it.margins()
    it.reused.add(STEP, ANSWERS)
    batches = Batches(len(PROMPTS), 4, 0)
    batches.population = PopulationPlan(rows=16, ahead=True, learning=Learning("answers", 128))
    oracle = Oracle(it.space, lambda rows: pytest.fail("nothing is scored"), batches, "maximize")
    oracle.score_preferences = it.reused
    tape = Tape()
    oracle.begin(tape, STEP)
    at: Any = At(it.space, batches, tape, STEP, 8, 0.5)
    theta, now = it.space.theta, Situation(0.0, 0.0, 0.4, 0.4, 0.0, 0.0, 1.0, 64, 4, 8, 3)
    S = theta.per(lambda t: 0.1)
    part, spent = part_of_step(theta, oracle, at, S, 0.2, 0.4, now, 3.0)
    assert spent == pytest.approx(0.1), "a quarter of what the run may spend, for four steps are left"
    assert part is not None
    with it.space.at(theta + part):
        after = it.margins()
    assert sum(after) > sum(before) + 0.1
    assert oracle.evaluations == 0
    ((kind, values),) = tape.entries
    assert (kind, len(values)) == ("preferences", 256)
    replayed = Oracle(it.space, lambda rows: pytest.fail("nothing is scored"), batches, "maximize")
    replayed.begin(Tape(tape.entries), STEP)
    again, _ = part_of_step(theta, replayed, at, S, 0.2, 0.4, now, 3.0)
    assert again is not None
    with it.space.at(theta + again):
        assert it.margins() == after, "the tape alone gives the same step"


def test_without_answers_the_step_has_no_such_part(families: Families) -> None:
    it = Reused(families)
    batches = Batches(len(PROMPTS), 4, 0)
    batches.population = PopulationPlan(rows=16, ahead=True, learning=Learning("both", 16))
    oracle = Oracle(it.space, lambda rows: pytest.fail("nothing is scored"), batches, "maximize")
    oracle.score_preferences, tape = it.reused, Tape()
    oracle.begin(tape, STEP)
    at: Any = At(it.space, batches, tape, STEP, 8, 0.5)
    now = Situation(0.0, 0.0, 0.4, 0.4, 0.0, 0.0, 1.0, 64, 4, 8, 3)
    theta = it.space.theta
    assert part_of_step(theta, oracle, at, theta.per(lambda t: 0.1), 0.2, 0.4, now, 3.0) == (None, 0.0)
    assert tape.entries == [["preferences", []]]


def test_the_file_keeps_the_answers_of_all_steps(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    kept = AnsweredPairs()
    kept.open(path)
    pairs = [AnsweredPair(k, (k, 1), (), 0.1 * k) for k in range(4)]
    kept.put(0, pairs[:1])
    kept.put(1, [])
    kept.put(2, pairs[1:3])
    later = AnsweredPairs()
    later.open(path)
    assert later.until(1) == pairs[:1]
    assert later.until(2) == pairs[:3]
    later.put(1, pairs[3:])  # the step was not recorded and is taken again
    assert later.until(2) == [pairs[0], pairs[3]]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]
    path.write_text('{"step": 3')
    with pytest.raises(RunFolderError, match="cannot be read"):
        AnsweredPairs().open(path)


def test_large_models_read_fewer_answers() -> None:
    assert answer_pairs(1e6) == MOST_PAIRS
    assert answer_pairs(2e10) == 32
    assert answer_pairs(1e15) == LEAST_PAIRS


def test_a_header_keeps_what_steps_learn_from() -> None:
    plan = PopulationPlan(rows=16, ahead=True, learning=Learning("both", 64))
    assert PopulationPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    old = {"rows": 16, "each": 1, "without": [], "max_kl": 0.3, "ahead": True}
    assert PopulationPlan.from_json(old).learning == Learning()
    assert "learning" not in (PopulationPlan(rows=16).to_json() or {})
    with pytest.raises(OptionError, match="'perturbed' or 'answers' or 'both'"):
        ObjectiveInfo(learn="all")  # type: ignore[arg-type]


def test_a_file_of_pairs_counts_as_answers_before_the_first(families: Families, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "the cat", "chosen": "ran .", "rejected": "saw the man"}))
    it = Reused(families)
    examples = read_examples(str(path), it.task)
    assert [[len(x.targets) for x in pair] for pair in examples] == [[2, 3]]
    reused = ReusedAnswers(it.reused._signal, it.reused._row_wise, 3, ALONE, examples)
    reused.answers.open(tmp_path / "answers.jsonl")
    reused.add(0, [])
    (example,) = reused.answers.until(0)
    log_p = it.task.log_probabilities(examples[0])
    assert example == AnsweredPair(-1, (), (), pytest.approx(log_p[0] - log_p[1]))
    assert len(reused(it.population(2, 0))) == 4, "nobody has answered, and yet there is something to learn"
    reused.add(1, ANSWERS)
    assert [x.row for x in reused.answers.until(1)] == [-1, 0, 2, 3], "examples are kept once"
    path.write_text(json.dumps({"prompt": "the cat"}))
    with pytest.raises(DataError, match="record 1 has no chosen and rejected"):
        read_examples(str(path), it.task)
    with pytest.raises(OptionError, match="used again"):
        Human(learn="perturbed", start="pairs.jsonl")
    assert Human(start="pairs.jsonl").info().examples == "pairs.jsonl"
