"""The configuration with which a run directory is resumed.

Reads config.yaml; opens no journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zotune import config
from zotune.config import RunConfig
from zotune.errors import RunFolderError
from zotune.runs.run_directory import CONFIG, check_files
from zotune.runs.working_directory import working_directory


def resumed_config(run: str | Path, settings: Mapping[str, Any]) -> tuple[RunConfig, Path]:
    """The configuration of a run directory with other settings over it, and the directory from which its relative
    paths lead where they led in the run. Raises RunFolderError and OptionError."""
    folder = Path(run)
    check_files(folder)
    if not (folder / CONFIG).is_file():
        raise RunFolderError(f"{folder} holds no config.yaml to resume from", hint="is this a run directory?")
    directory = working_directory(folder)
    folder = folder if directory == Path.cwd() else folder.resolve()
    saved = config.resolve(settings, str(folder / CONFIG))
    return replace(saved, output_dir=str(folder), run_name=None), directory


__all__ = ["resumed_config"]
