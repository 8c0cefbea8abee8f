"""The highest memory of a run, predicted by a dry run: what it has taken itself, and what only a run takes.

Knows sessions and the memory of the process and of the device.
"""

from __future__ import annotations

import sys
from typing import Final

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from zotune import declarations
from zotune.runs.session import Session
from zotune.tasks.build import GenerationTask

LIBRARIES: Final = 64 << 20
"""scikit-learn and SciPy, which a linear probe imports, on a CPU."""
FIELD_BYTES: Final = 4


def read_longest(session: Session) -> None:
    """Run the model on the longest held-out rows that one forward pass holds, which may be longer than a batch's."""
    rows, task = session.validation.held_out.rows, session.task
    if isinstance(task, GenerationTask):
        return
    order = sorted(range(len(rows)), key=lambda k: -len(rows.prompts[k]))
    task.outputs(rows, order[: task.forward.micro_batch], session.plan.objective.inputs)


def peak_bytes(session: Session) -> int:
    """Bytes at the highest moment: of the device on a GPU, else of the process."""
    params = session.space.params.values()
    tuned = sum(p.numel() * p.element_size() for p in params)
    weights: int = sum(p.numel() * p.element_size() for p in session.loaded.model.parameters())
    fields = int(session.space.numel * FIELD_BYTES * declarations.optimizer_info(session.plan.optimizer).fields)
    if session.loaded.device.type == "cuda":
        device_peak: int = torch.cuda.max_memory_allocated()
        return device_peak + fields + session.cached_bytes
    reads_twice = 0 if session.initial_weights.copied else weights
    interpolates = 2 * tuned + reads_twice if session.interpolates else tuned
    probe = tuned + reads_twice + LIBRARIES if session.plan.head == "embedding" and session.test.resamples else 0
    return _process_peak() + fields + session.cached_bytes + max(interpolates, probe, weights)


def _process_peak() -> int:
    """The highest resident set of this process so far; 0 where the system does not tell."""
    if resource is None:
        return 0
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak << 10


__all__ = ["peak_bytes", "read_longest"]
