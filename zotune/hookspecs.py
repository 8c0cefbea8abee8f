"""The whole extension surface. A plugin is a module that implements some of these hooks, and one entry point:

    [project.entry-points.zotune]
    my-plugin = "my_package.zotune_hooks"

Keep that module light: register string targets ("my_package.optimizer:Mine") and nothing heavy is imported until used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("zotune")
hookimpl = pluggy.HookimplMarker("zotune")


class Register(Protocol):
    """name: what users type. target: the object, or "package.module:attribute". summary: one line for `zotune plugins`.
    paper, forwards, memory: what `zotune plugins show NAME` prints."""

    def __call__(
        self, name: str, target: Any, *, summary: str = "", paper: str = "", forwards: str = "", memory: str = ""
    ) -> None: ...


@hookspec
def register_optimizers(register: Register) -> None:
    """Call register(...) once for each optimizer."""


@hookspec
def register_objectives(register: Register) -> None:
    """Call register(...) once for each objective."""


@hookspec
def on_step_end(step: int, metrics: Mapping[str, Any]) -> None:
    """After every step: loss, |difference|, evaluations. An observer that raises is reported once and switched off."""


@hookspec
def on_run_end(summary: Mapping[str, Any]) -> None:
    """Once, after the last step."""
