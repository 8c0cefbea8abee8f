"""The local page that a person rates on: a few files and three JSON calls over the store.

    GET  /TOKEN/        the page; rate.css, rate.js and icon.svg beside it
    GET  /TOKEN/next    what to show and the progress
    POST /TOKEN/answer  {"id": 7, "verdict": "1"}; answers like `next`, with `taken`
    POST /TOKEN/undo    {}; answers like `next`, with `undo`

Only this computer is listened to. The token keeps other users of it out, the Host header keeps out names that were
pointed here (DNS rebinding), Origin keeps out other pages in the same browser, and the content policy lets nothing run
that is not in rate.js: what a model wrote is shown as text.
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
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from zotune.errors import OptionError, RunFolderError, ZotuneError
from zotune.humans.store import FILE, Ratings

LOCAL: Final = "127.0.0.1"
LARGEST_BODY: Final = 4096
SLOWEST: Final = 30.0
"""Seconds that a request may take to arrive."""

_PAGE = Path(__file__).parent / "page_files"
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "rate.css": ("rate.css", "text/css; charset=utf-8"),
    "rate.js": ("rate.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_PLAIN = "text/plain; charset=utf-8"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Server:
    """A page that is being served. `address` is what a person opens; `close` ends it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._store: Ratings | None = None
        self._lock = threading.Lock()
        self._opener: Path | None = None
        try:
            self._http = _Http(self, port)
        except (OSError, OverflowError) as error:
            raise OptionError(f"port {port} cannot be used: {error}", hint="0 takes a free one") from None
        self.port: int = self._http.server_address[1]
        self.token = secrets.token_urlsafe(24)
        self.address = f"http://{LOCAL}:{self.port}/{self.token}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="zotune-page", daemon=True)
        self._thread.start()

    def store(self) -> Ratings | None:
        """The answers, opened when the tuner has made the file; None before that."""
        with self._lock:
            if self._store is None and (self.folder / FILE).exists():
                self._store = Ratings(self.folder)
            return self._store

    def show(self) -> None:
        """Open the page in the browser, by way of a file that only this user can read: other users of the computer
        see the arguments of every process."""
        number, name = tempfile.mkstemp(prefix="rate-", suffix=".html", dir=self.folder)
        self._opener = Path(name)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={self.address}">\n')
        webbrowser.open(self._opener.resolve().as_uri())

    def wait(self, seconds: float) -> None:
        """Wait as long, or until the page is closed."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Stop listening and close the store."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        if self._opener is not None:
            self._opener.unlink(missing_ok=True)
        with self._lock:
            if self._store is not None:
                self._store.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def serve(folder: str | Path, port: int = 0, open_browser: bool = False) -> Server:
    """Serve the page of a run folder on this computer alone; port 0 takes a free one.

    The folder needs no store yet: the page waits for it. Raises RunFolderError where there is no folder, OptionError
    where the port cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder} does not exist", hint="is this a run folder?")
    server = Server(folder, port)
    if open_browser:
        server.show()
    return server


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would let another program listen beside us

    def __init__(self, page: Server, port: int) -> None:
        self.page = page
        super().__init__((LOCAL, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = SLOWEST

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # whatever the method: it is refused here, not by the library's own pages
            return self._respond
        raise AttributeError(name)

    def _respond(self) -> None:
        try:
            kind, body = self._route()
        except _Refused as refused:
            self._send(refused.status, _PLAIN, f"{refused}\n".encode(), **refused.headers)
        except ZotuneError as error:
            status = HTTPStatus.BAD_REQUEST if isinstance(error, OptionError) else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, _PLAIN, f"{error}\n".encode(errors="replace"))
        else:
            self._send(HTTPStatus.OK, kind, body)

    def _route(self) -> tuple[str, bytes]:
        """(content type, body). Raises _Refused."""
        page = self.server.page
        host = self.headers.get("Host", "")
        if host not in (f"{LOCAL}:{page.port}", f"localhost:{page.port}"):
            raise _Refused(HTTPStatus.FORBIDDEN, f"this page is at {LOCAL}:{page.port} only")
        path = self.path.partition("?")[0]
        token, slash, name = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), page.token.encode()) or not slash:
            raise _Refused(HTTPStatus.NOT_FOUND, "nothing here")
        calls = {"next": ("GET", self._next), "answer": ("POST", self._answer), "undo": ("POST", self._undo)}
        if name in _FILES:
            self._demand("GET")
            file, kind = _FILES[name]
            return kind, (_PAGE / file).read_bytes()
        if name not in calls:
            raise _Refused(HTTPStatus.NOT_FOUND, "nothing here")
        method, call = calls[name]
        self._demand(method)
        found = call(self._body(host)) if method == "POST" else call({})
        return "application/json", json.dumps(found).encode()

    def _demand(self, method: str) -> None:
        if self.command != method:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"only {method} here", Allow=method)

    def _body(self, host: str) -> dict[str, Any]:
        """The JSON object that this page sent."""
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        if self.headers.get("Origin") != f"http://{host}" or site != "same-origin":
            raise _Refused(HTTPStatus.FORBIDDEN, "not from this page")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not JSON")
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit()) or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "no length")
        if len(size) > 9 or int(size) > LARGEST_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST_BODY} bytes")
        try:
            found = json.loads(self.rfile.read(int(size)))
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, "not JSON") from None
        if not isinstance(found, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "not a JSON object")
        return found

    def _next(self, said: dict[str, Any], **news: Any) -> dict[str, Any]:
        store = self.server.page.store()
        shown = store.next() if store else None
        return {
            "question": asdict(shown) if shown else None,
            "progress": asdict(store.progress()) if store else None,
            **news,
        }

    def _answer(self, said: dict[str, Any]) -> dict[str, Any]:
        id, verdict = said.get("id"), said.get("verdict")
        if type(id) is not int or not 0 < id < 1 << 63 or not isinstance(verdict, str):
            raise _Refused(HTTPStatus.BAD_REQUEST, "id and verdict are needed")
        store = self.server.page.store()
        return self._next(said, taken=store.answer(id, verdict) if store else False)

    def _undo(self, said: dict[str, Any]) -> dict[str, Any]:
        store = self.server.page.store()
        return self._next(said, undo=store.undo() if store else "nothing")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself (a malformed request line) in the same form as the rest."""
        self._send(HTTPStatus(code), _PLAIN, f"{HTTPStatus(code).phrase}\n".encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in (_HEADERS | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    def version_string(self) -> str:
        return "zotune"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address, and with it the token, would be in every line."""
