"""The journal: lines are read back or appended; damaged, foreign and torn lines, a full disk and a deleted file."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from zotune.errors import RunFolderError, ZotuneError
from zotune.search.journal import Journal


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "evals": 2 * number + 2, "tape": [["values", [0.1 * number, 2.0]]]}


def written(path: Path, steps: int = 3) -> bytes:
    journal = Journal.create(path, {"seed": 1})
    for number in range(steps):
        journal.append(step(number))
    journal.close()
    return path.read_bytes()


def test_a_changed_byte_of_a_journal_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    for place in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunFolderError, match=rf"line {whole[:place].count(bytes([10])) + 1}: ") as error:
            Journal.open(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[" * 100_000,
        b'{"body":{"kind":"step"},"sum":"0"}',
        b'{"body":{"kind":"step","x":NaN},"sum":"0"}',
        b'{"body":[],"sum":"0"}',
        b'{"body":{"kind":"step","x":1e999},"sum":"0"}',
        b"\xff\xfe",
        b'"sum"',
    ],
)
def test_foreign_lines_are_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(written(path) + line + b"\n")
    with pytest.raises(RunFolderError, match="line 5: damaged, edited or not from this run"):
        Journal.open(path)
    path.write_bytes(line + b"\n")
    with pytest.raises(RunFolderError, match="line 1"):
        Journal.open(path)


def test_a_last_line_with_zero_bytes_counts_as_torn(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    start = whole[:-1].rfind(b"\n") + 1
    path.write_bytes(whole[:start] + b"\0" * (len(whole) - start - 1) + b"\n")
    journal = Journal.open(path)
    assert (len(journal.lines), journal.torn) == (3, len(whole) - start)
    journal.append(step(2))
    journal.close()
    assert path.read_bytes() == whole


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def fileno(self) -> int:
        return int(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self.file.write(data[: self.room])
        self.room -= count
        return int(count)


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = written(path)
    size = len(whole.splitlines()[-1])
    for room in range(0, size, 9):
        journal = Journal.open(path)
        journal._file = Full(journal._file, room)
        with pytest.raises(ZotuneError, match=r"j.jsonl cannot be written: No space left on device .*zotune resume"):
            journal.append(step(3))
        assert len(journal.lines) == 4
        journal.close()
        assert path.read_bytes() == whole


def test_writing_to_a_deleted_journal_fails(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "j.jsonl", {})
    (tmp_path / "j.jsonl").unlink()
    for write in (lambda: journal.append(step(0)), journal.sync):
        with pytest.raises(ZotuneError, match="was deleted while the run was writing it"):
            write()
    journal.close()


def test_lines_with_broken_text_are_kept(tmp_path: Path) -> None:
    """The message of an objective's error may hold a surrogate."""
    path = tmp_path / "j.jsonl"
    journal = Journal.create(path, {})
    journal.append({"kind": "step", "step": 0, "dropped": "half \ud83d and µ"})
    journal.close()
    assert Journal.open(path, read_only=True).lines[1]["dropped"] == "half \ud83d and µ"


def test_unknown_kinds_of_lines_and_notes(tmp_path: Path) -> None:
    journal = Journal.create(None, {})
    journal.append(step(0))
    journal.append({"kind": "kept", "step": 0})
    journal.append({"kind": "later"})
    again = journal.copy()
    assert [again.take(kind) is not None for kind in ("step", "later")] == [True, True]
    assert not again.replaying
    again = journal.copy()
    again.append_unread({"kind": "override"})
    assert again.next == "step"
    with pytest.raises(RunFolderError, match="line 2: expected 'eval', found 'step'"):
        again.take("eval")


def never() -> Mapping[str, Any]:
    raise AssertionError("a recorded line is not computed again")


def test_a_line_is_computed_once_and_read_back_afterwards() -> None:
    journal = Journal.create(None, {"seed": 0})
    assert journal.take_or_append("step", lambda: {"step": 0}) == {"kind": "step", "step": 0}
    again = journal.copy()
    assert again.replaying
    assert again.next == "step"
    assert again.peek("step") == again.peek("step") == {"kind": "step", "step": 0}
    assert again.take_or_append("step", never) == {"kind": "step", "step": 0}
    assert not again.replaying
    assert again.peek("step") is None


def test_a_line_of_another_kind_is_an_error_with_its_number() -> None:
    journal = Journal.create(None, {})
    journal.append({"kind": "step", "step": 0})
    again = journal.copy()
    for read in (again.peek, again.take, again.next_tape):
        with pytest.raises(RunFolderError, match="line 2: expected 'eval', found 'step'"):
            read("eval")
    assert again.next == "step"


def test_the_next_tape_reads_what_is_recorded_and_records_after_that() -> None:
    journal = Journal.create(None, {})
    tape = journal.next_tape("step")
    assert tape.take("values", lambda: [1.5]) == [1.5]
    journal.append({"kind": "step", "tape": tape.entries})
    recorded = journal.copy().next_tape("step")
    assert recorded.take("values", never) == [1.5]
    with pytest.raises(RunFolderError):
        recorded.take("values", never)


def test_notes_are_skipped() -> None:
    journal = Journal.create(None, {})
    journal.append({"kind": "override", "changed": {}})
    journal.append({"kind": "end"})
    assert journal.copy().next == "end"
