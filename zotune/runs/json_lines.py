"""Files of JSON lines in a run directory, one object a line: metrics.jsonl, completions.jsonl.

A kill may leave a torn last line, which readers leave out and a resumed run removes. Knows lines; knows no keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zotune import files


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, without torn lines; none where it is missing."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if (row := _object(line)) is not None:
                yield row


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows in one write; does nothing without rows."""
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    if text:
        files.append(path, text)


def keep_lines(path: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove all other lines, also torn ones; create the file where it is missing."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if (row := _object(line)) is not None and wanted(row)]
    files.write(path, "".join(line + "\n" for line in kept))


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


__all__ = ["append_lines", "keep_lines", "read_lines"]
