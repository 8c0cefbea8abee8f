"""A judge as the objective: a function that compares two completions of the same prompt.

    def judge(prompts, completions, **columns) -> list[int]      # 0: the first is better, 1: the second, -1: a tie

`completions` holds one pair for each row. Judges of TRL's shape, classes with a method `judge(prompts, completions)`,
work as well, and so do async functions. The order in each pair is drawn by a hash of both texts, so a judge who prefers
one position gains nothing. With more than two candidates each is compared with each; the strength of a candidate is the
share of comparisons that it wins, a tie counting as half.

A language model is a judge as well: `judge:http://host:port/v1`, or https, the address of an OpenAI-compatible server,
with `rubric` saying what is better. Each pair is judged in both orders; where the two verdicts contradict each other it
is a tie. A reply that names no answer decides nothing, a request that fails is no verdict, and calls and tokens are
counted.

Position bias of any judge is counted: how often it chose the place that was shown first, and the second.

Named `judge:file.py:function` or `judge:package.module:function`. Validation and test rows are scored by the share of
rows on which the tuned model's completion wins against the base model's.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import zotune
from zotune.errors import ObjectiveError, OptionError
from zotune.scoring.functions import UserFunction, find, select_rows
from zotune.scoring.partial_scores import Report, reporter
from zotune.text import texts
from zotune.types import ObjectiveInfo
from zotune_objectives.chat_judge import ChatJudge
from zotune_objectives.scorer_calls import Tally

FIRST, SECOND, TIE = 0, 1, -1
"""The verdicts of a judge."""
CHOSE = ("verdicts for the first place", "verdicts for the second place")
SERVER_TIMEOUT = 60.0
"""Seconds that a request to a server may take by default."""


@runtime_checkable
class PairJudge(Protocol):
    """A judge of TRL's shape."""

    def judge(self, prompts: Any, completions: Any) -> Any: ...


@zotune.objective(gives="order", cacheable=True, fast=False, call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True)
class Judge:
    function: str  # file.py:function, package.module:function, or http://host:port/v1
    concurrency: int = 1  # calls of an async judge or a server at a time
    batch_size: int | None = None  # pairs in a call of an async judge
    timeout: float | None = None  # seconds a call may take; of a server 60 by default
    rubric: str = ""  # server: what makes an answer better
    model: str = ""  # server: the judging model's name there
    token_env: str | None = None  # server: environment variable with a token
    _judge: UserFunction | None = field(init=False, repr=False, default=None)
    _chat: ChatJudge | None = field(init=False, repr=False, default=None)
    _places: Tally = field(init=False, repr=False, default_factory=Tally)

    def __post_init__(self) -> None:
        if self.function.startswith(("http://", "https://")):
            timeout = self.timeout or SERVER_TIMEOUT
            chat = ChatJudge(self.function, self.model, self.rubric, self.token_env, self.concurrency, timeout)
            object.__setattr__(self, "_chat", chat)
            return
        if self.rubric or self.model or self.token_env:
            raise OptionError(
                "judge: rubric, model and token_env are for a judge behind a server",
                hint="judge:http://localhost:8000/v1",
            )
        target = find(self.function, "judge")
        target = target() if inspect.isclass(target) else target
        if isinstance(target, PairJudge):
            target = target.judge
        if not callable(target):
            raise OptionError(
                f"judge: {self.function!r} is a {type(target).__name__}, not a function",
                hint="name a function, or a class with a method judge(prompts, completions)",
            )
        name = f"judge:{self.function}"
        judge = UserFunction(target, name, self.concurrency, self.batch_size, self.timeout)
        object.__setattr__(self, "_judge", judge)

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo(gives="order", cacheable=True, fast=False, faults=self._faults)

    def _faults(self) -> dict[str, int]:
        counts = dict(self._chat.tally) if self._chat else {}
        return counts | {k: n for k, n in self._places.items() if n}

    def __call__(
        self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]], **columns: Any
    ) -> list[list[float] | None]:
        """For each row one strength for each candidate, in [0, 1]. Raises ObjectiveError."""
        games = [(row, a, b) for row, several in enumerate(candidates) for a, b in combinations(range(len(several)), 2)]
        pairs = [(candidates[row][a], candidates[row][b]) for row, a, b in games]
        if self._chat is not None:
            return self._judged_by_chat(self._chat, prompts, candidates, games)
        swapped = [_is_swapped(prompts[row], *pair) for (row, _, _), pair in zip(games, pairs, strict=True)]
        shown = [[b, a] if swap else [a, b] for (a, b), swap in zip(pairs, swapped, strict=True)]
        report = reporter()

        def on_part(first: int, verdicts: Sequence[Any]) -> None:
            if all(len(row) == 2 for row in candidates) and all(v in (FIRST, SECOND, TIE) for v in verdicts):
                won = [_won(v, swapped[first + k]) for k, v in enumerate(verdicts)]
                report(first, [[w, 1 - w] for w in won])  # one game a row

        rows = [row for row, _, _ in games]
        verdicts = self._verdicts(rows, shown, {"prompts": prompts, **columns}, on_part)
        strengths = [[0.0] * len(row) for row in candidates]
        for (row, a, b), verdict, swap in zip(games, verdicts, swapped, strict=True):
            won = _won(verdict, swap)
            strengths[row][a] += won
            strengths[row][b] += 1 - won
        return [[s / (len(row) - 1) for s in row] for row in strengths]

    def _judged_by_chat(
        self,
        chat: ChatJudge,
        prompts: Sequence[Any],
        candidates: Sequence[Sequence[Any]],
        games: Sequence[tuple[int, int, int]],
    ) -> list[list[float] | None]:
        """As `__call__`, each game in both orders; strengths of some rows are kept before those of the next."""
        report, strengths = reporter(), list[list[float] | None]()
        for start in range(0, len(candidates), self.concurrency):
            own = [game for game in games if start <= game[0] < start + self.concurrency]
            asked, pairs = list[str](), list[tuple[str, str]]()
            for row, a, b in own:
                one, two = texts([candidates[row][a], candidates[row][b]])
                asked += [_prompt_text(prompts[row])] * 2
                pairs += [(one, two), (two, one)]
            verdicts = chat.verdicts(asked, pairs)
            part: list[list[float] | None] = [[0.0] * len(row) for row in candidates[start : start + self.concurrency]]
            for (row, a, b), first, second in zip(own, verdicts[0::2], verdicts[1::2], strict=True):
                strength = part[row - start]
                if first is None or second is None or strength is None:
                    part[row - start] = None
                    continue
                self._count(first)
                self._count(second)
                won = (_won(first, False) + _won(second, True)) / 2
                strength[a] += won / (len(strength) - 1)
                strength[b] += (1 - won) / (len(strength) - 1)
            strengths += part
            report(start, part)
        if strengths and all(x is None for x in strengths):
            raise ObjectiveError(
                f"judge {self.function}: no reply names A, B or tie", hint="a larger model, or another rubric"
            )
        return strengths

    def _count(self, verdict: float) -> None:
        """Count which place was chosen."""
        if verdict != TIE:
            self._places.add(CHOSE[int(verdict)])

    def _verdicts(
        self, rows: Sequence[int], pairs: Sequence[Any], inputs: Mapping[str, Any], report: Report
    ) -> list[float]:
        """The judge's verdict on each pair. rows: the row of each pair."""
        count = len(inputs["prompts"])
        inputs = {name: select_rows(values, rows, count) for name, values in inputs.items()}
        assert self._judge is not None
        verdicts = self._judge.scores({**inputs, "completions": pairs}, len(pairs), report)
        wrong = [v for v in verdicts if v not in (FIRST, SECOND, TIE)]
        if wrong:
            raise ObjectiveError(
                f"judge {self.function!r} must return 0, 1 or -1 for each pair, got {wrong[0]!r}",
                hint="0: the first is better, 1: the second, -1: a tie",
            )
        valid = [float(v) for v in verdicts if v is not None]
        for verdict in valid:
            self._count(verdict)
        return valid


def _prompt_text(prompt: Any) -> str:
    """A prompt as one text; of a list of messages one paragraph for each."""
    return prompt if isinstance(prompt, str) else "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _won(verdict: float, swapped: bool) -> float:
    """What the first candidate of a pair won."""
    return 0.5 if verdict == TIE else float((verdict == FIRST) != swapped)


def _is_swapped(prompt: Any, first: Any, second: Any) -> bool:
    """Whether the judge sees the second completion of a pair first."""
    key = "\0".join([str(prompt), *texts([first, second])])
    return bool(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] & 1)
