"""People answer the questions of one step while those of the next are generated: the same run at any pace, killed and
resumed, and replayed. The rater is a script that prefers the longer completion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Families
from test_human_runs import Person, data, journal_lines, questions, same_weights, showings, verdict, weights
from zotune_objectives.human import Human

import zotune
from zotune.humans.progress_report import outcome
from zotune.humans.ratings import Ratings
from zotune.runs.questions_ahead import Asked, QuestionsAhead
from zotune.runs.run_directory import QUESTIONS
from zotune.types import RunContext

__all__ = ["data"]  # a fixture

OPTIONS: dict[str, Any] = {"objective": "human", "max_new_tokens": 6, "save_steps": 1}
ARGS = {"questions": "28", "judged": "4", "learn": "both"}
PAIRS, STEPS = 8, 3
SOON = 120.0


def fit(model: Path, data: Path, folder: Path, stop: Callable[[], bool] = lambda: False, **more: Any) -> Any:
    until = time.monotonic() + SOON
    options = {**OPTIONS, "model": str(model), "dataset": str(data), "output_dir": str(folder), "objective_args": ARGS}
    options |= more
    return zotune.fit(stop=lambda: stop() or time.monotonic() > until, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The journal; without the reason of its end, for steps and scores are spent at the same time."""
    return [{k: v for k, v in line.items() if k != "reason"} for line in journal_lines(folder)]


@pytest.fixture(scope="module")
def model(families: Families) -> Path:
    return families.folder("llama")


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ahead") / "run"
    with Person(folder):
        result = fit(model, data, folder)
    assert (result.reason, result.steps) == ("done", STEPS) or result.reason == "score calls"
    return folder


def test_the_questions_of_a_step_are_asked_before_the_answers_of_the_step_before(
    whole: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    header = journal_lines(whole)[0]
    assert header["population"]["ahead"] is True
    assert header["population"]["rows"] == 2 * PAIRS
    assert header["population"]["learning"] == {"source": "both", "pairs": 256}
    tape = next(line["tape"] for line in reversed(journal_lines(whole)) if line["kind"] == "step")
    assert len(dict(tape)["preferences"]) == 512, "the last step has learnt from all answers"
    folder, waiting = tmp_path / "run", list[int]()

    def idle() -> bool:
        """Nobody answers: the run is stopped once it waits with two batches in the queue."""
        with Ratings(folder) as store:
            progress = store.progress()
        waiting.append(progress.open)
        return progress.state == "waiting for ratings"

    assert fit(model, data, folder, idle).reason == "interrupted"
    asked = questions(folder)
    assert len(asked) == waiting[-1] > PAIRS, "two batches are open and none has an answer"
    assert asked == questions(whole)[: len(asked)]
    assert [line["kind"] for line in journal_lines(folder)].count("step") == 0


def test_a_slow_person_has_the_run_of_a_fast_one(whole: Path, model: Path, data: Path, tmp_path: Path) -> None:
    def slow(shown: Any) -> str:
        time.sleep(0.05 * (shown.id % 3))
        return verdict(shown.completions)

    with Person(tmp_path / "slow", rate=slow):
        fit(model, data, tmp_path / "slow")
    assert questions(tmp_path / "slow") == questions(whole)
    assert lines(tmp_path / "slow") == lines(whole)
    assert same_weights(tmp_path / "slow", whole)


@pytest.mark.parametrize("answers", [3, PAIRS + 2])
def test_an_interrupted_run_asks_nothing_twice(
    answers: int, whole: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with Person(folder, answers) as person:
        first = fit(model, data, folder, lambda: person.answered >= answers)
    assert first.reason == "interrupted"
    assert person.answered == answers
    kept = json.loads((folder / QUESTIONS).read_text())
    assert kept[1]["step"] == kept[0]["step"] + 1
    with Person(folder) as again:
        fit(model, data, folder, resume="last")
    assert questions(folder) == questions(whole)
    assert again.answered + answers == showings(folder) == showings(whole)
    assert lines(folder) == lines(whole)
    assert same_weights(folder, whole)


def test_the_journal_alone_gives_the_weights(whole: Path, model: Path, tmp_path: Path) -> None:
    from zotune.runs.replay import replay

    last = sum(line["kind"] == "step" for line in journal_lines(whole))
    outcome = replay(whole, tmp_path / "again", step=last)
    assert outcome.confirmed
    assert any(not torch.equal(weights(tmp_path / "again")[k], w) for k, w in weights(model).items())


def test_what_was_learnt_is_shown_and_a_person_may_end_the_tuning(model: Path, data: Path, tmp_path: Path) -> None:
    folder, reports = tmp_path / "run", list[Any]()

    def rate(shown: Any) -> str:
        with Ratings(folder) as store:
            progress = store.progress()
            if progress.report and progress.answered >= PAIRS + 1 and not progress.stopping:
                reports.append(progress.report)
                store.stop_tuning()
        return verdict(shown.completions)

    with Person(folder, rate=rate):
        result = fit(model, data, folder)
    assert result.reason == "good enough"
    assert result.steps < STEPS
    report = reports[0]
    assert report["prompts"] == 3, "all prompts of the validation set"
    assert {"predicted", "blind", "enough", "samples", "changed"} <= report.keys()
    with Ratings(folder) as store:
        progress, keys = store.progress(), [key for key, _ in questions(folder)]
        purposes = list(store.purposes(keys).values())
    assert progress.done
    assert not progress.stopping
    assert "judge" in purposes, "the last comparison is asked after all"
    assert outcome(folder).startswith("The tuned model was kept" if result.kept == "tuned" else "The base model was")


def test_a_step_that_is_taken_again_asks_no_second_question_about_the_progress(tmp_path: Path) -> None:
    human = Human(learn="both")
    human._start(RunContext(tmp_path, lambda text: None, lambda: False, 0, 60))
    prompts, before, now = [f"p{i}" for i in range(9)], ["old"] * 9, ["new"] * 9

    def asked() -> list[str]:
        human._observe(prompts, before, now)
        return [json.loads(body)[0] for key, body in questions(tmp_path) if key.startswith("progress")]

    assert asked() == [], "before the first batch"
    human._ask_ahead(["a"], [["x", "y"]])
    assert asked() == asked() == ["p0"], "the killed run comes to its step again"
    human._ask_ahead(["a"], [["x", "y"]])
    assert asked() == ["p0"], "its batch was asked before"
    human._ask_ahead(["b"], [["x", "y"]])
    assert asked() == ["p0", "p1"]
    human.close()


def test_the_file_holds_this_step_and_the_next(tmp_path: Path) -> None:
    path = tmp_path / "asked.json"
    ahead = QuestionsAhead(lambda step, places: None)
    ahead.open(path)
    for step in range(4):
        ahead.put(step, Asked((step, 7), [[step], [1], [2], [3]]))
    later = QuestionsAhead(lambda step, places: None)
    later.open(path)
    assert [later.get(step, 2) is not None for step in range(5)] == [False, False, True, True, False]
    assert later.get(3, 2) == Asked((3, 7), [[3], [1], [2], [3]])
    assert later.get(3, 4) is None, "questions of another number of places are not those of this step"
    path.write_text('[{"step": 3')  # torn by something else than zotune
    torn = QuestionsAhead(lambda step, places: None)
    torn.open(path)
    assert torn.get(3, 2) is None
