"""Write docs/command-line.md from the option records of the commands: python scripts/command_line_page.py [--print]."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zotune.cli import help_page
from zotune.cli.app import app
from zotune.cli.command import RecordCommand, RecordGroup

PAGE = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"
BEGINNING = """# The command line

Generated from the option records by `python scripts/command_line_page.py`; do not edit.

A key of a `--config` file and an argument of `zotune.fit` have the name of the flag, with `_` for `-` and without the
leading `--`; `--column`, `--objective-arg` and `--optimizer-arg` are the mappings `columns`, `objective_args` and
`optimizer_args`. Flags override the file, and the file overrides the defaults, which stand in brackets. A flag
`--[no-]x` is `--x` or `--no-x`. Exit codes: 0 done, 1 failed, 2 refused before training, 3 the objective failed too
often, 130 interrupted by Ctrl-C after a checkpoint, 143 by SIGTERM. With `ZOTUNE_DEBUG=1` errors show their traceback.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [BEGINNING]
    for name, command in app.commands.items():
        parts += sections(f"zotune {name}", command)
    return "\n".join(parts).rstrip("\n") + "\n"


def sections(path: str, command: click.Command) -> list[str]:
    """The section of a command, and those of the commands in it."""
    assert isinstance(command, RecordCommand | RecordGroup)
    inner = command.commands if isinstance(command, RecordGroup) else {}
    return [help_page.markdown(command.page(path)), *(s for n, c in inner.items() for s in sections(f"{path} {n}", c))]


if __name__ == "__main__":
    if "--print" in sys.argv[1:]:
        print(page(), end="")
    else:
        PAGE.write_text(page(), encoding="utf-8")
