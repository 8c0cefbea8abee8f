"""Options that follow from the task where the user gives none.

Knows configurations and task files; reads no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zotune import config as configuration
from zotune.config import RunConfig
from zotune.tasks import resolve_task
from zotune.yaml_file import read_yaml


def resolve_config(values: Mapping[str, Any], file: str | None) -> RunConfig:
    """`zotune.config.resolve`, with the reward of the task file as the objective where neither the values nor the file
    name one. Raises OptionError."""
    config = configuration.resolve(values, file)
    if config.task is None:
        return config
    keys = {str(key).replace("-", "_") for key in (read_yaml(file) if file else {})}
    keys |= {name for name, value in values.items() if value is not None}
    task = resolve_task.parse_task(config.task)
    if keys & {"objective", "reward_funcs"} or task.file is None or task.file.reward is None:
        return config
    return replace(config, objective=task.file.reward)


__all__ = ["resolve_config"]
