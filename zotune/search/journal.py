"""The journal: an append-only record of every number that the weights depend on.

One JSON object a line: a header, `init`, then `step` and `eval` lines in order, and last `end` and `kept`. A run
that is resumed with a larger budget appends after these. Each line carries a checksum chained over all lines before it,
so an edited, reordered or foreign line is detected and reported. A line is handed to the operating system before the
weights that follow from it are written. A torn last line (the process was killed during a write) is dropped when the
journal is opened. A replay reads the lines through the same code that wrote them.

Knows JSON values and files; knows no model and no optimizer.
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
CHECKSUM_BYTES = 6
"""Bytes of a line's checksum."""
Share = Callable[[Any], Any]
"""Exchanges a JSON value among the processes that write the same journal: all get that of process 0."""
NOTES = frozenset({"kept", "override"})
"""Kinds of lines that describe the run and lead to no weights: a replay skips them."""


class Lines(Sequence[dict[str, Any]]):
    """The bodies of lines, kept as JSON and parsed when they are read: a step of 130 bytes takes 180 bytes this way,
    and more than a thousand as Python dictionaries."""

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
    """The recorded lines and a cursor. `take` returns recorded lines until none is left; then `append` writes new ones.

    path: the file, or None for a journal in memory. torn: bytes of a torn last line that were dropped. share: exchanges
    lines with the other processes of a run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines = Lines()
        self.cursor = 0
        self.torn = 0
        self.share: Share = _unshared
        self._header: dict[str, Any] = {}
        self._parsed: tuple[int, dict[str, Any]] = -1, {}
        self._checksums = bytearray()
        self._file: Any = None

    @classmethod
    def create(cls, path: Path | None, header: Mapping[str, Any]) -> Journal:
        """A new journal that begins with this header. Raises RunFolderError where the file exists."""
        journal = cls(path)
        if path is not None:
            try:
                journal._file = open(path, "xb", buffering=0)  # noqa: SIM115 - open as long as the journal
            except FileExistsError:
                raise RunFolderError(f"{path} exists already") from None
        journal.append({"kind": "header", "format": FORMAT, **header})
        return journal

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """An existing journal, with the cursor after its header. Raises RunFolderError with the line number."""
        journal = cls(path)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise RunFolderError(f"{path} does not exist", hint="is this a run folder?") from None
        valid = 0
        for number, text in enumerate(raw.split(b"\n")[:-1], 1):
            if not journal._admit(text):
                if number > 1 and b"\0" in text and valid + len(text) + 1 == len(raw):
                    break  # the last line has a hole: the power failed before all of it was on the disk
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
        """A journal in memory with these lines, such as those of another process, and this cursor."""
        journal = cls()
        journal.lines = lines[:] if isinstance(lines, Lines) else Lines(lines)
        journal.seek(cursor)
        return journal

    def copy(self) -> Journal:
        """A journal in memory with the same lines and the cursor after the header, for a replay beside the run."""
        other = Journal.of(self.lines)
        other._checksums = self._checksums[:]
        return other

    def _admit(self, text: bytes) -> bool:
        try:
            line = json.loads(text)
            body = _dump(line["body"]).encode("utf-8", "surrogatepass")
            checksum = _chained(self.checksum(len(self.lines)), body)
            if checksum.hex() != line["sum"] or not isinstance(line["body"]["kind"], str):
                return False
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        self.lines.texts.append(body)
        self._checksums += checksum
        return True

    def checksum(self, count: int) -> str:
        """The checksum of the first `count` lines."""
        for text in self.lines.texts[len(self._checksums) // CHECKSUM_BYTES : count]:
            self._checksums += _chained(self._checksums[-CHECKSUM_BYTES:].hex(), text)
        return self._checksums[max(count - 1, 0) * CHECKSUM_BYTES : count * CHECKSUM_BYTES].hex()

    @property
    def header(self) -> dict[str, Any]:
        self._header = self._header or self.lines[0]
        return self._header

    @property
    def replaying(self) -> bool:
        """Whether recorded lines are left."""
        return self.cursor < len(self.lines)

    @property
    def next(self) -> str:
        """The kind of the next recorded line; "" where none is left."""
        return str(self._line(self.cursor)["kind"]) if self.replaying else ""

    def _line(self, index: int) -> dict[str, Any]:
        if self._parsed[0] != index:
            self._parsed = index, self.lines[index]
        return self._parsed[1]

    def seek(self, cursor: int) -> None:
        """Move the cursor to the line with this index, or behind the notes that stand there."""
        while cursor < len(self.lines) and self._line(cursor)["kind"] in NOTES:
            cursor += 1
        self.cursor = cursor

    def peek(self, kind: str) -> dict[str, Any] | None:
        """The next recorded line, or None where none is left. Raises RunFolderError where it is of another kind."""
        if not self.replaying:
            return None
        line = self._line(self.cursor)
        if line.get("kind") != kind:
            raise RunFolderError(
                f"{self.path or 'journal'}, line {self.cursor + 1}: expected {kind!r}, found {line.get('kind')!r}",
                hint="the run was made with other options or another version",
            )
        return line

    def take(self, kind: str) -> dict[str, Any] | None:
        """As `peek`, and move the cursor behind the line."""
        line = self.peek(kind)
        if line is not None:
            self.seek(self.cursor + 1)
        return line

    def take_or_append(self, kind: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The next recorded line; where none is left, a new line with what `compute` returns."""
        line = self.take(kind)
        return self.append({"kind": kind, **compute()}) if line is None else line

    def first(self, kind: str) -> dict[str, Any]:
        """The first line of a kind that every run has."""
        return next(line for line in self.lines if line["kind"] == kind)

    def next_tape(self, kind: str) -> Tape:
        """The tape of the next line: with its recorded entries, or empty where no line is left."""
        recorded = self.peek(kind)
        return Tape(recorded["tape"] if recorded else None, self.share)

    def append(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write one line, hand it to the operating system, and return it as all processes share it.

        Raises ZotuneError where it cannot be written whole; no part of it is left then.
        """
        text = _dump(self.share(body)).encode("utf-8", "surrogatepass")
        checksum = _chained(self.checksum(len(self.lines)), text)
        if self._file is not None:
            self._write(b'{"body":%b,"sum":"%b"}\n' % (text, checksum.hex().encode()))
        self.lines.texts.append(text)
        self._checksums += checksum
        self.cursor = len(self.lines)
        return self.lines[-1]

    def append_unread(self, body: Mapping[str, Any]) -> None:
        """Write one line and leave the cursor, so that a replay takes the line after the recorded ones."""
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
        """Raise ZotuneError where the open file was deleted: new lines would be lost."""
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise ZotuneError(
                f"{self.path} was deleted while the run was writing it", hint="the run cannot be continued"
            )

    def sync(self) -> None:
        """Force the lines to the disk, before a checkpoint refers to them."""
        if self._file is not None:
            self._check()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _unshared(value: Any) -> Any:
    return value


def has_header(path: Path) -> bool:
    """Whether a journal has a complete header; without one there is nothing to resume."""
    try:
        with path.open("rb") as file:
            return file.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


def _chained(checksum: str, text: bytes) -> bytes:
    return hashlib.blake2b(checksum.encode() + text, digest_size=CHECKSUM_BYTES).digest()


def _dump(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Tape:
    """The numbers of one step, in the order in which the step asks for them: computed and recorded, or read back.

    recorded: the entries of a recorded step; None: record. entries: (kind, value) pairs so far.
    """

    def __init__(self, recorded: list[list[Any]] | None = None, share: Share | None = None) -> None:
        self.recorded, self._share = recorded, share or _unshared
        self.entries: list[list[Any]] = []

    def take(self, kind: str, compute: Callable[[], Any]) -> Any:
        """The next value, a JSON value: read back where recorded, else computed and recorded.

        Raises RunFolderError where the recorded step asked for something else.
        """
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
