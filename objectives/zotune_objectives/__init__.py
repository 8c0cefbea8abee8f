"""The objectives that ship with zotune, registered as any plugin registers its own."""

from __future__ import annotations

from zotune.hookspecs import Register, hookimpl


@hookimpl
def register_objectives(register: Register) -> None:
    here = "zotune_objectives"
    register(
        "cross-entropy",
        f"{here}.cross_entropy:cross_entropy",
        summary="mean negative log-likelihood of the gold class; lower is better, one score a row",
    )
    register(
        "accuracy",
        f"{here}.accuracy:accuracy",
        summary="share of right predictions; higher is better, one score a row",
    )
    register(
        "f1",
        f"{here}.f1:F1",
        summary="F1 over the set: macro (default) or binary; higher is better",
        paper="sklearn.metrics.f1_score",
    )
