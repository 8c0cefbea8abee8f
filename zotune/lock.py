"""One process a run folder: a lock that says who holds it, and that ends with its process.

The operating system keeps the lock, and lets go of it when the process dies in whatever way: a stale one is simply
taken over. The file's text names the holder for people. Where the file system has no locks, the holder is looked for by
its process number. Knows folders, and nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zotune.errors import RunFolderError, ZotuneError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder inside the block. Raises RunFolderError where another process holds it, ZotuneError
    where the folder cannot be written."""
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, or no longer to be written
            path.unlink()  # while it is still held: the next one makes its own
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ZotuneError(f"{path} cannot be written: {error.strerror}", hint="a run needs its folder") from None
        try:
            if not _lock(descriptor, path):
                raise RunFolderError(f"{path.parent} is in use by {_holder(path)}", hint="wait for it, or end it")
            if _same(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
                return descriptor
        except BaseException:  # Ctrl-C too: an open file would hold the lock
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it as it left, between our opening and our locking it


def _lock(descriptor: int, path: Path) -> bool:
    """Whether the lock could be had."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass
    found = _read(path)
    return not found or found["pid"] == os.getpid() or (found["host"] == socket.gethostname() and not _lives(found))


def _lives(found: dict[str, Any]) -> bool:
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {"pid": int(found["pid"]), "host": str(found["host"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _holder(path: Path) -> str:
    found = _read(path)
    return f"process {found['pid']} on {found['host']}" if found else "another process"


__all__ = ["LOCK", "held"]
