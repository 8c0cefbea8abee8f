"""The training signal of a population: every row of a forward pass, or of a `generate`, has a direction of its own.

Knows a task, an objective and the row-wise evaluation of members; knows no optimizer and no held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zotune.core.population import Population, RowWise
from zotune.distributed import Processes
from zotune.errors import ObjectiveError, OutOfMemory
from zotune.inference import Members
from zotune.runs.heldout import win_shares
from zotune.runs.questions_ahead import Asked, QuestionsAhead
from zotune.runs.reused_answers import Answer, ReusedAnswers
from zotune.runs.training_signal import TrainingSignal
from zotune.runs.wider_questions import wider_completions
from zotune.scoring.calls import select_rows
from zotune.tasks import build
from zotune.types import Score

HOPELESS = 4
"""Rows from the first on that all fail, after which the others are not tried one by one."""


class MemberSignal:
    """Scores the members of a population for the oracle.

    A sample-level objective gives each row its score, and a member the mean of its rows'. A set-level objective scores
    the rows of each member as a set; where a member has one row, its value is what the set of all members of its sign
    loses without it, times their number: R(all) − R(all but the row), which is exact for metrics of pairs and of whole
    distributions. An order objective compares partners.

    row_wise: evaluates rows of members in a forward pass; None where an engine generates for them. rows: rows of a
    forward pass at most; halved where memory is short. report: shows one line to the user. temperature: of completions,
    in place of the task's own. ahead: for an objective that is asked a step ahead, the questions of this step and of
    the next. reused: where steps learn from earlier answers, too, what keeps them.
    """

    def __init__(
        self,
        signal: TrainingSignal,
        row_wise: RowWise | None,
        rows: int,
        processes: Processes,
        report: Callable[[str], None],
        temperature: float | None = None,
        ahead: QuestionsAhead | None = None,
        reused: ReusedAnswers | None = None,
    ) -> None:
        self.rows, self._temperature, self.ahead = rows, temperature, ahead
        self._signal, self._row_wise, self._processes, self._report = signal, row_wise, processes, report
        self.reused = reused
        self._told = False
        if isinstance(signal.task, build.GenerationTask):
            signal.task.in_process.row_wise = row_wise

    def __call__(self, population: Population, rows: Sequence[int], each: int) -> list[float | None]:
        """The value of each member with +, then of each with −, in the objective's direction; None where it has none.

        rows: training rows, `each` for every pair. Raises ObjectiveError where the objective fails for nearly all rows.
        """
        pairs, signal = population.pairs, self._signal
        if self.ahead is not None:
            return self._answers(self.ahead, population, rows, each)
        try:
            ordered = signal.objective.ordered
            draws = [self._outputs(population, rows, each, k) for k in range(1 if ordered else signal.samples)]
        finally:
            self._release()
        if ordered:
            shares = self._processes.on_first(lambda: self._shares(draws[0], pairs * each))
            return _of_members(shares, each)
        values = self._processes.on_first(lambda: [self._values(outputs, pairs, each) for outputs in draws])
        return [_mean(column) for column in zip(*values, strict=True)]

    def _answers(
        self, ahead: QuestionsAhead, population: Population, rows: Sequence[int], each: int
    ) -> list[float | None]:
        """As `__call__`, of completions that were generated a step before, while people answered."""
        step = population.directions.step
        asked = self._asked(ahead, population, rows, each)
        if following := ahead.rows_at(step + 1, len(rows)):
            coming = replace(population, directions=replace(population.directions, step=step + 1))
            self._asked(ahead, coming, following, each)
        ahead.while_waiting(step)
        shares = self._processes.on_first(lambda: self._shares(self._read(asked), len(asked.rows)))
        if self.reused is not None:
            self.reused.add(step, [*_decided(asked, shares), *self._written(asked)])
        if asked.candidates != 2:  # nobody has compared partners
            shares = [None if s is None else [0.5, 0.5] for s in shares]
        return _of_members(shares, each)

    def _written(self, asked: Asked) -> list[Answer]:
        """What people have written in place of the completions, preferred to each of them."""
        answers, places = list[Answer](), len(asked.rows)
        if self._signal.objective.info.written is None:
            return answers
        outputs = self._read(asked)
        texts = self._processes.on_first(lambda: self._signal.objective.written(*_partners(outputs, places)))
        for k, text in enumerate(texts):
            better = None if text is None else self._signal.completion_ids(asked.rows[k], text)
            others = asked.ids[k::places]
            answers += [(asked.rows[k], better, other) for other in others if better and better != other]
        return answers

    def _read(self, asked: Asked) -> dict[str, Any]:
        """The inputs of the objective for the completions of a step's questions."""
        return self._signal.outputs_of([*asked.rows] * asked.candidates, asked.ids)

    def _asked(self, ahead: QuestionsAhead, population: Population, rows: Sequence[int], each: int) -> Asked:
        """The questions of a population's step, after they were asked; generated where they are not known yet."""
        step = population.directions.step
        known: Any = self._processes.on_first(
            lambda: None if (a := ahead.get(step, len(rows))) is None else [a.rows, a.ids]
        )
        asked = None if known is None else Asked(tuple(known[0]), known[1])
        if asked is None:
            try:
                asked = self._wider(rows, step) or self._different(population, rows, each)
            finally:
                self._release()
            self._processes.on_first(lambda: ahead.put(step, asked))
        self._processes.on_first(lambda: self._signal.objective.ask(*_partners(self._read(asked), len(asked.rows))))
        return asked

    def _wider(self, rows: Sequence[int], step: int) -> Asked | None:
        """Questions of several completions, where the objective wants them and their answers can be used."""
        signal, widen = self._signal, self._signal.objective.info.widen
        if widen is None or self.reused is None:
            return None

        def completions() -> list[list[int]] | None:
            wider = widen()
            return None if wider is None else wider_completions(signal, rows, step, wider)

        ids = self._processes.on_first(completions)
        return None if ids is None else Asked(tuple(rows), ids)

    def _different(self, population: Population, rows: Sequence[int], each: int) -> Asked:
        """Completions of all members. Where partners have one text, both get the prompt of another place, once: equal
        texts tell nothing."""
        asked = self._generated(population, rows, each)
        half = len(rows)
        same = [k for k in range(half) if asked.ids[k] == asked.ids[half + k]]
        moved = [rows[(k + half // 2 + 1) % half] for k in range(half)]
        if not same or all(moved[k] == rows[k] for k in same):
            return asked
        other = self._generated(population, moved, each)
        kept, ids = list(rows), [*asked.ids]
        for k in same:
            kept[k], ids[k], ids[half + k] = moved[k], other.ids[k], other.ids[half + k]
        return Asked(tuple(kept), ids)

    def _generated(self, population: Population, rows: Sequence[int], each: int) -> Asked:
        return Asked(tuple(rows), [list(map(int, x)) for x in self._passes(population, rows, each, 0)])

    def _outputs(self, population: Population, rows: Sequence[int], each: int, draw: int) -> dict[str, Any]:
        """The model's outputs for the rows of all members: those with + first."""
        task = self._signal.task
        both = [*rows, *rows]
        if isinstance(task, build.GenerationTask):
            return self._signal.outputs_of(both, self._passes(population, rows, each, draw))
        halves: tuple[list[dict[str, Any]], ...] = ([], [])
        for place, out in self._passes(population, rows, each, draw):
            for half, part in zip(halves, _halves(out, len(place)), strict=True):
                half.append(part)
        return _joined([*halves[0], *halves[1]])

    def _passes(self, population: Population, rows: Sequence[int], each: int, draw: int) -> list[Any]:
        """What the model gives in passes of whole pairs: for generated text the ids of all rows in their order; else
        (rows, outputs) of each pass."""
        step = None if self.ahead is None else population.directions.step
        while True:
            most = max(self.rows // (2 * each), 1)
            firsts = range(0, population.pairs, most)

            def compute(first: int, most: int = most) -> Any:
                last = min(first + most, population.pairs)
                part = rows[first * each : last * each]
                both, signal = [*part, *part], self._signal
                if isinstance(signal.task, build.GenerationTask):
                    members = _members(population, first, last)
                    return part, signal.raw_outputs(both, draw, self._temperature, step, members)
                assert self._row_wise is not None
                with self._row_wise.at(population, first, last), signal.task.forward.one_pass():
                    return part, signal.raw_outputs(both, draw, self._temperature, step)

            try:
                parts = self._shared(list(firsts), compute)
                break
            except OutOfMemory:
                if most == 1:
                    raise
            self.rows //= 2
            self._report(f"out of memory: using {self.rows} rows of a population in a forward pass from here on")
        if not isinstance(self._signal.task, build.GenerationTask):
            return parts
        up = [ids for part, out in parts for ids in out[: len(part)]]
        return [*up, *(ids for part, out in parts for ids in out[len(part) :])]

    def _release(self) -> None:
        if self._row_wise is not None:
            self._row_wise.release()

    def _shared(self, items: list[int], compute: Callable[[int], Any]) -> list[Any]:
        """`compute` of each item; generated ids are computed by all processes together."""
        size, rank = self._processes.size, self._processes.rank
        if self._processes.alone or not isinstance(self._signal.task, build.GenerationTask):
            return [compute(x) for x in items]
        parts = self._processes.gather(lambda: [compute(x) for x in items[rank::size]])
        return [parts[k % size][k // size] for k in range(len(items))]

    def _values(self, outputs: dict[str, Any], pairs: int, each: int) -> list[float | None]:
        score, count = self._signal.objective.score, 2 * pairs * each
        if self._signal.objective.info.level == "set" and each > 1:
            return self._of_sets(outputs, pairs, each)
        try:
            whole = score(count, outputs)
        except ObjectiveError:
            if self._signal.objective.info.level == "set":
                raise
            samples = self._one_by_one(outputs, count)
        else:
            if whole.samples is None:
                with self._signal.objective.scored_again():
                    return self._of_sets(outputs, pairs, each) if each > 1 else self._credits(outputs, pairs)
            samples = list(whole.samples)
        return [_mean(samples[k : k + each]) for k in range(0, count, each)]

    def _one_by_one(self, outputs: dict[str, Any], count: int) -> list[float | None]:
        """The score of each row by itself, None where it fails. Raises ObjectiveError where the first few all fail."""
        samples: list[float | None] = []
        failed: list[int] = []
        for i in range(count):
            try:
                samples += _score_of(self._signal, outputs, [i], count).samples or [None]
            except ObjectiveError:
                failed.append(i)
                samples.append(None)
                if len(failed) == i + 1 >= min(HOPELESS, count):
                    raise
        if failed and not self._told:
            self._told = True
            up = sum(i < count // 2 for i in failed)
            self._report(
                f"{len(failed)} of {count} rows of a population could not be scored ({up} with +, {len(failed) - up} "
                "with −): their pairs are left out"
            )
        return samples

    def _of_sets(self, outputs: dict[str, Any], pairs: int, each: int) -> list[float | None]:
        """Each member's rows scored as a set."""
        count = 2 * pairs * each
        return self._scored(outputs, [list(range(k, k + each)) for k in range(0, count, each)], count)

    def _credits(self, outputs: dict[str, Any], pairs: int) -> list[float | None]:
        """For members of one row: n (R(all) − R(all but the row)) over the n members of each sign."""
        if pairs < 2:
            return self._of_sets(outputs, pairs, 1)
        values: list[float | None] = []
        for first in (0, pairs):
            members = list(range(first, first + pairs))
            whole = _score_of(self._signal, outputs, members, 2 * pairs).value
            without = self._scored(outputs, [[j for j in members if j != i] for i in members], 2 * pairs)
            values += [None if x is None else pairs * (whole - x) for x in without]
        return values

    def _scored(self, outputs: dict[str, Any], sets: Sequence[list[int]], count: int) -> list[float | None]:
        """The score of each set of rows, None where it fails. Raises ObjectiveError where the first few all fail."""
        values: list[float | None] = []
        for rows in sets:
            try:
                values.append(_score_of(self._signal, outputs, rows, count).value)
            except ObjectiveError:
                values.append(None)
                if values == [None] * min(HOPELESS, len(sets)):
                    raise
        if (failed := values.count(None)) and not self._told:
            self._told = True
            self._report(
                f"{failed} of {len(sets)} sets of a population could not be scored: their members are left out"
            )
        return values

    def _shares(self, outputs: dict[str, Any], half: int) -> list[list[float] | None]:
        """What the completion of each row under a member with +, and the one under its partner, win in their
        comparison; None where the row is not decided."""
        strengths = self._signal.objective.compare(*_partners(outputs, half))
        return [None if s is None else [*win_shares(s)] for s in strengths]


def _of_members(shares: Sequence[Sequence[float] | None], each: int) -> list[float | None]:
    """The share of rows that each member wins against its partner; None where no row of a pair is decided."""
    columns = [[None if s is None else s[side] for s in shares] for side in (0, 1)]
    return [_mean(column[k : k + each]) for column in columns for k in range(0, len(shares), each)]


def _decided(asked: Asked, shares: Sequence[Sequence[float] | None]) -> list[Answer]:
    """All that the answers prefer: the training row, the better completion and the worse one."""
    answers = list[Answer]()
    for k, (row, share) in enumerate(zip(asked.rows, shares, strict=True)):
        texts = list(zip(share or (), asked.ids[k :: len(asked.rows)], strict=False))
        pairs = [(row, better, worse) for high, better in texts for low, worse in texts if high > low]
        answers += [pair for i, pair in enumerate(pairs) if pair not in pairs[:i]]
    return answers


def _members(population: Population, first: int, last: int) -> Members:
    """The members of these pairs, as an engine gets them."""
    d = population.directions
    return Members(d.step, d.draw, d.count, d.shapes, population.sizes, population.scales, first, last)


def _score_of(signal: TrainingSignal, outputs: dict[str, Any], rows: list[int], count: int) -> Score:
    """The objective on some of `count` rows."""
    return signal.objective.score(len(rows), {name: select_rows(x, rows, count) for name, x in outputs.items()})


def _partners(outputs: dict[str, Any], half: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """The inputs of the rows of all questions, and the completions of each."""
    completions = outputs["completions"]
    candidates = [completions[i::half] for i in range(half)]
    return {name: _first(value, half, len(completions)) for name, value in outputs.items()}, candidates


def _first(value: Any, half: int, rows: int) -> Any:
    return value[:half] if isinstance(value, list | tuple | Tensor) and len(value) == rows else value


def _halves(outputs: dict[str, Any], rows: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of a pass as those of its members with + and those with −."""
    sized = {n: isinstance(v, list | tuple | Tensor) and len(v) == 2 * rows for n, v in outputs.items()}
    first = {n: v[:rows] if sized[n] else v for n, v in outputs.items()}
    return first, {n: v[rows:] if sized[n] else v for n, v in outputs.items()}


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Outputs of several passes one after the other."""
    out: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Tensor):
            out[name] = torch.cat(values)
        elif isinstance(first, list | tuple):
            out[name] = [x for value in values for x in value]
        else:
            out[name] = first
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else None


__all__ = ["MemberSignal"]
