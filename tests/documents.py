"""Reads the documents of a checkout: fenced blocks, inline code, links, headings and command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Command:
    """A command line of a document. words: from the program on; whole: from a block, so no argument is left out."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the fenced blocks in a language."""
    return [text for kind, text in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    """Inline code, on one line each."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!\\)`([^`]+)(?<!\\)`", prose(page))]


def links(page: Path) -> list[str]:
    return _LINK.findall(re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives to the headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(page: Path) -> Iterator[Command]:
    """All command lines of a page: lines of blocks, and inline code that begins with a program."""
    lines = [(line, True) for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [(code, False) for code in inline(page) if re.match(r"(ZOTUNE_\w+=\d+ )?(zotune|python|make|bash) ", code)]
    for line, whole in lines:
        words = shlex.split(line.replace("…", "").replace("\\|", "|"), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words:
            yield Command(name(page), tuple(words), whole)
