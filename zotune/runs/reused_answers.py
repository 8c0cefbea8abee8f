"""Learning from all answers so far: the members of a population scored by a preference loss on pairs that people have
answered, with forward passes alone.

Each pair of members gets one answered pair; a row of a pass is one text of it. The loss of a member on a pair is

    −log σ(β (log p(chosen) − log p(rejected) − reference))

reference: the same difference before the step that asked. Source: DPO (Rafailov et al. 2023, arXiv:2305.18290); there
the reference is the base model. Knows a task, the answers and the row-wise evaluation of members; knows no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from zotune import seeds
from zotune.core.population import Population, RowWise
from zotune.data.readers import read_file
from zotune.data.records import normalize
from zotune.distributed import Processes
from zotune.errors import DataError
from zotune.runs.answered_pairs import AnsweredPair, AnsweredPairs
from zotune.runs.training_signal import TrainingSignal
from zotune.tasks import build
from zotune.tasks.teacher_forcing import EncodedAnswer

BETA: Final = 0.1
"""β, a nat: how far a pair is told apart before it counts for little."""
BEFORE: Final = -1
"""The step of the examples: the one before the first."""
TEXTS: Final = 2
"""Texts that a member reads: the chosen one and the other."""
PAIRS_IN_PASS: Final = 16
"""Pairs of members of a forward pass at most: the logits of all positions of 64 texts are kept."""
MOST_PAIRS: Final = 256
LEAST_PAIRS: Final = 16
"""Pairs of members of a step: the mean of more directions is closer to the gradient."""
OPERATIONS: Final = 4e12
"""Floating-point operations that a step may spend on answers: some ten seconds of two cores, a part of the time that a
person takes for the questions of a step."""

Answer = tuple[int, Sequence[int], Sequence[int]]
"""Training row, chosen and rejected completion, as token ids."""


class ReusedAnswers:
    """The answers so far, and the loss of members on them. seed: of the order in which answers are dealt to pairs of
    members. examples: (chosen, rejected) of prompts of their own, which count as answers before the first step."""

    def __init__(
        self,
        signal: TrainingSignal,
        row_wise: RowWise,
        seed: int,
        processes: Processes,
        examples: Sequence[Sequence[EncodedAnswer]] = (),
    ) -> None:
        self._examples = examples
        self.answers = AnsweredPairs()
        self._signal, self._row_wise, self._seed, self._processes = signal, row_wise, seed, processes

    def add(self, step: int, answers: Sequence[Answer]) -> None:
        """Keep the answers to a step's questions. Their reference is that of the present weights."""

        def keep() -> None:
            if self._examples and not self.answers.until(BEFORE):
                self._keep(BEFORE, [(-1 - i, (), ()) for i in range(len(self._examples))])
            self._keep(step, answers)

        self._processes.on_first(keep)

    def _keep(self, step: int, answers: Sequence[Answer]) -> None:
        pairs = [
            AnsweredPair(row, tuple(chosen), tuple(rejected), reference)
            for (row, chosen, rejected), reference in zip(answers, self._margins(answers), strict=True)
        ]
        self.answers.put(step, pairs)

    def __call__(self, population: Population) -> list[float]:
        """The loss of each member with +, then of each with −; nothing before the first answer that chose one."""
        try:
            return self._processes.on_first(lambda: self._losses(population))
        finally:
            self._row_wise.release()

    def _losses(self, population: Population) -> list[float]:
        step = population.directions.step
        known = self.answers.until(step)
        if not known:
            return []
        order = sorted(range(len(known)), key=lambda i: seeds.derive(self._seed, "answers", step, i))
        dealt = [known[order[p % len(known)]] for p in range(population.pairs)]
        halves: tuple[list[float], list[float]] = ([], [])
        for first in range(0, population.pairs, PAIRS_IN_PASS):
            part = dealt[first : first + PAIRS_IN_PASS]
            with self._row_wise.at(population, first, first + len(part)):
                for half, losses in zip(halves, self._in_one_pass(part), strict=True):
                    half += losses
        return [*halves[0], *halves[1]]

    def _in_one_pass(self, pairs: Sequence[AnsweredPair]) -> tuple[list[float], list[float]]:
        """The losses of the members with +, and of those with −, on a pair each."""
        with self._signal.task.forward.one_pass():
            margins = self._margins([(x.row, x.chosen, x.rejected) for x in (*pairs, *pairs)])
        losses = [_softplus(BETA * (x.reference - m)) for x, m in zip((*pairs, *pairs), margins, strict=True)]
        return losses[: len(pairs)], losses[len(pairs) :]

    def _margins(self, answers: Sequence[Answer]) -> list[float]:
        """Log-probability of the chosen completion less that of the other, in nats, under the weights of now."""
        task = self._signal.task
        assert isinstance(task, build.GenerationTask)
        encoded = [x for answer in answers for x in self._encoded(*answer)]
        log_p = task.log_probabilities(encoded)
        return [a - b for a, b in zip(log_p[0::2], log_p[1::2], strict=True)]

    def _encoded(self, row: int, chosen: Sequence[int], rejected: Sequence[int]) -> Sequence[EncodedAnswer]:
        """The two texts of an answer; those of an example have a negative row."""
        if row < 0:
            return self._examples[-1 - row]
        task, prompt = self._signal.task, self._signal.rows.tokens[row][0]
        assert isinstance(task, build.GenerationTask)
        return [task.encode_completion_ids(prompt, ids) for ids in (chosen, rejected)]


def read_examples(path: str, task: build.GenerationTask) -> list[Sequence[EncodedAnswer]]:
    """(chosen, rejected) of each record of a file in the format of `zotune rate --export`, as TRL reads it. Raises
    DataError where a record has no such pair."""
    records = normalize(read_file(Path(path)), path)
    pairs = [pair for _, _, pair in task.rows(records).tokens]
    if missing := [i for i, pair in enumerate(pairs, 1) if len(pair) != TEXTS]:
        raise DataError(f"{path}: record {missing[0]} has no chosen and rejected completion")
    return pairs


def answer_pairs(operations: float) -> int:
    """Pairs of members that read answers in a step: a power of two within LEAST_PAIRS and MOST_PAIRS. operations: of a
    forward pass over one text."""
    pairs = MOST_PAIRS
    while pairs > LEAST_PAIRS and 2 * TEXTS * pairs * operations > OPERATIONS:
        pairs //= 2
    return pairs


def _softplus(x: float) -> float:
    """log(1 + eˣ)"""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


__all__ = ["Answer", "ReusedAnswers", "answer_pairs", "read_examples"]
