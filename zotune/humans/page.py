"""The local rating page: a few static files and three JSON calls to the queue of questions.

    GET  /TOKEN/        the page; rate.css, rate.js and icon.svg beside it
    GET  /TOKEN/next    {"question": {"id", "prompt", "answers"} or null, "progress": {…} or null}
    POST /TOKEN/answer  {"id": 7, "verdict": "1"}; replies like `next`, and "taken": whether the verdict was stored
    POST /TOKEN/undo    {}; replies like `next`, and "undo": "undone", "used" or "nothing"

Security: the server listens on 127.0.0.1 only. The random token in the address excludes other users of this computer,
the check of the Host header excludes DNS rebinding, and the check of the Origin header excludes other pages in the same
browser. The content security policy runs no script but rate.js, which inserts completions as text.

This module knows HTTP and the queue of questions, and nothing of the tuner.
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
from zotune.humans.ratings import BlindQuestion, Ratings
from zotune.humans.store import FILE_NAME

LOCAL: Final = "127.0.0.1"
MAX_BODY: Final = 4096
"""Bytes of a request's body at most."""
REQUEST_TIMEOUT: Final = 30.0
"""Seconds that a request may take to arrive."""

_PAGE_FILES = Path(__file__).parent / "page_files"
_ROUTES = {
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
    """The rating page of one run directory, served until `close`; `address` is the URL to open in a browser."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._ratings: Ratings | None = None
        self._lock = threading.Lock()
        self._redirect_file: Path | None = None
        try:
            self._http = _Http(self, port)
        except (OSError, OverflowError) as error:
            raise OptionError(f"port {port} cannot be used: {error}", hint="--port 0 picks a free port") from None
        self.port: int = self._http.server_address[1]
        self.token = secrets.token_urlsafe(24)
        self.address = f"http://{LOCAL}:{self.port}/{self.token}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="zotune-page", daemon=True)
        self._thread.start()

    def ratings(self) -> Ratings | None:
        """The queue of questions; None until the tuner has created its file."""
        with self._lock:
            if self._ratings is None and (self.folder / FILE_NAME).exists():
                self._ratings = Ratings(self.folder)
            return self._ratings

    def open_browser(self) -> None:
        """Open the page in the browser.

        The browser is given a file that redirects to the page and that only this user can read: the arguments of a
        process, which would hold the token, are visible to all users of the computer.
        """
        number, name = tempfile.mkstemp(prefix="rate-", suffix=".html", dir=self.folder)
        self._redirect_file = Path(name)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={self.address}">\n')
        webbrowser.open(self._redirect_file.resolve().as_uri())

    def wait(self, seconds: float) -> None:
        """Wait so many seconds, or until the server is closed."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Stop the server and close the ratings file."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        if self._redirect_file is not None:
            self._redirect_file.unlink(missing_ok=True)
        with self._lock:
            if self._ratings is not None:
                self._ratings.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def serve(folder: str | Path, port: int = 0, open_browser: bool = False) -> Server:
    """Serve the rating page of a run directory on 127.0.0.1; port 0 picks a free port.

    The tuner may start later: the page waits for the ratings file. Raises RunFolderError if the directory does not
    exist, OptionError if the port cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"the run directory {folder} does not exist", hint="check the path")
    server = Server(folder, port)
    if open_browser:
        server.open_browser()
    return server


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows another program could listen on the same port

    def __init__(self, page: Server, port: int) -> None:
        self.page = page
        super().__init__((LOCAL, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the browser closes early; print other errors."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = REQUEST_TIMEOUT

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # every HTTP method is routed here, so the library sends no error pages of its own
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
        """The reply to this request: (content type, body). Raises _Refused."""
        page = self.server.page
        host = self.headers.get("Host", "")
        if host not in (f"{LOCAL}:{page.port}", f"localhost:{page.port}"):
            raise _Refused(HTTPStatus.FORBIDDEN, f"open this page as {LOCAL}:{page.port}")
        path = self.path.partition("?")[0]
        token, slash, name = path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), page.token.encode()) or not slash:
            raise _Refused(HTTPStatus.NOT_FOUND, "not found")
        calls = {"next": ("GET", self._next), "answer": ("POST", self._answer), "undo": ("POST", self._undo)}
        if name in _ROUTES:
            self._require_method("GET")
            file, kind = _ROUTES[name]
            return kind, (_PAGE_FILES / file).read_bytes()
        if name not in calls:
            raise _Refused(HTTPStatus.NOT_FOUND, "not found")
        method, call = calls[name]
        self._require_method(method)
        reply = call(self._body(host)) if method == "POST" else call({})
        return "application/json", json.dumps(reply).encode()

    def _require_method(self, method: str) -> None:
        if self.command != method:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"use {method}", Allow=method)

    def _body(self, host: str) -> dict[str, Any]:
        """The JSON object in the request's body. Raises _Refused if it is malformed or not sent by this page."""
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        if self.headers.get("Origin") != f"http://{host}" or site != "same-origin":
            raise _Refused(HTTPStatus.FORBIDDEN, "only the rating page itself may post")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit()) or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is required")
        if len(size) > 9 or int(size) > MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")
        try:
            body = json.loads(self.rfile.read(int(size)))
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
        return body

    def _next(self, body: dict[str, Any], **result: Any) -> dict[str, Any]:
        ratings = self.server.page.ratings()
        question = ratings.next_question() if ratings else None
        return {
            "question": _question_json(question) if question else None,
            "progress": asdict(ratings.progress()) if ratings else None,
            **result,
        }

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        id, verdict = body.get("id"), body.get("verdict")
        if type(id) is not int or not 0 < id < 1 << 63 or not isinstance(verdict, str):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body needs id, a positive integer, and verdict, a string")
        ratings = self.server.page.ratings()
        return self._next(body, taken=ratings.record(id, verdict) if ratings else False)

    def _undo(self, body: dict[str, Any]) -> dict[str, Any]:
        ratings = self.server.page.ratings()
        return self._next(body, undo=ratings.undo() if ratings else "nothing")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send errors that the library detects, such as a malformed request line, in the same form as the others."""
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
        """Log nothing: every line would hold the path, and with it the token."""


def _question_json(question: BlindQuestion) -> dict[str, Any]:
    return {"id": question.id, "prompt": question.prompt, "answers": list(question.completions)}
