"""Arguments that TRL's trainers pass to reward functions and that zotune has no use for, as stand-ins that do nothing.

Source: TRL, `GRPOTrainer`: `trainer_state`, `log_extra`, `log_metric`, and `environments` where there are any. Knows
names and values; knows no objective.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any, Final


def _ignore(*arguments: Any, **named: Any) -> None:
    """Stands for a function that logs."""


def _trainer_state() -> SimpleNamespace:
    """The fields of `transformers.TrainerState` before the first step, so that a reward does not change by step."""
    return SimpleNamespace(
        epoch=0.0,
        global_step=0,
        max_steps=0,
        num_train_epochs=0,
        num_input_tokens_seen=0,
        total_flos=0.0,
        log_history=[],
        best_metric=None,
        best_model_checkpoint=None,
        is_local_process_zero=True,
        is_world_process_zero=True,
        is_hyper_param_search=False,
    )


LOGGING: Final = frozenset({"trainer_state", "log_extra", "log_metric"})
"""The arguments that a trainer always passes, also to `**kwargs`."""
NAMES: Final = LOGGING | {"environments"}


def stand_ins(names: Collection[str], inputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Those of TRL's arguments that are named and that are no inputs already."""
    values = {
        "trainer_state": _trainer_state(),
        "log_extra": _ignore,
        "log_metric": _ignore,
        "environments": [None] * rows,
    }
    return {name: value for name, value in values.items() if name in names and name not in inputs}


__all__ = ["LOGGING", "NAMES", "stand_ins"]
