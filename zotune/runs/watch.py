"""`zotune watch`: the page of runs on this computer, anew whenever their files have changed.

    GET /TOKEN/       the page
    GET /TOKEN/page   the page; 304 where the browser has the present one
    GET /TOKEN/icon.svg

Reads run directories; knows no model.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

from zotune.errors import RunFolderError
from zotune.humans.local_server import PLAIN, LocalServer, Refused, Reply, Request
from zotune.humans.page import ICON
from zotune.pages.html_page import html_page, policy, waiting_page
from zotune.runs.run_directory import COMPLETIONS, CONFIG, JOURNAL, METRICS, PREDICTIONS, PROGRESS, RESULT
from zotune.runs.run_report import records

READ: Final = (CONFIG, JOURNAL, METRICS, PROGRESS, COMPLETIONS, PREDICTIONS, RESULT)
_HTML: Final = "text/html; charset=utf-8"


class Server(LocalServer):
    """The page of runs, served until `close`."""

    def __init__(self, folders: Sequence[Path], port: int) -> None:
        self.folders = folders
        self._lock = threading.Lock()
        self._seen: tuple[object, ...] = ()
        self._page = b""
        super().__init__(folders[0], port, policy(live=True))

    def reply(self, name: str, request: Request) -> Reply:
        request.require_method("GET")
        if name == "icon.svg":
            return Reply("image/svg+xml", ICON.read_bytes())
        if name not in ("", "page"):
            raise Refused(HTTPStatus.NOT_FOUND, "not found")
        page = self.page()
        tag = f'"{hashlib.blake2b(page, digest_size=12).hexdigest()}"'
        if name == "page" and request.headers.get("If-None-Match") == tag:
            return Reply(PLAIN, b"", {"ETag": tag}, HTTPStatus.NOT_MODIFIED)
        return Reply(_HTML, page, {"ETag": tag})

    def page(self) -> bytes:
        """The page as HTML; written anew where a file has changed."""
        with self._lock:
            seen = tuple(_stamp(folder / name) for folder in self.folders for name in READ)
            if seen != self._seen or not self._page:
                text = waiting_page()
                if all((folder / JOURNAL).is_file() for folder in self.folders):
                    text = html_page(records(self.folders), live=True)
                self._seen, self._page = seen, text.encode("utf-8", "replace")
            return self._page


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def serve(folders: Sequence[Path], port: int = 0, open_browser: bool = False) -> Server:
    """Serve the page of run directories on 127.0.0.1; port 0 picks a free port.

    The tuner may start later: the page waits for the journal. Raises RunFolderError where a directory does not exist,
    OptionError where the port cannot be used.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RunFolderError(f"the run directory {folder} does not exist", hint="check the path")
    server = Server(folders, port)
    if open_browser:
        server.open_browser()
    return server


__all__ = ["Server", "serve"]
