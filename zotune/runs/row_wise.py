"""Populations of a run: whether rows of one pass can have directions of their own, and how many rows a step scores.

Knows a task, its training rows and the space; knows no optimizer and no score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from zotune.core.population import Population, RowWise, arithmetic, matrix_shape
from zotune.core.recipe import Directions
from zotune.core.space import Space
from zotune.tasks import build
from zotune.tasks.generation import PAIRS

SIZES: Final = (128, 64, 32, 16)
"""Rows that a step may score, the first that leaves STEPS steps of the budget."""
FEW_STEPS_ROWS: Final = 64
STEPS: Final = 12
SET_ROWS: Final = 8
"""Rows a member where sets are scored and a row's credit would cost too many calls."""
CHECK_PAIRS: Final = 2
CHECK_SIZE: Final = 0.02
ROUNDED_SIZE: Final = 0.1
"""Sizes of the directions of the check, in units of a matrix's RMS: small enough for cached steps to stay comparable,
and below float32 large enough to stand out from rounding."""
ZEROS: Final = 0.1
"""RMS of a matrix of zeros, such as LoRA's B: the unit that optimizers take for it."""

COMPILED: Final = 1 << 24
"""Tuned weights from which on kernels from C++ add what a member changes: they take seconds to compile."""

COMPLETIONS: Final = frozenset({"completions", "completion_ids"})

RowWiseTensors = tuple[RowWise | None, frozenset[str]]
"""The row-wise evaluation of members, None where an engine generates for them, and the tuned matrices that take no part
in it."""


def reads_rows(task: build.Task, inputs: frozenset[str]) -> bool:
    """Whether an objective with these inputs reads of the model what one pass of rows gives: its completions where text
    is generated, else outputs of a forward pass; never the model itself."""
    if isinstance(task, build.GenerationTask):
        return bool(inputs & COMPLETIONS) and not inputs & {"model", "losses", *PAIRS}
    return "model" not in inputs


def row_wise(
    task: build.Task,
    rows: build.EncodedRows,
    space: Space,
    compiled: bool | None = None,
    forward: Callable[[], Tensor] | None = None,
) -> RowWiseTensors | None:
    """The row-wise evaluation of members, and the tuned matrices that take no part in it; None where a pass of rows
    with directions of their own does not give what written weights give.

    compiled: whether kernels from C++ are used, by default for COMPILED weights and more. forward: the pass to check,
    over four rows, by default the one that scores the task's rows. Costs a few forward passes of four rows; nothing is
    scored.
    """
    if forward is None:
        forward = _forward(task, rows) if _same_sequences(task, rows) else None
    matrices = {t.name for t in space.theta.tensors if matrix_shape(t)}
    if forward is None or not matrices:
        return None
    with torch.no_grad(), task.forward.one_pass():
        compiled = space.numel >= COMPILED if compiled is None else compiled
        evaluation = RowWise(space, forward, 2 * CHECK_PAIRS, compiled)
        without = frozenset(matrices & evaluation.unsupported)
        shapes = {t.name: s for t in space.theta.tensors if t.name not in without and (s := matrix_shape(t))}
        if not shapes:
            return None
        wide = all(d in (torch.float32, torch.float64) for d in arithmetic(space.module))
        size = CHECK_SIZE if wide else ROUNDED_SIZE
        sizes = {n: size * (_rms(space.params[n]) or ZEROS) for n in shapes}
        agrees = evaluation.agrees(Population(Directions(shapes, CHECK_PAIRS, -1, 1 << 20), sizes), forward)
        evaluation.release()
    return (evaluation, without) if agrees else None


def reading_rows(task: build.GenerationTask, rows: build.EncodedRows) -> Callable[[], Tensor]:
    """A forward pass that reads four texts, prompt and completion, partners with the same content."""
    prompts = [rows.tokens[i % len(rows)][0] for i in range(CHECK_PAIRS)]
    answers = [task.encode_completion_ids(p, p[:2]) for p in (*prompts, *prompts)]
    return lambda: task.teacher_forcing.logits(answers)


def _same_sequences(task: build.Task, rows: build.EncodedRows) -> bool:
    """Whether every row is as many sequences of a forward pass, so that equal shares of a pass are rows."""
    if isinstance(task, build.GenerationTask) or task.spec.classes is not None:
        return True
    return len({len(x) for x in rows.options}) == 1


def _forward(task: build.Task, rows: build.EncodedRows) -> Callable[[], Tensor] | None:
    """A forward pass over four rows, partners with the same content, that returns what is scored."""
    picked = [i % len(rows) for i in range(CHECK_PAIRS)]
    if isinstance(task, build.GenerationTask):
        prompts = [rows.tokens[i][0] for i in (*picked, *picked)]
        return lambda: task.forced_logits(prompts)
    logits: Callable[[build.EncodedRows, Sequence[int]], Tensor] = task.logits
    return lambda: logits(rows, [*picked, *picked])


def _rms(x: Tensor) -> float:
    return float(x.detach().float().square().mean().sqrt())


def rows_of_step(planned_steps: Callable[[int], int | None]) -> int:
    """Rows that a step scores: the most of SIZES that leave STEPS steps, and FEW_STEPS_ROWS where the number of steps
    is given and smaller. planned_steps: steps that the budget pays for with so many rows, None where time alone limits
    them; its last call is with the rows that are returned."""
    for rows in SIZES:
        steps = planned_steps(rows)
        if steps is None or steps >= STEPS:
            return rows
    if planned_steps(SIZES[0]) == planned_steps(SIZES[-1]):
        planned_steps(FEW_STEPS_ROWS)
        return FEW_STEPS_ROWS
    return SIZES[-1]


__all__ = ["COMPLETIONS", "SET_ROWS", "SIZES", "reading_rows", "reads_rows", "row_wise", "rows_of_step"]
