"""The append-only record of every float that the weights depend on.

One JSON object a line: a header, `init`, then `step` and `eval` lines in order, `end` last. Each line carries a
checksum
chained over all lines before it, so an edited, reordered or foreign line is found and named. A line is flushed before
the weights it leads to are written. A torn last line (a kill in the middle of a write) is dropped when the journal is
opened. Replay reads the same lines through the same code that wrote them.

This module knows nothing of models or optimizers; it stores what it is given.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zotune.errors import RunFolderError

FORMAT = 1


class Journal:
    """Lines recorded so far, and a cursor: `take` hands out recorded lines until none is left, then `append` writes.

    path: where the lines go, or None to keep them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.cursor = 0
        self._chain = ""
        self._file: Any = None

    @classmethod
    def create(cls, path: Path | None, header: Mapping[str, Any]) -> Journal:
        """A new journal that starts with this header. Raises RunFolderError where the file exists."""
        journal = cls(path)
        if path is not None:
            try:
                journal._file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - lives as long as the journal
            except FileExistsError:
                raise RunFolderError(f"{path} exists already") from None
        journal.append({"kind": "header", "format": FORMAT, **header})
        return journal

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """An existing journal with the cursor after its header. Raises RunFolderError with the line number."""
        journal = cls(path)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise RunFolderError(f"{path} does not exist", hint="is this a run folder?") from None
        whole, valid = raw.split(b"\n"), 0
        for number, text in enumerate(whole[:-1], 1):
            if not journal._admit(text):
                if number == len(whole) - 1 and not whole[-1] and number > 1:
                    break  # the last line is damaged: treat it as torn
                raise RunFolderError(f"{path}, line {number}: damaged, edited or not from this run")
            valid += len(text) + 1
        if not journal.lines or journal.lines[0].get("kind") != "header":
            raise RunFolderError(f"{path}, line 1: no journal header")
        if journal.lines[0].get("format") != FORMAT:
            raise RunFolderError(
                f"{path}: journal format {journal.lines[0].get('format')!r}, this version reads {FORMAT}"
            )
        if not read_only:
            if valid < len(raw):
                os.truncate(path, valid)
            journal._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        journal.cursor = 1
        return journal

    def _admit(self, text: bytes) -> bool:
        try:
            line = json.loads(text)
            body, mark = line["body"], line["sum"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        if mark != self._sum(_dump(body)) or not isinstance(body, dict):
            return False
        self._chain = mark
        self.lines.append(body)
        return True

    def _sum(self, text: str) -> str:
        return hashlib.blake2b((self._chain + text).encode(), digest_size=6).hexdigest()

    @property
    def header(self) -> dict[str, Any]:
        return self.lines[0]

    @property
    def replaying(self) -> bool:
        return self.cursor < len(self.lines)

    def take(self, kind: str) -> dict[str, Any] | None:
        """The next recorded line, or None when all are used. Raises RunFolderError where it is of another kind."""
        if not self.replaying:
            return None
        line = self.lines[self.cursor]
        if line.get("kind") != kind:
            raise RunFolderError(
                f"{self.path or 'journal'}, line {self.cursor + 1}: expected {kind!r}, found {line.get('kind')!r}",
                hint="the run was made with other options or another version",
            )
        self.cursor += 1
        return line

    def append(self, body: Mapping[str, Any]) -> None:
        """Write one line and flush it to the operating system."""
        text = _dump(body)
        self._chain = self._sum(text)
        if self._file is not None:
            self._file.write(f'{{"body":{text},"sum":"{self._chain}"}}\n')
            self._file.flush()
        self.lines.append(json.loads(text))
        self.cursor = len(self.lines)

    def sync(self) -> None:
        """Force the lines to the disk (before a checkpoint refers to them)."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _dump(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Tape:
    """The numbers of one step, in the order in which the step asks for them: computed and kept, or read back."""

    def __init__(self, recorded: list[list[Any]] | None = None) -> None:
        self.recorded = recorded
        self.entries: list[list[Any]] = []

    def take(self, kind: str, compute: Callable[[], Any]) -> Any:
        """The next number(s): read back where recorded, else computed and kept. JSON values only."""
        if self.recorded is None:
            value = compute()
        else:
            place = len(self.entries)
            if place >= len(self.recorded) or len(self.recorded[place]) != 2 or self.recorded[place][0] != kind:
                raise RunFolderError(
                    "the journal does not hold what this optimizer asks for",
                    hint="the run was made with other options or another version",
                )
            value = self.recorded[place][1]
        self.entries.append([kind, value])
        return value
