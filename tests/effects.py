"""Files, processes and connections that code opens, reported by the interpreter's audit events."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = frozenset(
    {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate"}
    | {"shutil.rmtree", "shutil.move", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp"}
)
STARTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "pty.spawn"}
)
CONNECTS = frozenset({"socket.connect", "socket.getaddrinfo", "socket.sendto", "webbrowser.open"})


class Effects:
    """Records effects inside a `with` block.

    seen: files outside of `folder` that are opened for writing or changed, started processes, and connections; reads:
    files that are opened for reading.
    """

    _watching: list[Effects] = []

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = None if folder is None else str(folder.resolve())
        self.seen: list[str] = []
        self.reads: list[str] = []

    def __enter__(self) -> Effects:
        _install_hook()
        Effects._watching.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        Effects._watching.remove(self)

    def record(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
            writes = isinstance(flags, int) and flags & WRITES
            if not writes and not (isinstance(mode, str) and set(mode) & set("wax+")):
                self.reads.append(name)
            elif not self._inside(name):
                self.seen.append(f"wrote {name}")
        elif event in CHANGES and not all(
            self._inside(_whole(event, a, args)) for a in args if isinstance(a, str | bytes)
        ):
            self.seen.append(f"{event} {args}")
        elif event in STARTS or event in CONNECTS:
            self.seen.append(f"{event} {args[:2]}")

    def _inside(self, name: str) -> bool:
        if "__pycache__" in name or name == os.devnull:  # files of the interpreter
            return True
        return self.folder is not None and os.path.realpath(name).startswith(self.folder)


def _whole(event: str, name: str | bytes, args: tuple[Any, ...]) -> str:
    """A name that is relative to an open folder, as shutil.rmtree gives it, with that folder."""
    text = os.fsdecode(name)
    relative = event in ("os.remove", "os.rmdir") and len(args) == 2 and isinstance(args[1], int) and args[1] >= 0
    return os.path.join(os.readlink(f"/proc/self/fd/{args[1]}"), text) if relative else text


_installed = False


def _install_hook() -> None:
    """Install the audit hook; Python cannot remove it again."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(lambda event, args: [w.record(event, args) for w in Effects._watching] and None)
