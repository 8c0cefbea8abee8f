"""`zotune fit`: tune weights for an objective, or with --dry-run say what that would take."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import force_flag, json_flag, quiet_flag
from zotune.events import Phase
from zotune.options import option


@dataclass(frozen=True)
class FitFlags:
    """What `fit` takes beside the options of a run."""

    config: str | None = option(
        None, "YAML file with any of these options; flags override it.", "--config", "-c", first=10, metavar="FILE"
    )
    resume_from_checkpoint: str | None = option(
        None, "Resume from 'last' or a checkpoint directory; see also 'zotune resume'.", group="Output"
    )
    force: bool = force_flag()
    dry_run: bool = option(False, "Resolve, check and estimate; tune nothing.", group="Output")
    as_json: bool = json_flag("Print the result as JSON on standard output.")
    quiet: bool = quiet_flag()


def fit(flags: FitFlags, settings: Mapping[str, Any]) -> None:
    """Tune a model's weights for an objective, with forward passes only.

    Without --model and --dataset: the embedded encoder and its data set.
    """
    load_libraries(flags.quiet)
    from zotune.runs.task_defaults import resolve_config

    cfg = resolve_config(settings, flags.config)
    if flags.dry_run:
        estimate(cfg, flags)
    else:
        run(cfg, flags.resume_from_checkpoint, flags.force, flags.quiet, flags.as_json)


def load_libraries(quiet: bool) -> None:
    """Import what runs need, torch and transformers among it, with a line where that takes longer than two seconds."""
    from zotune.cli.terminal import Terminal

    with Terminal(quiet or os.environ.get("RANK", "0") != "0") as terminal:  # the first of several processes says it
        terminal(Phase("loading torch and transformers", brief=True))
        import zotune.runs.fit  # noqa: F401


def run(cfg: config.RunConfig, resume: str | None, force: bool, quiet: bool, as_json: bool) -> None:
    """Run to the end of the budget and show the result. Exits with 130 or 143 where a signal stopped it."""
    from zotune.cli.result_lines import report_line, result_lines
    from zotune.cli.stop_signals import StopSignals
    from zotune.cli.terminal import Terminal
    from zotune.distributed import follows, launched
    from zotune.runs import fit as runs
    from zotune.runs.run_directory import REPORT

    terminal = Terminal(quiet)
    signals = StopSignals(terminal, launched() > 1)
    try:
        with signals as stop:
            result = runs.fit(cfg, emit=terminal, stop=stop, resume=resume, force=force)
    finally:
        terminal.close()
    if not follows():
        for text, style in result_lines(cfg.objective_name, result):
            terminal.say(text, style)
        if result.folder and (page := result.folder / REPORT).is_file():
            terminal.say(report_line(page))
        if as_json:
            print(json.dumps(result.json(), indent=1))
    if result.reason == "interrupted":
        raise SystemExit(signals.code or 130)


def estimate(cfg: config.RunConfig, flags: FitFlags) -> None:
    """Show what a run would take, without tuning."""
    from zotune.cli.result_lines import estimate_lines
    from zotune.cli.terminal import Terminal
    from zotune.runs.estimate import estimate as estimated

    terminal = Terminal(flags.quiet)
    try:
        report = estimated(cfg, terminal)
        for line in estimate_lines(report):
            terminal.say(line)
    finally:
        terminal.close()
    if flags.as_json:
        print(json.dumps(report, indent=1))


COMMAND = command("fit", fit, FitFlags, config.run_options())

__all__ = ["COMMAND", "load_libraries", "run"]
