"""A server on this machine that speaks the upload protocol of the Hugging Face hub: repositories, preupload, large
files and commits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """url: the endpoint. repositories: files by repository; private: whether each was created so. large: contents by
    sha256. tokens: what was sent as authorization. refuse: every commit fails with this text."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    refuse: str = ""


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub without repositories."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *arguments: Any) -> None: ...

    def do_POST(self) -> None:
        hub, body = self.state, self._body()
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if m := re.fullmatch(r"/api/models/(.+)/preupload/(\w+)", self.path):
            listed = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in listed
            ]
            return self._answer({"files": modes})
        if m := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")
        if m := re.fullmatch(r"/api/models/(.+)/commit/(\w+)", self.path):
            return self._commit(m[1], body)
        return self._answer({"error": f"no such place: {self.path}"}, 404)

    def do_PUT(self) -> None:
        content = self._body()
        self.state.large[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, 404)

    def _create(self, options: Any) -> None:
        hub = self.state
        name = "/".join(filter(None, (options.get("organization"), options["name"])))
        if name in hub.repositories:
            return self._answer({"error": "exists", "url": f"{hub.url}/{name}"}, 409)
        hub.repositories[name] = {}
        hub.private[name] = bool(options.get("private")) or options.get("visibility") == "private"
        return self._answer({"url": f"{hub.url}/{name}", "name": name, "id": name})

    def _commit(self, name: str, body: bytes) -> None:
        hub = self.state
        if hub.refuse:
            return self._answer({"error": hub.refuse}, 403)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                hub.messages.append(value["summary"])
            elif line["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.repositories[name][value["path"]] = hub.large[value["oid"]]
        return self._answer(
            {"success": True, "commitUrl": f"{hub.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
        )

    def _body(self) -> bytes:
        self.state.tokens.add(self.headers.get("Authorization", ""))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, value: Any, status: int = 200, kind: str = "application/json") -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        self.wfile.write(content)
