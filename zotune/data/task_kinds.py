"""Task kinds: classification, multiple choice and generation, and where each has its answer.

Knows names alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

TaskKind = Literal["classification", "choice", "generation"]
TASK_KINDS: tuple[TaskKind, ...] = ("classification", "choice", "generation")

TARGETS: Mapping[str, str] = {"classification": "label", "choice": "choice", "generation": "completion"}
"""Task kind → the place of the answer in a template, the target. A generation template may leave it out: the
completion follows the prompt."""

__all__ = ["TARGETS", "TASK_KINDS", "TaskKind"]
