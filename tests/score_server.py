"""A server of scores for tests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from zotune_objectives.http import Http


class ScoreServer:
    """Replies by `answer(request) -> (status, headers, body)` or a JSON value; keeps all requests and their headers.

    An answer of None breaks the connection.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[Any], Any] = lambda body: {"scores": [len(c) for c in body["completions"]]}
        self.hang = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.headers.append(dict(self.headers))
                reply = outer.answer(body)
                if reply is None:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    self.connection.close()
                    return
                status, headers, text = reply if isinstance(reply, tuple) else (200, {}, json.dumps(reply))
                data = text if isinstance(text, bytes) else text.encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that close the connection: tests do so."""

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.address = f"//127.0.0.1:{self.port}/score"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def scorer(self, **options: Any) -> Http:
        return Http(self.address, **{"backoff": 0.01, "timeout": 10.0, **options})

    def close(self) -> None:
        self.hang.set()
        self.server.shutdown()
        self.server.server_close()


def in_turn(*answers: Any) -> Callable[[Any], Any]:
    """Gives the answers one after the other; the last one again and again."""
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]
