"""The local rating page: a few static files and three JSON calls to the queue of questions.

    GET  /TOKEN/        the page; rate.css, rate.js and icon.svg beside it
    GET  /TOKEN/next    {"question": {"id", "prompt", "answers"} or null, "progress": {…} or null, "commands": {…},
                         "outcome": what was kept, "" before the end}
    POST /TOKEN/answer  {"id": 7, "verdict": "1"}, or {"id": 7, "verdict": "1", "worst": "3"}, or
                        {"id": 7, "verdict": "written", "text": "…"}; replies like `next`, and "taken": whether the
                        verdict was stored
    POST /TOKEN/undo    {}; replies like `next`, and "undo": "undone", "used" or "nothing"
    POST /TOKEN/wish    {"text": "…"}; what the answers should be like, "" takes it back; replies like `next`
    POST /TOKEN/stop    {}; the model is good enough; replies like `next`

Security: the server listens on 127.0.0.1 only. The random token in the address excludes other users of this computer,
the check of the Host header excludes DNS rebinding, and the check of the Origin header excludes other pages in the same
browser. The content security policy runs no script but rate.js, which inserts completions as text.

This module knows HTTP and the queue of questions, and nothing of the tuner.
"""

from __future__ import annotations

import json
import shlex
import threading
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from zotune.humans.local_server import LocalServer, Refused, Reply, Request
from zotune.humans.progress_report import outcome
from zotune.humans.ratings import MAX_WISH, BlindQuestion, Ratings
from zotune.humans.store import FILE_NAME, check_folder
from zotune.palette import palette

ADDRESS: Final = "rate-address.json"
"""File of the run directory with the port and the token of its page."""
MAX_BODY: Final = 32768
"""Bytes of a request's body at most."""

_PAGE_FILES = Path(__file__).parent / "page_files"
ICON: Final = _PAGE_FILES / "icon.svg"
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


class Server(LocalServer):
    """The rating page of one run directory, served until `close`; `address` is the URL to open in a browser."""

    def __init__(self, folder: Path, port: int, rater: str = "") -> None:
        self._rater = rater
        self._ratings: Ratings | None = None
        self._lock = threading.Lock()
        super().__init__(folder, port, _POLICY, folder / ADDRESS)

    @property
    def commands(self) -> dict[str, str]:
        """What to type where the page or the tuner has ended."""
        folder = shlex.quote(str(self.folder))
        return {"page": f"zotune rate {folder}", "tuner": f"zotune resume {folder}"}

    def ratings(self) -> Ratings | None:
        """The queue of questions; None until the tuner has created its file."""
        with self._lock:
            if self._ratings is None and (self.folder / FILE_NAME).exists():
                self._ratings = Ratings(self.folder)
                self.keep_address()
            return self._ratings

    def close(self) -> None:
        """Stop the server and close the ratings file."""
        super().close()
        with self._lock:
            if self._ratings is not None:
                self._ratings.close()

    def reply(self, name: str, request: Request) -> Reply:
        calls = {
            "next": ("GET", self._next),
            "answer": ("POST", self._answer),
            "undo": ("POST", self._undo),
            "stop": ("POST", self._stop),
            "wish": ("POST", self._wish),
        }
        if name in _ROUTES:
            request.require_method("GET")
            file, kind = _ROUTES[name]
            first = palette().encode() if file.endswith(".css") else b""
            return Reply(kind, first + (_PAGE_FILES / file).read_bytes())
        if name not in calls:
            raise Refused(HTTPStatus.NOT_FOUND, "not found")
        method, call = calls[name]
        request.require_method(method)
        reply = call(_body(request)) if method == "POST" else call({})
        return Reply("application/json", json.dumps(reply).encode())

    def _next(self, body: dict[str, Any], **result: Any) -> dict[str, Any]:
        ratings = self.ratings()
        question = ratings.next_question(self._rater) if ratings else None
        progress = ratings.progress() if ratings else None
        return {
            "question": _question_json(question) if question else None,
            "progress": asdict(progress) if progress else None,
            "commands": self.commands,
            "outcome": outcome(self.folder) if progress and progress.done else "",
            **result,
        }

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        id, verdict, worst, text = body.get("id"), body.get("verdict"), body.get("worst", ""), body.get("text", "")
        strings = all(isinstance(x, str) for x in (verdict, worst, text))
        if type(id) is not int or not 0 < id < 1 << 63 or not strings:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body needs id, a positive integer, and verdict, a string")
        ratings = self.ratings()
        taken = ratings.record(id, str(verdict), self._rater, worst, text) if ratings else False
        return self._next(body, taken=taken)

    def _undo(self, body: dict[str, Any]) -> dict[str, Any]:
        ratings = self.ratings()
        return self._next(body, undo=ratings.undo(self._rater) if ratings else "nothing")

    def _wish(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body.get("text")
        if not isinstance(text, str) or len(text) > MAX_WISH:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body needs text of at most {MAX_WISH} characters")
        if ratings := self.ratings():
            ratings.set_wish(text)
        return self._next(body)

    def _stop(self, body: dict[str, Any]) -> dict[str, Any]:
        if ratings := self.ratings():
            ratings.stop_tuning()
        return self._next(body)


def _body(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises Refused if it is malformed or not sent by this page."""
    headers = request.headers
    site = headers.get("Sec-Fetch-Site", "same-origin")
    if headers.get("Origin") != f"http://{request.host}" or site != "same-origin":
        raise Refused(HTTPStatus.FORBIDDEN, "only the rating page itself may post")
    if headers.get_content_type() != "application/json":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
    size = headers.get("Content-Length", "")
    if not (size.isascii() and size.isdigit()) or "Transfer-Encoding" in headers:
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is required")
    if len(size) > 9 or int(size) > MAX_BODY:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")
    try:
        body = json.loads(request.rfile.read(int(size)))
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    return body


def serve(folder: str | Path, port: int = 0, open_browser: bool = False, rater: str = "") -> Server:
    """Serve the rating page of a run directory on 127.0.0.1; port 0 picks a free port.

    rater: the name of who rates on it. The tuner may start later: the page waits for the run directory and its ratings
    file. The address is that of the last server of this run directory, where its port is free. Raises OptionError if
    the port cannot be used, and RunFolderError if the path is a file.
    """
    server = Server(check_folder(folder), port, rater)
    if open_browser:
        server.open_browser()
    return server


def _question_json(question: BlindQuestion) -> dict[str, Any]:
    return {"id": question.id, "prompt": question.prompt, "answers": list(question.completions)}
