"""The live page's server: what it gives, and what it refuses."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from zotune.errors import OptionError, RunFolderError
from zotune.runs.watch import Server, serve


def get(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    reply = connection.getresponse()
    return reply.status, dict(reply.headers), reply.read().decode()


def test_the_page_is_given_by_token_and_anew_when_a_file_changes(
    finished_runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with serve([folder]) as server:
        root = f"/{server.token}/"
        status, headers, text = get(server, root)
        assert (status, "Waiting for the run" in text) == (200, True)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        status, headers, text = get(server, root + "page")
        tag = headers["ETag"]
        assert get(server, root + "page", If_None_Match=tag)[0] == 304
        for path in finished_runs["text"].glob("*.jsonl"):
            (folder / path.name).write_bytes(path.read_bytes())
        status, headers, text = get(server, root + "page", If_None_Match=tag)
        assert (status, headers["ETag"] != tag, "Validation" in text) == (200, True, True)
        assert get(server, root + "icon.svg")[0] == 200


def test_strangers_get_nothing(tmp_path: Path) -> None:
    with serve([tmp_path]) as server:
        root = f"/{server.token}/"
        assert get(server, "/")[0] == 404
        assert get(server, f"/{'x' * 32}/")[0] == 404
        assert get(server, root + "../etc")[0] == 404
        assert get(server, root + "journal.jsonl")[0] == 404
        assert get(server, root, Host="evil.example")[0] == 403
        assert get(server, root, method="POST")[0] == 405


def test_a_missing_directory_and_a_used_port_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        serve([tmp_path / "none"])
    with serve([tmp_path]) as server, pytest.raises(OptionError, match="--port 0"):
        serve([tmp_path], server.port)
