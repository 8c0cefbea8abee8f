"""Flags that several commands have, as fields for their dataclasses. Knows no command."""

from __future__ import annotations

from typing import Any

from zotune.options import argument, option


def json_flag(help: str = "Print JSON on standard output.") -> Any:
    """`--json`."""
    return option(False, help, "--json", group="Output")


def quiet_flag() -> Any:
    """`--quiet`."""
    return option(False, "Print no progress.", "--quiet", "-q", group="Output")


def force_flag() -> Any:
    """`--force` of a resumed run."""
    return option(False, "Resume even with other versions, data or scoring; the journal records it.", group="Output")


def run_argument(help: str = "Run directory.") -> Any:
    """The run directory as an argument."""
    return argument(help, "RUN")


def output_flag(help: str, shown: str) -> Any:
    """`--output`: the file that is written."""
    return option(None, help, "--output", "-o", first=1, metavar="FILE", shown=shown)


def terminal_flag() -> Any:
    """`--terminal`: questions in the terminal."""
    return option(False, "Ask in the terminal instead of on a page.", group="Questions")


def port_flag(group: str = "Questions") -> Any:
    """`--port` of the page."""
    return option(0, "Port of the page on this computer. 0: a free one.", least=0, most=65535, group=group)


def open_flag(group: str = "Questions") -> Any:
    """`--open` and `--no-open`."""
    return option(None, "Open the page in the browser.", "--open", shown="no", group=group)


__all__ = [
    "force_flag",
    "json_flag",
    "open_flag",
    "output_flag",
    "port_flag",
    "quiet_flag",
    "run_argument",
    "terminal_flag",
]
