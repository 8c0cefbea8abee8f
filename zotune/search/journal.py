"""The append-only record of every float that the weights depend on.

One JSON object a line: a header, `init`, then `step` and `eval` lines in order, `end` and what was `kept` last; a run
that is given a larger budget goes on after these. Each line carries a checksum chained over all lines before it, so an
edited, reordered or foreign line is found and named. A line is handed to the operating system before the weights it
leads to are written. A torn last line (a kill in the middle of a write) is dropped when the journal is opened. Replay
reads the same lines through the same code that wrote them.

This module knows nothing of models or optimizers; it stores what it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from zotune.errors import RunFolderError, ZotuneError
from zotune.files import RESUME

FORMAT = 2
MARK = 6
"""Bytes of a checksum."""
Share = Callable[[Any], Any]
"""What several processes that write the same journal make of one's JSON value: the first one's."""
NOTES = frozenset({"kept", "override"})
"""Kinds of lines that say something of the run and lead to no weights: a replay passes over them."""


class Lines(Sequence[dict[str, Any]]):
    """Bodies of lines, kept as they are written and read when they are asked for: a step of 130 bytes takes 180 so, and
    more than a thousand as Python's dictionaries."""

    def __init__(self, bodies: Iterable[Mapping[str, Any]] = ()) -> None:
        self.texts = [_dump(body).encode("utf-8", "surrogatepass") for body in bodies]

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> Lines: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | Lines:
        if isinstance(place, int):
            body: dict[str, Any] = json.loads(self.texts[place])
            return body
        part = Lines()
        part.texts = self.texts[place]
        return part

    def __eq__(self, other: object) -> bool:
        return self.texts == other.texts if isinstance(other, Lines) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it grows


class Journal:
    """Lines recorded so far, and a cursor: `take` hands out recorded lines until none is left, then `append` writes.

    path: where the lines go, or None to keep them in memory only. torn: bytes of a torn last line that were dropped.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines = Lines()
        self.cursor = 0
        self.torn = 0
        self.share: Share = _own
        self._header: dict[str, Any] = {}
        self._marks = bytearray()
        self._file: Any = None

    @classmethod
    def create(cls, path: Path | None, header: Mapping[str, Any]) -> Journal:
        """A new journal that starts with this header. Raises RunFolderError where the file exists."""
        journal = cls(path)
        if path is not None:
            try:
                journal._file = open(path, "xb", buffering=0)  # noqa: SIM115 - lives as long as the journal
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
        valid = 0
        for number, text in enumerate(raw.split(b"\n")[:-1], 1):
            if not journal._admit(text):
                if number > 1 and b"\0" in text and valid + len(text) + 1 == len(raw):
                    break  # the last line, with a hole: the power went before all of it was on the disk
                raise RunFolderError(f"{path}, line {number}: damaged, edited or not from this run")
            valid += len(text) + 1
        if not journal.lines or journal.lines[0]["kind"] != "header":
            raise RunFolderError(f"{path}, line 1: no journal header")
        if journal.header.get("format") != FORMAT:
            raise RunFolderError(
                f"{path}: journal format {journal.header.get('format')!r}, this version reads {FORMAT}"
            )
        journal.torn = len(raw) - valid
        if not read_only:
            if journal.torn:
                os.truncate(path, valid)
            journal._file = open(path, "ab", buffering=0)  # noqa: SIM115
        journal.seek(1)
        return journal

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]], cursor: int = 1) -> Journal:
        """These lines, in memory, with the cursor there: such as another process keeps."""
        journal = cls()
        journal.lines = lines[:] if isinstance(lines, Lines) else Lines(lines)
        journal.seek(cursor)
        return journal

    def again(self) -> Journal:
        """The same lines in memory, with the cursor after the header: for a replay beside the run."""
        other = Journal.of(self.lines)
        other._marks = self._marks[:]
        return other

    def _admit(self, text: bytes) -> bool:
        try:
            line = json.loads(text)
            body = _dump(line["body"]).encode("utf-8", "surrogatepass")
            mark = _chained(self.mark(len(self.lines)), body)
            if mark.hex() != line["sum"] or not isinstance(line["body"]["kind"], str):
                return False
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        self.lines.texts.append(body)
        self._marks += mark
        return True

    def mark(self, count: int) -> str:
        """The checksum of the first `count` lines, chained from line to line."""
        for text in self.lines.texts[len(self._marks) // MARK : count]:
            self._marks += _chained(self._marks[-MARK:].hex(), text)
        return self._marks[max(count - 1, 0) * MARK : count * MARK].hex()

    @property
    def header(self) -> dict[str, Any]:
        self._header = self._header or self.lines[0]
        return self._header

    @property
    def replaying(self) -> bool:
        return self.cursor < len(self.lines)

    @property
    def next(self) -> str:
        """The kind of the line that is to be taken; nothing where none is left."""
        return str(self.lines[self.cursor]["kind"]) if self.replaying else ""

    def seek(self, cursor: int) -> None:
        """Go to the line with this index, or past the notes that stand there."""
        while cursor < len(self.lines) and self.lines[cursor]["kind"] in NOTES:
            cursor += 1
        self.cursor = cursor

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
        self.seek(self.cursor + 1)
        return line

    def first(self, kind: str) -> dict[str, Any]:
        """The first line of a kind that every run has."""
        return next(line for line in self.lines if line["kind"] == kind)

    def tape(self, recorded: list[list[Any]] | None = None) -> Tape:
        """A step's tape, shared as the lines are."""
        return Tape(recorded, self.share)

    def append(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write one line, hand it to the operating system and return it: as it is shared. Raises ZotuneError where it
        cannot be written whole, with nothing of it left."""
        text = _dump(self.share(body)).encode("utf-8", "surrogatepass")
        mark = _chained(self.mark(len(self.lines)), text)
        if self._file is not None:
            self._write(b'{"body":%b,"sum":"%b"}\n' % (text, mark.hex().encode()))
        self.lines.texts.append(text)
        self._marks += mark
        self.cursor = len(self.lines)
        return self.lines[-1]

    def add(self, body: Mapping[str, Any]) -> None:
        """Write a line that is still to be taken, after those that are."""
        cursor = self.cursor
        self.append(body)
        self.seek(cursor)

    def _write(self, line: bytes) -> None:
        self._check()
        size = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), size)
            raise ZotuneError(f"{self.path} cannot be written: {error.strerror}", hint=RESUME) from None

    def _check(self) -> None:
        """Raises ZotuneError where the file was deleted while it is open: what is written would be lost."""
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise ZotuneError(f"{self.path} was deleted while the run was writing it", hint="the run cannot go on")

    def sync(self) -> None:
        """Force the lines to the disk (before a checkpoint refers to them)."""
        if self._file is not None:
            self._check()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _own(value: Any) -> Any:
    return value


def has_header(path: Path) -> bool:
    """Whether a journal has a whole header; without one nothing was done that could go on."""
    try:
        with path.open("rb") as file:
            return file.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


def _chained(mark: str, text: bytes) -> bytes:
    return hashlib.blake2b(mark.encode() + text, digest_size=MARK).digest()


def _dump(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Tape:
    """The numbers of one step, in the order in which the step asks for them: computed and kept, or read back."""

    def __init__(self, recorded: list[list[Any]] | None = None, share: Share | None = None) -> None:
        self.recorded, self._share = recorded, share or _own
        self.entries: list[list[Any]] = []

    def take(self, kind: str, compute: Callable[[], Any]) -> Any:
        """The next number(s): read back where recorded, else computed and kept. JSON values only."""
        if self.recorded is None:
            value = self._share(compute())
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
