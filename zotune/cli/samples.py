"""The same few prompts with the base model's answers and the present ones, as a table or as plain lines.

Knows examples and widths; prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from zotune.events import Example
from zotune.text import one_line

LINES: Final = 2
"""Lines of a cell at most."""
PADDING: Final = 2
WIDTH: Final = 100
"""Characters of a plain line."""
NARROWEST: Final = 12


def sample_table(base: Sequence[Example], now: Sequence[Example], title: str, width: int) -> Table:
    """A table with a row for each prompt. title: of the column of present answers; width: characters of a line."""
    referenced = any(example.reference for example in now)
    titles = ["prompt", *(["reference"] if referenced else []), "base model", title]
    each = max(width // len(titles) - PADDING, NARROWEST)
    table = Table(box=None, pad_edge=False, padding=(0, PADDING, 0, 0))
    for name in titles:
        table.add_column(name, style="dim" if name == "prompt" else "", max_width=each, overflow="fold")
    for old, new in zip(base, now, strict=True):
        cells = [_end(new.prompt, LINES * each), *([_start(new.reference, LINES * each)] if referenced else [])]
        cells += [_start(answer, LINES * each) for answer in (old.completion, new.completion)]
        table.add_row(*map(Text, cells))
    return table


def sample_lines(base: Sequence[Example], now: Sequence[Example] | None, title: str) -> list[str]:
    """Plain lines: a prompt, the base model's answer and, where there is one, the present one."""
    lines = []
    width = max(len(title), len("base model")) + 2
    for i, old in enumerate(base):
        lines.append(f"  {'prompt':<{width}}{_end(old.prompt, WIDTH)}")
        lines.append(f"  {'base model':<{width}}{_start(old.completion, WIDTH)}")
        if now is not None:
            lines.append(f"  {title:<{width}}{_start(now[i].completion, WIDTH)}")
    return lines


def _start(text: str, most: int) -> str:
    return one_line(text, most)


def _end(text: str, most: int) -> str:
    """The end of a text: prompts often begin alike."""
    line = one_line(text, max(len(text) * 10, most))
    return line if len(line) <= most else "…" + line[len(line) - most + 1 :]


__all__ = ["sample_lines", "sample_table"]
