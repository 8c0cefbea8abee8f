"""`zotune resume`: continue a run that was stopped or killed, or extend its budget."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zotune import config
from zotune.cli import fit_command
from zotune.cli.command import command
from zotune.cli.shared_flags import force_flag, json_flag, quiet_flag, run_argument
from zotune.options import option
from zotune.runs.resumed import resumed_config

SETTINGS = {
    name: replace(o, shown="the run's", first=0, default=None)
    for name, o in config.select("max_evals", "max_steps", "max_time", "max_score_calls", "device", "threads").items()
}


@dataclass(frozen=True)
class ResumeFlags:
    """What `resume` takes beside options of a run."""

    run: str = run_argument()
    checkpoint: str | None = option(
        None, "Checkpoint directory of the run.", shown="the newest complete one", group="Output"
    )
    force: bool = force_flag()
    as_json: bool = json_flag("Print the result as JSON on standard output.")
    quiet: bool = quiet_flag()


def resume(flags: ResumeFlags, settings: Mapping[str, Any]) -> None:
    """Resume a run that was stopped or killed, bit for bit as if it had not been, or give it a larger budget.

    Budgets count from the start of the run. All other options are read from its config.yaml. Relative paths in there
    start at the current directory or, where it has no such files, at a parent of RUN or where the run was started.
    """
    checkpoint = flags.checkpoint and str(Path(flags.checkpoint).absolute())
    cfg, directory = resumed_config(flags.run, settings)
    with contextlib.chdir(directory):  # relative paths and commands in config.yaml lead where they led in the run
        fit_command.run(cfg, checkpoint or "last", flags.force, flags.quiet, flags.as_json)


COMMAND = command("resume", resume, ResumeFlags, SETTINGS)

__all__ = ["COMMAND"]
