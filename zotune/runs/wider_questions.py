"""Questions for a wish that the model hardly ever meets: several completions of the present weights, sampled more
freely than the run's own, and with the wish in words before the prompt where a person has stated it.

The words are read when completions are sampled, never when a model is scored. Knows a task and training rows; knows no
people and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zotune.runs.training_signal import TrainingSignal
from zotune.tasks import build
from zotune.types import WiderQuestions


def wider_completions(signal: TrainingSignal, rows: Sequence[int], step: int, wider: WiderQuestions) -> list[list[int]]:
    """Token ids of the first completion of all rows, then of the second, and so on."""
    task = signal.task
    assert isinstance(task, build.GenerationTask)
    prompts = task.prompts_after(wider.wish, [signal.rows.records[i] for i in rows])
    temperature = max(wider.temperature, task.spec.sampling.temperature)
    sampling = replace(task.spec.sampling, temperature=temperature)
    ids: list[list[int]] = []
    try:
        for candidate in range(wider.candidates):
            task.step, task.draw = step, candidate + 1
            ids += [list(map(int, x)) for x in task.generate(prompts, rows, sampling)]
    finally:
        task.step = task.draw = 0
    return ids


__all__ = ["wider_completions"]
