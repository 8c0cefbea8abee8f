"""The training signal: the objective on training rows, with the weights as they are.

Knows a task, an objective and how their outputs are sampled and averaged; knows no optimizer and no held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zotune.core.space import Space
from zotune.distributed import Processes
from zotune.inference import Members
from zotune.runs.heldout import score_once, win_shares
from zotune.scoring.objective import Objective
from zotune.tasks import build
from zotune.types import Score


class TrainingSignal:
    """Scores training rows for the oracle.

    smooth: sets of predictions to sample for a classification metric (`--smooth`); samples: completions sampled for
    each prompt (`--samples-per-prompt`). space: its step seeds the sampling.

    objective, task, rows: as given.
    """

    def __init__(
        self,
        objective: Objective,
        task: build.Task,
        rows: build.EncodedRows,
        space: Space,
        processes: Processes,
        *,
        smooth: int,
        samples: int,
    ) -> None:
        self.objective, self.task, self.rows = objective, task, rows
        self._space, self._processes, self._smooth = space, processes, smooth
        self.samples = samples

    @property
    def smooth(self) -> int:
        """Sets of predictions that are sampled for each batch; 0 where the objective reads more than predictions, or is
        too slow for it.

        A metric of predictions is a step function of the weights, and most small differences between two points are
        chance. Its mean over predictions sampled from the model's own probabilities, with the same randomness at every
        point, estimates the metric's expectation, which changes with every logit. Held-out rows are never smoothed.
        """
        objective = self.objective
        slow = any(part.info.fast is False for part in objective.each) and objective.info.level == "set"
        if not self.task.samples_predictions or slow:
            return 0
        wants = objective.inputs
        of_predictions = wants & {"predictions", "completions"} and not wants & {"logits", "losses", "model"}
        return self._smooth if of_predictions else 0

    def evaluate(self, indices: Sequence[int]) -> Score:
        """The objective on these training rows. Raises ObjectiveError."""
        objective, task, count = self.objective, self.task, len(indices)
        if isinstance(task, build.GenerationTask):
            samples = [self._generated(indices, k) for k in range(self.samples)]
            return score_once(self._processes, lambda: mean_score([objective.score(count, x) for x in samples]))
        outputs = task.outputs(self.rows, indices, objective.inputs)
        if not self.smooth:
            return score_once(self._processes, lambda: objective.score(count, outputs))
        sampled = task.sample_predictions(self.rows, indices, outputs["logits"], self.smooth)
        sets = [outputs | x for x in sampled]
        return score_once(self._processes, lambda: mean_score(objective.scores(count, sets)))

    def outputs(self, indices: Sequence[int]) -> dict[str, Any]:
        """The model's outputs for these training rows, for `compare`."""
        if isinstance(self.task, build.GenerationTask):
            return self._generated(indices, 0)
        return self.task.outputs(self.rows, indices, self.objective.inputs)

    def compare(self, outputs: Sequence[dict[str, Any]]) -> list[float | None]:
        """For the outputs of several points on the same rows: the share of the other points that each beats, averaged
        over the rows that the objective can decide; None where it decides none."""
        candidates = list(zip(*(x["completions"] for x in outputs), strict=True))
        strengths = self._processes.on_first(lambda: list(self.objective.compare(outputs[0], candidates)))
        shares = [win_shares(x) for x in strengths if x is not None]
        if not shares:
            return [None] * len(outputs)
        return [math.fsum(row[i] for row in shares) / len(shares) for i in range(len(outputs))]

    def raw_outputs(
        self,
        indices: Sequence[int],
        draw: int,
        temperature: float | None = None,
        step: int | None = None,
        members: Members | None = None,
    ) -> Any:
        """For generated text the ids of the completions of these training prompts, a JSON value; else the outputs.
        temperature: of the completions, in place of the task's own. step: whose randomness sampling uses, by default
        the present one. members: whose weights complete the prompts, by default the present ones."""
        task = self.task
        if not isinstance(task, build.GenerationTask):
            return task.outputs(self.rows, indices, self.objective.inputs)
        task.step, task.draw = self._space.step if step is None else step, draw
        try:
            sampling = None if temperature is None else replace(task.spec.sampling, temperature=temperature)
            return task.generate([self.rows.tokens[i][0] for i in indices], indices, sampling, members)
        finally:
            task.step = task.draw = 0

    def outputs_of(self, indices: Sequence[int], completion_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The inputs of the objective for training prompts whose completions are generated already."""
        task = self.task
        assert isinstance(task, build.GenerationTask)
        return task.outputs(self.rows, indices, self.objective.inputs, generated=completion_ids)

    def completion_ids(self, row: int, text: str) -> list[int]:
        """A text as the completion of a training prompt: its token ids, as many as a completion has at most."""
        task = self.task
        assert isinstance(task, build.GenerationTask)
        return task.completion_ids(self.rows.records[row], text)

    def _generated(self, indices: Sequence[int], draw: int) -> dict[str, Any]:
        """Completions for training prompts; their randomness follows from the step and the draw."""
        task = self.task
        assert isinstance(task, build.GenerationTask)
        task.step, task.draw = self._space.step, draw
        try:
            return task.outputs(self.rows, indices, self.objective.inputs)
        finally:
            task.step = task.draw = 0


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of several scores of the same rows, row by row where all have one score a row."""
    value = math.fsum(s.value for s in scores) / len(scores)
    by_part: dict[str, list[float]] = {}  # a part of a sum may be missing in some scores
    for name, x in (part for s in scores for part in s.parts):
        by_part.setdefault(name, []).append(x)
    parts = tuple((name, math.fsum(values) / len(values)) for name, values in by_part.items())
    columns = [s.samples for s in scores if s.samples is not None]
    if len(columns) < len(scores):
        return Score(value, None, parts)
    samples = tuple(
        None if (valid := [x for x in column if x is not None]) == [] else math.fsum(valid) / len(valid)
        for column in zip(*columns, strict=True)
    )
    return Score(value, samples, parts)


__all__ = ["TrainingSignal", "mean_score"]
