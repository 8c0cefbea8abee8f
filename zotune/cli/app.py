"""The command line: the commands, and errors in one line. Each command imports what it needs when it runs.

`zotune --help` and `zotune plugins` import neither torch nor transformers. Text for people goes to standard error,
results and `--json` to standard output. Exit codes: 0 done, 1 failed, 2 refused before training, 3 the objective failed
too often, 130 interrupted by Ctrl-C after a checkpoint, 143 by SIGTERM.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from zotune.cli import (
    bench_command,
    chat_command,
    check_command,
    compare_command,
    env_command,
    eval_command,
    export_command,
    fit_command,
    ls_command,
    new_command,
    plugins_command,
    push_command,
    rate_command,
    replay_command,
    report_command,
    resume_command,
    verify_command,
    watch_command,
)
from zotune.cli.command import RecordGroup, usage_error
from zotune.errors import ZotuneError
from zotune.options import option
from zotune.text import one_line
from zotune.version import __version__

PANELS = {
    "Tune": [fit_command, resume_command, replay_command, verify_command, export_command, push_command],
    "Score and compare": [eval_command, chat_command, check_command, compare_command, rate_command, bench_command],
    "Look at runs": [report_command, watch_command],
    "Plugins and information": [plugins_command, new_command, ls_command, env_command],
}


@dataclass(frozen=True)
class TopFlags:
    """What `zotune` takes without a command."""

    version: bool = option(False, "Print the version.")


class Application(RecordGroup):
    """All commands. Usage errors are ZotuneErrors of one line."""

    def main(  # type: ignore[override]  # the program's name is fixed
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True
    ) -> int:
        """Run a command line; with `standalone_mode`, exit at its end."""
        code = 0
        try:
            with self.make_context("zotune", list(sys.argv[1:] if args is None else args)) as context:
                self.invoke(context)
        except click.exceptions.Exit as exit_:
            code = exit_.exit_code
        except click.UsageError as error:
            raise usage_error(error) from None
        if standalone_mode:
            sys.exit(code)
        return code


def top(flags: TopFlags) -> None:
    """Tune a local model's weights for any scalar that you can compute, with forward passes only."""
    if flags.version:
        print(f"zotune {__version__}")
    else:
        print(app.get_help(click.get_current_context()))


app = Application(
    "zotune",
    top.__doc__ or "",
    {title: [module.COMMAND for module in modules] for title, modules in PANELS.items()},
    run=top,
    flags=TopFlags,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every ZotuneError becomes one line and its exit code."""
    debug = os.environ.get("ZOTUNE_DEBUG", "") not in ("", "0")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows another one
            stream.reconfigure(errors="zotune")
    try:
        app(arguments, standalone_mode=True)
    except ZotuneError as error:
        if debug:
            raise
        if not error.told:
            _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        _complain("interrupted; zotune resume continues a run that has begun")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        from zotune.tasks.forward import out_of_memory

        if debug or not out_of_memory(error):
            raise
        _complain(
            f"out of memory: {str(error)[:200]} (try a smaller model, --dtype bfloat16 or a smaller --max-length)"
        )
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        _complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        sys.exit(1)


def _complain(text: str) -> None:
    print("zotune: " + one_line(text), file=sys.stderr)


__all__ = ["app", "main"]
