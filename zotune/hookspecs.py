"""The hooks of zotune. A plugin is a module that implements some of them, and an entry point that names the module:

    [project.entry-points.zotune]
    my-plugin = "my_package.zotune_hooks"

Keep the module light: register strings such as "my_package.optimizer:Mine", which are imported when they are used. A
hook may leave out parameters. docs/plugins.md has a complete package. This module knows no plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pluggy

hookspec = pluggy.HookspecMarker("zotune")
hookimpl = pluggy.HookimplMarker("zotune")


class Register(Protocol):
    """Registers one optimizer, objective, tracker or engine.

    name: what users type. target: the class or function, or "package.module:attribute". summary: one line for
    `zotune plugins`. paper, forwards, memory: source, evaluations a step and extra memory, for `zotune plugins show`.
    """

    def __call__(
        self, name: str, target: Any, *, summary: str = "", paper: str = "", forwards: str = "", memory: str = ""
    ) -> None: ...


@hookspec
def register_optimizers(register: Register) -> None:
    """Called when the plugins are loaded; call register(...) for each optimizer."""


@hookspec
def register_objectives(register: Register) -> None:
    """Called when the plugins are loaded; call register(...) for each objective."""


@hookspec
def register_trackers(register: Register) -> None:
    """Called when the plugins are loaded; call register(...) for each tracker (`zotune.types.Tracker`)."""


@hookspec
def register_engines(register: Register) -> None:
    """Called when the plugins are loaded; call register(...) for each class of engines
    (`zotune.inference.InferenceEngine`)."""


@hookspec
def on_step_end(step: int, metrics: Mapping[str, Any]) -> None:
    """Called after every step, dropped ones too.

    metrics: "step", "evaluations", and where known "loss" (smaller is better), "difference" (between points),
    "zero_share" (share of steps without a difference) and "dropped" (why). A hook that raises is reported once and
    switched off.
    """


@hookspec
def on_run_end(summary: Mapping[str, Any]) -> None:
    """Called once, when a run has ended and its files are written. summary: what `zotune fit --json` prints."""
