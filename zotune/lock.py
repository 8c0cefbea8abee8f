"""The lock of a run directory: one process at a time.

The operating system holds the lock and releases it when the process dies, so a stale lock file is simply taken over.
The file's text names the holder for messages. Where the file system has no locks, the holder's process number decides.
Knows directories, not what they contain.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zotune.errors import RunFolderError, ZotuneError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK: Final = "run.lock"


@dataclass(frozen=True)
class _Holder:
    """The process that a lock file names."""

    pid: int
    host: str


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a directory's lock inside the block. Raises RunFolderError where another process holds it, ZotuneError where
    the directory cannot be written."""
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the directory may have been deleted or become read-only
            path.unlink()  # before the release: the next process creates its own file
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a living process holds a directory's lock, as far as its file tells; the lock is left alone."""
    holder = _read(folder / LOCK)
    return holder is not None and (holder.host != socket.gethostname() or _alive(holder))


def _acquire(path: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ZotuneError(
                f"{path} cannot be written: {error.strerror}", hint="a run needs a writable directory"
            ) from None
        try:
            if not _lock(descriptor, path):
                raise RunFolderError(f"{path.parent} is in use by {_describe(path)}", hint="wait for it, or end it")
            if _same_file(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
                return descriptor
        except BaseException:  # Ctrl-C too: an open descriptor would keep the lock
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file between our opening and our locking it: try again


def _lock(descriptor: int, path: Path) -> bool:
    """Whether this process has got the lock."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
    holder = _read(path)
    return holder is None or holder.pid == os.getpid() or (holder.host == socket.gethostname() and not _alive(holder))


def _alive(holder: _Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read(path: Path) -> _Holder | None:
    try:
        values = json.loads(path.read_text())
        return _Holder(int(values["pid"]), str(values["host"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describe(path: Path) -> str:
    holder = _read(path)
    return f"process {holder.pid} on {holder.host}" if holder else "another process"


__all__ = ["LOCK", "held", "is_held"]
