"""A page on this computer alone: an HTTP server on 127.0.0.1 behind a random token.

The token in the address excludes other users of this computer, the check of the Host header excludes DNS rebinding.
What a request gets is decided by a subclass. Knows HTTP; knows no page.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

from zotune.errors import OptionError, ZotuneError

LOCAL: Final = "127.0.0.1"
REQUEST_TIMEOUT: Final = 30.0
"""Seconds that a request may take to arrive."""
PLAIN: Final = "text/plain; charset=utf-8"
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Reply(NamedTuple):
    """What a request gets."""

    kind: str
    body: bytes
    headers: Mapping[str, str] = {}
    status: HTTPStatus = HTTPStatus.OK


class Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


class LocalServer:
    """A page that is served until `close`; `address` is the URL to open in a browser.

    policy: the content security policy of every reply. folder: where the file is written that opens a browser. kept:
    the file of `keep_address`, whose address the server takes over if it can. A subclass implements `reply`. Raises
    OptionError where the port cannot be used.
    """

    def __init__(self, folder: Path, port: int, policy: str, kept: Path | None = None) -> None:
        self.folder, self.policy, self._kept = folder, policy, kept
        self._redirect_file: Path | None = None
        earlier = _read_address(kept) if kept else None
        self._http = _listen(self, port, int(earlier["port"]) if earlier else 0)
        self.port: int = self._http.server_address[1]
        self.token = str(earlier["token"]) if earlier else secrets.token_urlsafe(24)
        self.address = f"http://{LOCAL}:{self.port}/{self.token}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="zotune-page", daemon=True)
        self._thread.start()

    def reply(self, name: str, request: Request) -> Reply:
        """What a request for this name below the token gets. Raises Refused, and ZotuneError."""
        raise NotImplementedError

    def keep_address(self) -> None:
        """Keep port and token for the next server, so that a page that is open goes on. Only this user can read the
        file."""
        if self._kept is None:
            return
        with contextlib.suppress(OSError):
            self._kept.unlink(missing_ok=True)
            number = os.open(self._kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump({"port": self.port, "token": self.token}, file)

    def open_browser(self) -> None:
        """Open the page in the browser.

        The browser is given a file that redirects to the page and that only this user can read: the arguments of a
        process, which would hold the token, are visible to all users of the computer.
        """
        folder = self.folder if self.folder.is_dir() else None
        number, name = tempfile.mkstemp(prefix="page-", suffix=".html", dir=folder)
        self._redirect_file = Path(name)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={self.address}">\n')
        webbrowser.open(self._redirect_file.resolve().as_uri())

    def wait(self, seconds: float) -> None:
        """Wait so many seconds, or until the server is closed."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Stop the server."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        if self._redirect_file is not None:
            self._redirect_file.unlink(missing_ok=True)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read_address(kept: Path) -> dict[str, Any] | None:
    """Port and token of the last server, if their file is this user's alone."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if os.name != "nt" and (kept.stat().st_mode & 0o077 or kept.stat().st_uid != os.getuid()):
            return None
        address = json.loads(kept.read_text(encoding="utf-8"))
        if 0 < int(address["port"]) < 1 << 16 and len(str(address["token"])) >= 32:
            return {"port": address["port"], "token": address["token"]}
    return None


def _listen(page: LocalServer, port: int, earlier: int) -> _Http:
    """The server on this port; without one on the port of the last server, else on a free one. Raises OptionError."""
    if not port and earlier:
        with contextlib.suppress(OSError, OverflowError):
            return _Http(page, earlier)
    try:
        return _Http(page, port)
    except (OSError, OverflowError) as error:
        raise OptionError(f"port {port} cannot be used: {error}", hint="--port 0 picks a free port") from None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows another program could listen on the same port

    def __init__(self, page: LocalServer, port: int) -> None:
        self.page = page
        super().__init__((LOCAL, port), Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the browser closes early; print other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Request(BaseHTTPRequestHandler):
    """One request. `command` is its method, `headers` are its headers, `rfile` is its body."""

    server: _Http
    timeout = REQUEST_TIMEOUT

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every HTTP method is routed here, so the library sends no error pages of its own
            return self._respond
        raise AttributeError(name)

    @property
    def host(self) -> str:
        return str(self.headers.get("Host", ""))

    def require_method(self, method: str) -> None:
        """Raises Refused for another method."""
        if self.command != method:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"use {method}", Allow=method)

    def _respond(self) -> None:
        try:
            self._send(self._route())
        except Refused as refused:
            self._send(Reply(PLAIN, f"{refused}\n".encode(), refused.headers, refused.status))
        except ZotuneError as error:
            status = HTTPStatus.BAD_REQUEST if isinstance(error, OptionError) else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(Reply(PLAIN, f"{error}\n".encode(errors="replace"), {}, status))

    def _route(self) -> Reply:
        page = self.server.page
        if self.host not in (f"{LOCAL}:{page.port}", f"localhost:{page.port}"):
            raise Refused(HTTPStatus.FORBIDDEN, f"open this page as {LOCAL}:{page.port}")
        path = self.path.partition("?")[0]
        token, slash, name = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), page.token.encode()) or not slash:
            raise Refused(HTTPStatus.NOT_FOUND, "not found")
        return page.reply(name, self)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send errors that the library detects, such as a malformed request line, in the same form as the others."""
        self._send(Reply(PLAIN, f"{HTTPStatus(code).phrase}\n".encode(), {}, HTTPStatus(code)))

    def _send(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        usual = {"Content-Security-Policy": self.server.page.policy, **HEADERS}
        for name, value in (usual | dict(reply.headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(reply.body)

    def version_string(self) -> str:
        return "zotune"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: every line would hold the path, and with it the token."""


__all__ = ["HEADERS", "LOCAL", "PLAIN", "LocalServer", "Refused", "Reply", "Request"]
