"""The directory from which the relative paths of a run's configuration lead to files.

Knows the run directory's small files; changes no directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zotune.runs.run_directory import CONFIG, ENVIRONMENT
from zotune.yaml_file import read_yaml


def working_directory(folder: Path) -> Path:
    """Of the present directory, those that hold the run directory and the one in which the run was started, the first
    that has most of the files that the run's configuration names."""
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    paths = set(_paths(config))
    try:
        started = [Path(json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["directory"])]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a run of a version that recorded none
        started = []
    candidates = [Path.cwd(), *list(folder.resolve().parents)[:-1], *started]
    return max(candidates, key=lambda directory: sum(_exists(directory / path) for path in paths))


def _paths(config: Mapping[str, Any]) -> Iterator[str]:
    """The words of a configuration that may be relative paths."""
    for key, value in config.items():
        if key in ("output_dir", "run_name"):
            continue
        for text in _texts(value):
            for word in {text, *re.split(r"[:=\s]+", text)}:
                relative = bool(word.strip("./")) and not word.startswith(("/", "~")) and "\0" not in word
                if relative and (key in ("model", "dataset") or "/" in word or "." in word):
                    yield word


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long
        return False


__all__ = ["working_directory"]
