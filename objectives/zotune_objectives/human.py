"""A person's taste: completions from points that the optimizer wants compared, and someone who says which is better.

    zotune fit -m MODEL -d prompts.jsonl -o human        waits for answers
    zotune rate RUN                                      asks for them on a local page, or with --terminal

Questions and answers lie in the run's `ratings.sqlite` and nowhere else, so that tuner and page may be closed and
opened again. A question is known by its prompt and its answers: the same is never asked twice, and equal answers are a
tie that nobody is asked about. The chosen answer has strength 1, the others 0; a tie and "both bad" ½ each; a
skipped row does not count.

A person cannot score every held-out row at every evaluation: the last weights are the ones that are judged, once, on
`judged` rows, blind against the start.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zotune.errors import ObjectiveError, OptionError, Stopped
from zotune.humans.ratings import DONE, Question, Ratings
from zotune.text import texts
from zotune.types import ObjectiveInfo, RunContext

POLL = 0.05
"""Seconds between two looks for answers."""


@dataclass(frozen=True)
class Human:
    questions: int = 200  # asked at most, where no other budget is given
    candidates: int = 2  # answers shown at a time
    rows: int = 4  # prompts a step
    judged: int = 20  # held-out rows that decide at the end
    _run: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("questions", self.questions), ("rows", self.rows), ("judged", self.judged)):
            if value < 1:
                raise OptionError(f"human: {name} must be at least 1, got {value}")
        if not 2 <= self.candidates <= 9:
            raise OptionError(f"human: candidates must be 2 to 9, got {self.candidates}")

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo(
            gives="order",
            batch_size=self.rows,
            candidates=self.candidates,
            validates=False,
            test_rows=self.judged,
            max_scores=self.questions,
            start=self._start,
            close=self.close,
        )

    def _start(self, run: RunContext) -> None:
        """Open the run's store of questions and answers."""
        stack = contextlib.ExitStack()
        ratings = stack.enter_context(Ratings(run.folder, run.seed))
        ratings.set_planned(run.planned)
        ratings.set_state("generating")
        stack.enter_context(ratings.heartbeat())
        self._run.update(ratings=ratings, stop=run.stopping, stack=stack)
        run.message(f"questions wait for answers: zotune rate {run.folder}")

    def close(self) -> None:
        """Say on the page that nobody asks any more."""
        if self._run:
            self._run["ratings"].set_state(DONE)
            self._run["stack"].close()
            self._run.clear()

    def __call__(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> list[tuple[float, ...] | None]:
        """For each row one strength a candidate. Raises Stopped where the run is to end before all have answers."""
        ratings: Ratings | None = self._run.get("ratings")
        if ratings is None:
            raise ObjectiveError("nobody is asked: human answers are given within a run")
        questions = [Question(_key(p, c), _said(p), tuple(texts(c))) for p, c in zip(prompts, candidates, strict=True)]
        keys = [q.key for q in questions]
        ratings.ask(questions)
        ratings.set_state("waiting for answers")
        while ratings.count_open(keys):
            if self._run["stop"]():
                raise Stopped("stopped while waiting for answers", hint="--resume-from-checkpoint last goes on")
            time.sleep(POLL)
        found = ratings.take_scores(keys)
        ratings.set_state("generating")
        return [found[key] for key in keys]


def _said(prompt: Any) -> str:
    """A prompt as a person reads it: of messages, what was said in turn."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _key(prompt: Any, candidates: Sequence[Any]) -> str:
    said = "\0".join([_said(prompt), *texts(candidates)])
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
