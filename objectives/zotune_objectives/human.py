"""A person as the objective: completions of points that the optimizer compares, rated by a person.

    zotune fit -m MODEL -d prompts.jsonl -o human        generates completions and waits for ratings
    zotune rate RUN                                      asks for ratings on a local page, or with --terminal

Questions and ratings are kept in the run directory's `ratings.sqlite`, so the tuner and the page can be stopped and
restarted. A question is identified by its prompt and completions: no question is asked twice, and equal completions are
a tie that nobody is asked about. The chosen completion has strength 1 and the others 0, or ½ where a worst one of more
than two is named; after a tie, "both bad" and a text that the person has written each has ½; a skipped row does not
count. A written text is preferred to the completions where steps learn from answers; no direction gets it as a verdict.

A person cannot rate every validation row at every evaluation, so there is no validation: the last weights are compared
with the base model once, blind, on `judged` test rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zotune.errors import ObjectiveError, OptionError, Stopped
from zotune.humans.progress_report import ENOUGH_ANSWERS, HARDLY_EVER, progress_is_due, progress_report
from zotune.humans.ratings import DONE, MAX_COMPLETIONS, WRITTEN, Question, Ratings
from zotune.text import texts
from zotune.types import ObjectiveInfo, RunContext, WiderQuestions

SAMPLES = 3
"""Prompts of the validation set whose completions the page shows, and that nobody is asked about."""
HELD_OUT = 12
"""Prompts of the validation set at most that show what was learnt so far."""
WIDER_CANDIDATES = 4
WIDER_TEMPERATURE = 1.0
"""Answers of a question where most are bad, and the temperature at which they are sampled, at least."""
POLL = 0.05
"""Seconds between two checks for new ratings."""
GENERATING = "generating"
WAITING = "waiting for ratings"
"""What the page shows about the tuner."""


@dataclass(frozen=True)
class _Session:
    """The ratings of the current run. run: what is known of it."""

    ratings: Ratings
    run: RunContext
    stack: contextlib.ExitStack


@dataclass(frozen=True)
class Human:
    questions: int = 200  # questions at most, if no other budget is given
    candidates: int = 2  # completions in a question
    rows: int = 4  # prompts in a step
    learn: Literal["perturbed", "answers", "both"] = "both"  # from the questions, from all answers so far, or both
    start: str = ""  # file of prompts with chosen and rejected completions that are learnt from, too
    judged: int = 20  # test rows that compare the tuned model with the base model at the end
    _session: _Session | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("questions", self.questions), ("rows", self.rows), ("judged", self.judged)):
            if value < 1:
                raise OptionError(f"human: {name} must be 1 or more, got {value}")
        if self.start and self.learn == "perturbed":
            raise OptionError("human: start needs answers that are used again", hint="learn=both or learn=answers")
        if not 2 <= self.candidates <= MAX_COMPLETIONS:
            raise OptionError(f"human: candidates must be 2 to {MAX_COMPLETIONS}, got {self.candidates}")

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo(
            gives="order",
            batch_size=self.rows,
            candidates=self.candidates,
            validates=False,
            test_rows=self.judged,
            max_scores=self.questions,
            start=self._start,
            ask=self._ask_ahead,
            learn=self.learn,
            widen=self._widen,
            written=self._written,
            examples=self.start or None,
            observe=self._observe,
            satisfied=self._satisfied,
            close=self.close,
        )

    def _start(self, run: RunContext) -> None:
        """Open the run's ratings."""
        stack = contextlib.ExitStack()
        ratings = stack.enter_context(Ratings(run.folder, run.seed))
        ratings.set_planned(run.planned)
        ratings.set_state(GENERATING)
        stack.enter_context(ratings.heartbeat())
        object.__setattr__(self, "_session", _Session(ratings, run, stack))
        run.message(f"to rate completions: zotune rate {run.folder}")

    def close(self) -> None:
        """Close the run's ratings; the page then shows that the rating has ended."""
        if self._session is not None:
            self._session.ratings.set_state(DONE)
            self._session.ratings.clear_stop()
            self._session.stack.close()
            object.__setattr__(self, "_session", None)

    def __call__(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> list[tuple[float, ...] | None]:
        """For each row one strength for each candidate, after all have been rated.

        Raises Stopped if the run is stopped before, ObjectiveError outside of a run.
        """
        session = self._open
        ratings = session.ratings
        keys = self._ask(prompts, candidates, "judge" if ratings.asked_ahead() else "tune")
        ratings.set_state(WAITING)
        while ratings.count_open(keys) and not ratings.skip_if_stopping(keys):
            if session.run.stopping():
                raise Stopped("stopped while waiting for ratings", hint="--resume-from-checkpoint last resumes the run")
            time.sleep(POLL)
        scores = ratings.take_scores(keys)
        ratings.set_state(GENERATING)
        return [scores[key] for key in keys]

    @property
    def _open(self) -> _Session:
        """The ratings of the current run. Raises ObjectiveError outside of a run."""
        if self._session is None:
            raise ObjectiveError(
                "the objective human works only within a run", hint="zotune fit -o human, then zotune rate"
            )
        return self._session

    def _ask(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]], purpose: str) -> list[str]:
        """Put questions into the queue, those that are known with their own purpose; returns their keys."""
        ratings, keys = self._open.ratings, [_key(p, row) for p, row in zip(prompts, candidates, strict=True)]
        known = ratings.purposes(keys)
        ratings.ask(
            [
                Question(key, _prompt_text(prompt), tuple(texts(row)), known.get(key, purpose))
                for key, prompt, row in zip(keys, prompts, candidates, strict=True)
            ]
        )
        return keys

    def _ask_ahead(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> None:
        """Put the questions of a step into the queue, before their answers are waited for."""
        self._open.ratings.set_asked_ahead()
        if self.learn != "perturbed":
            self._open.ratings.set_writing()
        self._ask(prompts, candidates, "tune")

    def _written(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> list[str | None]:
        """What the person wrote as a better completion of each row, None where nothing."""
        keys = [_key(p, row) for p, row in zip(prompts, candidates, strict=True)]
        written = self._open.ratings.written(keys)
        return [written.get(key) for key in keys]

    def _observe(self, prompts: Sequence[Any], before: Sequence[Any], now: Sequence[Any]) -> None:
        """Show how far the model has come, and ask one blind question about it."""
        session = self._open
        read, pairs = [_prompt_text(p) for p in prompts], list(zip(texts(before), texts(now), strict=True))
        shown = SAMPLES if len(read) > SAMPLES else 0
        for i in range(len(read) - shown) if progress_is_due(session.ratings) else ():
            key = f"progress {_key(prompts[i], pairs[i])}"
            if pairs[i][0] != pairs[i][1] and not session.ratings.purposes([key]):
                session.ratings.ask([Question(key, read[i], pairs[i], "progress")])
                break
        report = progress_report(session.ratings, read, pairs, shown, session.run.seed, self._widen() is not None)
        session.ratings.set_report(report)

    def _widen(self) -> WiderQuestions | None:
        """Questions of several answers, where the model hardly ever writes what the person likes.

        Answers that are not used yet do not count, for how many there are depends on the person's speed.
        """
        if self._session is None or self.learn == "perturbed":
            return None
        wish, verdicts = self._session.ratings.wish(), self._session.ratings.used_verdicts(ENOUGH_ANSWERS)
        bad = sum(verdict in ("bad", WRITTEN) for verdict in verdicts)
        rare = len(verdicts) == ENOUGH_ANSWERS and bad >= HARDLY_EVER * ENOUGH_ANSWERS
        return WiderQuestions(WIDER_CANDIDATES, WIDER_TEMPERATURE, wish) if rare or wish else None

    def _satisfied(self) -> bool:
        """Whether the person has asked to end the tuning."""
        return self._session is not None and self._session.ratings.progress().stopping


def _prompt_text(prompt: Any) -> str:
    """A prompt as the rater reads it; of a list of messages one paragraph for each."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _key(prompt: Any, candidates: Sequence[Any]) -> str:
    """The identity of a question."""
    parts = "\0".join([_prompt_text(prompt), *texts(candidates)])
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
