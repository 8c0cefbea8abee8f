"""The text of a data file: compressed or not, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

Other encodings are refused, never guessed: a wrong guess changes letters without an error. Knows bytes and encodings;
knows no records.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from zotune.errors import DataError

GZIP_MARK = b"\x1f\x8b"
PARQUET_MARK = b"PAR1"

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16, so it stands before it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order mark → the name of the encoding that drops it."""

_OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV UTF-8"),
    (b"\xfd7zXZ\x00", "an xz archive", "xz -d FILE"),
    (b"BZh", "a bzip2 archive", "bzip2 -d FILE"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "zstd -d FILE"),
    (b"%PDF-", "a PDF document", "give a data file"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"ARROW1", "an Arrow file", "datasets.load_from_disk(FOLDER)['train'].to_json('train.jsonl')"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data", "git lfs pull"),
)


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where it is compressed with gzip, whatever its name is. Raises OSError, and
    DataError for a broken archive and for a file in another format than a data file's."""
    raw = path.read_bytes()
    if raw.startswith(GZIP_MARK):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path}: broken gzip file: {error}") from None
    for mark, name, hint in _OTHER_FORMATS:
        if raw.startswith(mark):
            raise DataError(f"{path} is {name}", hint=hint)
    if raw[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path} is a web page, not a data file", hint="download the file itself, not its page")
    return raw


def decode(path: Path, raw: bytes) -> str:
    """The text of a file's content. path: named in errors. Raises DataError for bytes that are not text in UTF-8, or in
    UTF-16 or UTF-32 with a byte order mark."""
    encoding = next((encoding for mark, encoding in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = f"{error.reason} at byte {error.start}, line {line}"
        if encoding != "utf-8":
            raise DataError(f"{path} begins as {encoding.removesuffix('-sig').upper()} and is not: {where}") from None
        _refuse_unmarked_utf16(path, raw)
        raise DataError(
            f"{path} is not UTF-8 text: {where}",
            hint=f"if it is Latin-1 or Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8_{path.name}",
        ) from None
    if encoding == "utf-8":
        _refuse_unmarked_utf16(path, raw)
    return text


def _refuse_unmarked_utf16(path: Path, raw: bytes) -> None:
    """Refuse UTF-16 without a mark: ASCII letters in it are valid UTF-8 with a zero byte beside each letter."""
    start = raw[:4096]
    if start.count(0) * 4 > len(start):
        order = "LE" if start[1::2].count(0) >= start[::2].count(0) else "BE"
        raise DataError(
            f"{path} looks like UTF-16 without a byte order mark",
            hint=f"iconv -f UTF-16{order} -t UTF-8 {path.name} > utf8_{path.name}",
        )


__all__ = ["PARQUET_MARK", "decode", "read_bytes"]
