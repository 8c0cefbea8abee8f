"""The command that repeats a run, from the options that it recorded. Knows options; reads no file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

from zotune.config import RunConfig, run_options

PLACES: Final = ("output_dir", "run_name")
"""Options that say where a run goes."""


def changed_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of config.yaml that are not the defaults."""
    default = RunConfig()
    changed = {}
    for name in run_options():
        usual, value = getattr(default, name, None), config.get(name)
        same = value == usual or (value in (None, [], {}) and usual in (None, (), {}))
        if name in config and not same and list(value if isinstance(value, list) else [value]) != [usual]:
            changed[name] = value
    return changed


def fit_command(changed: Mapping[str, Any]) -> str:
    """The command that repeats the run into another directory; where its options need no file."""
    words, options = ["zotune", "fit"], run_options()
    for name, value in changed.items():
        option = options[name]
        if name in PLACES:
            continue
        if option.switch:
            words.append(option.flag if value else f"--no-{option.flag[2:]}")
        elif isinstance(value, dict):
            for key, item in value.items():
                words += [option.flag, f"{key}={item if isinstance(item, str) else json.dumps(item)}"]
        else:
            for item in value if isinstance(value, list) else [value]:
                words += [option.flag, f"{item:g}" if isinstance(item, float) else str(item)]
    return shlex.join([*words, "--output-dir", "NEW"])


__all__ = ["changed_options", "fit_command"]
