"""Help pages: one structure, shown as plain text, as panels on a terminal, or as Markdown.

Knows option records; knows no particular command.
"""

from __future__ import annotations

import io
import re
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from zotune.options import Option

MAIN = "Main options"
WIDEST = 120
"""Columns beyond which lines are hard to read."""
NAMES_WIDTH = 30
"""Columns of the names; longer names get a line of their own."""


@dataclass(frozen=True)
class Panel:
    """A titled list. rows: (names, text)."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """The help of a command. usage: without the word Usage; about: paragraphs apart by an empty line."""

    usage: str
    about: str
    panels: Sequence[Panel]


def panels(records: Sequence[Option]) -> list[Panel]:
    """The main options, then the others by group, in the order of the records."""
    flags = [o for o in records if not o.positional]
    main = sorted((o for o in flags if o.first), key=lambda o: o.first)
    titles = dict.fromkeys(o.group for o in flags if not o.first)
    arguments = [o for o in records if o.positional]
    listed = [("Arguments", arguments), (MAIN, main)]
    listed += [(title, [o for o in flags if o.group == title and not o.first]) for title in titles]
    return [Panel(title, [(names(o), text(o)) for o in options]) for title, options in listed if options]


def names(o: Option) -> str:
    """The visible names and what stands for the value: `-m, --model TEXT`."""
    if o.positional:
        return o.metavar
    short = [flag for flag in o.flags if not flag.startswith("--")]
    long = [flag for flag in o.flags if flag.startswith("--")]
    if o.switch and o.default is not False:
        long[0] = f"--[no-]{long[0][2:]}"
    return f"{', '.join([*short, *long])} {metavar(o)}".rstrip()


def metavar(o: Option) -> str:
    """What stands for the value of a flag."""
    if o.metavar or o.switch:
        return o.metavar
    if o.choices:
        return "|".join(o.choices)
    kinds = (o.type, *typing.get_args(o.type))
    literals = [str(a) for kind in kinds if typing.get_origin(kind) is typing.Literal for a in typing.get_args(kind)]
    name = "INT" if int in kinds else "FLOAT" if float in kinds else "TEXT"
    return "|".join([name, *literals])


def text(o: Option) -> str:
    """The help with the default."""
    return f"{o.help} [{o.default_text}]" if o.default_text else o.help


def plain(page: Page, width: int) -> str:
    """The page as text of at most `width` columns."""
    lines = [f"Usage: {page.usage}"]
    for paragraph in filter(None, page.about.split("\n\n")):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), width)]
    for panel in page.panels:
        lines += ["", panel.title]
        column = min(max(len(name) for name, _ in panel.rows), NAMES_WIDTH) + 4
        for name, about in panel.rows:
            wrapped = textwrap.wrap(" ".join(about.split()), width - column, break_on_hyphens=False) or [""]
            if len(name) + 4 > column:
                lines.append(f"  {name}")
                name = ""
            lines.append(f"  {name:<{column - 2}}{wrapped[0]}".rstrip())
            lines += [" " * column + line for line in wrapped[1:]]
    return "\n".join(lines)


def boxed(page: Page, width: int) -> str:
    """The page with a panel for each list, in the colours of the terminal."""
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.panel import Panel as Box
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, highlight=False)
    console.print(Text.assemble(("Usage: ", "bold"), page.usage))
    for paragraph in filter(None, page.about.split("\n\n")):
        console.print(Padding(Text(" ".join(paragraph.split())), (1, 0, 0, 0)))
    console.print()
    for panel in page.panels:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", max_width=NAMES_WIDTH)
        table.add_column()
        for name, about in panel.rows:
            table.add_row(Text(name), Text(" ".join(about.split())))
        console.print(Box(Group(table), title=Text(panel.title), title_align="left", border_style="dim"))
    return out.getvalue().rstrip("\n")


def markdown(page: Page, level: int = 2) -> str:
    """The page as Markdown, with a table for each panel."""
    path = page.usage.partition(" [")[0].partition(" COMMAND")[0]
    lines = [f"{'#' * level} {path}", "", "```", page.usage, "```", ""]
    for paragraph in filter(None, page.about.split("\n\n")):
        lines += [_escaped(" ".join(paragraph.split())), ""]
    for panel in page.panels:
        lines += [f"| {panel.title} | |", "|---|---|"]
        for name, about in panel.rows:
            shown = name.replace("|", "\\|")
            lines.append(f"| `{shown}` | {_escaped(' '.join(about.split()))} |")
        lines.append("")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text in Markdown, in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


__all__ = ["Page", "Panel", "boxed", "markdown", "panels", "plain"]
