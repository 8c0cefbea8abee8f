"""Which tensors a run may scale all logits by, where completions are sampled.

Knows a plan, a task and its training rows; knows no optimizer's steps and no score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from zotune import declarations
from zotune.models.adapters import has_adapter
from zotune.models.logit_scale import logit_scales
from zotune.runs.plan import Plan
from zotune.search.population_plan import recorded_logit_scales
from zotune.tasks import build

PROMPTS: Final = 2
NO_SCALE: Final = "no tensor scales all logits of this model: populations sample at the run's own temperature"


def logit_scales_of(
    plan: Plan,
    task: build.Task,
    rows: build.EncodedRows,
    recorded: Mapping[str, Any] | None,
    note: Callable[[str], None],
) -> frozenset[str]:
    """The names of tensors that scale all logits; empty where completions are greedy, where `--tune` excludes such
    tensors, and where an adapter is tuned, for none of its tensors does. A resumed run keeps to what it recorded.

    Costs a few forward passes of two rows. note: says where the model has no such tensor.
    """
    if recorded is not None:
        return recorded_logit_scales(recorded.get("population"))
    config, wanted = plan.config, declarations.optimizer_info(plan.optimizer).sharpens
    sampled = isinstance(task, build.GenerationTask) and task.spec.temperature > 0 and config.samples_per_prompt == 1
    if not (wanted and sampled) or plan.objective.ordered or config.tune not in ("auto", "all"):
        return frozenset()
    assert isinstance(task, build.GenerationTask)
    if has_adapter(task.loaded):
        return frozenset()
    prompts = [rows.tokens[i % len(rows)][0] for i in range(PROMPTS)]
    with task.forward.one_pass():
        names = logit_scales(task.loaded, lambda: task.forced_logits(prompts))
    if not names:
        note(NO_SCALE)
    return names


__all__ = ["logit_scales_of"]
