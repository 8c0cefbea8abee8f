"""The page's server: who has access, which requests are refused, and that questions are served."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import stat
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zotune.errors import OptionError, RunFolderError
from zotune.humans import page as rating_page
from zotune.humans.page import ADDRESS, MAX_BODY, Server, serve
from zotune.humans.progress_report import in_words, progress_report
from zotune.humans.ratings import DONE, Question, Ratings
from zotune.humans.store import FILE_NAME
from zotune.palette import palette

NASTY = ("<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>&amp;\u2028\x00\ud800")


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Ratings]:
    with Ratings(tmp_path) as ratings:
        yield ratings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as page:
        yield page


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Ratings]]:
    """A page with one open question, for tests whose requests change nothing."""
    folder = tmp_path_factory.mktemp("standing")
    with Ratings(folder) as ratings, serve(folder) as page:
        ratings.ask([Question("a", "p", ("x", "y"))])
        yield page, ratings
        assert ratings.count_open(["a"]) == 1


def ask(server: Server, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Reply:
    """One request; a `path` without a leading / is relative to the page. Headers that are None are omitted."""
    target = path if path.startswith("/") else f"/{server.token}/{path}"
    sent: dict[str, str | None] = {"Host": f"127.0.0.1:{server.port}"}
    if body is not None:
        sent |= {"Origin": f"http://127.0.0.1:{server.port}", "Content-Type": "application/json"}
        sent |= {"Content-Length": str(len(body))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as line:
        line.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                line.putheader(name, value)
        line.endheaders(body)
        return Reply(line.getresponse())


def post(server: Server, path: str, value: Any) -> Reply:
    return ask(server, "POST", path, json.dumps(value).encode())


def test_questions_verdicts_and_undo(server: Server, store: Ratings) -> None:
    store.set_planned(2)
    store.ask([Question("a", "p", ("x", "y")), Question("b", "q", ("x", "y", "z"))])
    first = ask(server, "GET", "next").json()
    assert first["question"]["prompt"] == "p"
    assert set(first["question"]) == {"id", "prompt", "answers"}, "nothing identifies the completions"
    place = first["question"]["answers"].index("y") + 1
    second = post(server, "answer", {"id": first["question"]["id"], "verdict": str(place)}).json()
    assert second["taken"] is True
    assert second["question"]["prompt"] == "q"
    assert second["progress"]["answered"] == 1
    assert store.scores(["a"]) == {"a": (0.0, 1.0)}
    again = post(server, "answer", {"id": first["question"]["id"], "verdict": "tie"}).json()
    assert again["taken"] is False
    assert again["question"] == second["question"]
    assert store.scores(["a"]) == {"a": (0.0, 1.0)}
    undone = post(server, "undo", {}).json()
    assert (undone["undo"], undone["question"]["prompt"]) == ("undone", "p")
    post(server, "answer", {"id": undone["question"]["id"], "verdict": "skip"})
    store.take_scores(["a"])
    used = post(server, "undo", {}).json()
    assert (used["undo"], used["question"]["prompt"]) == ("used", "p")
    post(server, "answer", {"id": used["question"]["id"], "verdict": "bad"})
    body = json.dumps({"id": second["question"]["id"], "verdict": "3"}).encode()
    last = ask(server, "POST", "answer", body, Sec_Fetch_Site="same-origin").json()
    assert last["taken"] is True
    assert last["question"] is None
    assert not last["progress"]["done"]
    store.set_state(DONE)
    assert ask(server, "GET", "next").json()["progress"]["done"]


def test_the_page_waits_for_the_ratings_file_and_creates_none(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        reply = ask(server, "GET", "next").json()
        assert (reply["question"], reply["progress"], reply["outcome"]) == (None, None, "")
        assert post(server, "undo", {}).json()["undo"] == "nothing"
        assert post(server, "answer", {"id": 1, "verdict": "1"}).json()["taken"] is False
        assert not list(tmp_path.iterdir())
        with Ratings(tmp_path) as store:
            store.ask([Question("a", "p", ("x", "y"))])
            assert ask(server, "GET", "next").json()["question"]["prompt"] == "p"


def test_completions_are_json_strings(server: Server, store: Ratings) -> None:
    store.ask([Question("a", NASTY[0], (NASTY[1], NASTY[0]))])
    reply = ask(server, "GET", "next")
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json()["question"]["prompt"] == NASTY[0]
    assert sorted(reply.json()["question"]["answers"]) == sorted([NASTY[1], NASTY[0]])
    assert b"alert" not in ask(server, "GET", "").body, "the page itself contains no text of a question"


def test_the_script_inserts_text_only_as_text() -> None:
    code = (Path(rating_page.__file__).parent / "page_files/rate.js").read_text()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        "DOMParser",
    ):
        assert way not in code
    page = (Path(rating_page.__file__).parent / "page_files/page.html").read_text()
    assert not re.search(r"\son\w+=|style=|javascript:|https?://|<script>|<style", page)
    style = palette() + (Path(rating_page.__file__).parent / "page_files/rate.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("path", ["", "rate.js", "rate.css", "icon.svg", "next"])
def test_headers(standing: tuple[Server, Ratings], path: str) -> None:
    server, _ = standing
    reply = ask(server, "GET", path)
    assert reply.status == 200
    policy = dict(part.split(" ", 1) for part in reply.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in str(policy)
    assert "*" not in str(policy)
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Server"] == "zotune"
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    "path",
    ["/", "/next", "/favicon.ico", "/{token}", "/{token}x/", "//{token}/", "/{token}/x", "/{token}/../next",
     "/{token}/page.html", "/{token}/%2e%2e/errors.py", "/{token}/../../rating_page.py", "/{token}//", "/é/", "*"],
)  # fmt: skip
def test_no_such_path(standing: tuple[Server, Ratings], path: str) -> None:
    server, _ = standing
    path = path.format(token=server.token)
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), 10)) as line:
        line.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        reply = line.makefile("rb").read()
    if path.startswith("//"):
        assert reply.startswith(b"HTTP/1.0 200"), "the library reads // at the start as /"
        return
    assert reply.startswith(b"HTTP/1.0 404")
    assert server.token.encode() not in reply


def test_every_server_has_its_own_token(tmp_path: Path) -> None:
    with serve(tmp_path) as one, serve(tmp_path) as two:
        assert one.token != two.token
        assert len(one.token) >= 32
        assert ask(one, "GET", f"/{two.token}/").status == 404
        for token in (one.token[:-1], one.token + "A", one.token.swapcase()):
            assert ask(one, "GET", f"/{token}/next").status == 404
            assert ask(one, "POST", f"/{token}/undo", b"{}").status == 404


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}"]
)
def test_other_host_names_are_refused(standing: tuple[Server, Ratings], host: str | None) -> None:
    server, _ = standing
    sent = host and host.format(port=server.port)
    assert ask(server, "GET", "", Host=sent).status == 403
    assert ask(server, "GET", "next", Host=sent).status == 403


def test_localhost_is_accepted(standing: tuple[Server, Ratings]) -> None:
    server, _ = standing
    host = f"localhost:{server.port}"
    assert ask(server, "GET", "", Host=host).status == 200
    assert ask(server, "POST", "undo", b"{}", Host=host, Origin=f"http://{host}").status == 200
    assert ask(server, "POST", "undo", b"{}", Host=host).status == 403, "the Origin must be the name in Host"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_posts_of_other_pages_are_refused(standing: tuple[Server, Ratings], headers: dict[str, str | None]) -> None:
    server, store = standing
    body = json.dumps({"id": 1, "verdict": "1"}).encode()
    sent = {k: v and v.format(port=server.port) for k, v in headers.items()}
    assert ask(server, "POST", "answer", body, **sent).status == 403
    assert store.count_open(["a"]) == 1


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_methods(standing: tuple[Server, Ratings], method: str) -> None:
    server, _ = standing
    for path in ("", "rate.js", "next", "answer", "undo"):
        reply = ask(server, method, path)
        assert reply.status == 405
        assert reply.headers["Allow"] == ("POST" if path in ("answer", "undo") else "GET")
    assert ask(server, method, "/").status == 404


def test_get_and_post_are_not_the_same(standing: tuple[Server, Ratings]) -> None:
    server, _ = standing
    assert ask(server, "GET", "answer").status == 405
    assert ask(server, "GET", "undo").status == 405
    assert ask(server, "POST", "next", b"{}").status == 405
    assert ask(server, "POST", "", b"{}").status == 405


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * MAX_BODY, b'{"id": 1}', b'{"verdict": "1"}',
     b'{"id": "1", "verdict": "1"}', b'{"id": true, "verdict": "1"}', b'{"id": 1.0, "verdict": "1"}',
     b'{"id": -1, "verdict": "1"}', b'{"id": 99999999999999999999, "verdict": "1"}', b'{"id": 1, "verdict": 1}',
     b'{"id": 1, "verdict": null}', b'{"id": 1, "verdict": "3"}', b'{"id": 1, "verdict": "good"}',
     b'{"id": ' + b"9" * 4000 + b', "verdict": "1"}', b'{"id": NaN, "verdict": "1"}'],
)  # fmt: skip
def test_malformed_bodies(standing: tuple[Server, Ratings], body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    server, store = standing
    reply = ask(server, "POST", "answer", body)
    assert reply.status == 400
    assert b"Traceback" not in reply.body
    assert capfd.readouterr().err == ""
    assert store.count_open(["a"]) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "1e3"}, 411),
        ({"Content_Length": "²"}, 411),
        ({"Transfer_Encoding": "chunked"}, 411),
        ({"Content_Length": str(MAX_BODY + 1)}, 413),
        ({"Content_Length": "9" * 4000}, 413),
        ({"Content_Type": None}, 415),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_bodies_of_the_wrong_kind_or_size(
    standing: tuple[Server, Ratings], headers: dict[str, str | None], status: int
) -> None:
    server, _ = standing
    encoded = {k: v.encode().decode("latin-1") if v else v for k, v in headers.items()}
    assert ask(server, "POST", "undo", b"{}", **encoded).status == status


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.0\r\n\r\n",
    ],
)
def test_malformed_requests(standing: tuple[Server, Ratings], raw: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    server, _ = standing
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), 10)) as line:
        line.sendall(raw)
        line.shutdown(socket.SHUT_WR)
        reply = b""
        with contextlib.suppress(ConnectionError):
            reply = line.makefile("rb").read()
    assert b"Traceback" not in reply
    assert b"200 OK" not in reply
    assert ask(server, "GET", "").status == 200
    assert capfd.readouterr().err == ""


def test_aborted_connections_are_ignored(server: Server, store: Ratings, capfd: pytest.CaptureFixture[str]) -> None:
    store.ask([Question("a", "p" * 10**6, ("x" * 10**6, "y"))])
    for _ in range(3):
        with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), 10)) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            line.sendall(f"GET /{server.token}/next HTTP/1.0\r\nHost: localhost:{server.port}\r\n\r\n".encode())
    assert ask(server, "GET", "next").json()["question"]["prompt"] == "p" * 10**6
    assert capfd.readouterr().err == ""


def test_the_server_listens_on_this_computer_only(server: Server) -> None:
    assert server._http.socket.getsockname()[0] == "127.0.0.1"
    assert server.address.startswith(f"http://127.0.0.1:{server.port}/")
    outside = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in {a for a in outside if not a.startswith("127.")} | {"127.0.0.2"}:
        with pytest.raises(OSError), contextlib.closing(socket.create_connection((address, server.port), 2)):
            pass


def test_an_unreadable_ratings_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("not a database, but long enough to look at " * 40)
    with serve(tmp_path) as server:
        reply = ask(server, "GET", "next")
    assert reply.status == 503
    assert b"cannot be opened" in reply.body


def test_used_ports_and_missing_directories(server: Server, tmp_path: Path) -> None:
    for port in (server.port, 70000, -1):
        with pytest.raises(OptionError, match=f"port {port} cannot be used"):
            serve(tmp_path, port)
    with pytest.raises(RunFolderError, match="is no directory"):
        serve(Path(__file__))


def test_a_run_that_is_starting_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with serve(folder) as server:
        assert ask(server, "GET", "next").json()["progress"] is None
        assert not folder.exists()
        folder.mkdir()
        with Ratings(folder) as store:
            store.ask([Question("a", "p", ("x", "y"))])
        assert ask(server, "GET", "next").json()["question"]["prompt"] == "p"


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_the_next_server_of_a_run_has_the_same_address(tmp_path: Path, store: Ratings) -> None:
    with serve(tmp_path) as first:
        assert ask(first, "GET", "next").status == 200
        kept = tmp_path / ADDRESS
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        with serve(tmp_path) as beside:  # the port is taken
            assert beside.port != first.port
    with serve(tmp_path) as again:
        assert again.address == first.address
        assert ask(again, "GET", "next").status == 200
    kept.chmod(0o644)  # others could have written or read it
    with serve(tmp_path) as other:
        assert other.token != first.token
    kept.unlink()
    kept.write_text("nonsense")
    kept.chmod(0o600)
    with serve(tmp_path) as other:
        assert other.token != first.token


def test_what_to_type_and_what_was_kept(server: Server, store: Ratings, tmp_path: Path) -> None:
    reply = ask(server, "GET", "next").json()
    assert reply["commands"] == {"page": f"zotune rate {tmp_path}", "tuner": f"zotune resume {tmp_path}"}
    store.set_state(DONE)
    assert ask(server, "GET", "next").json()["outcome"] == "", "the run has no result"
    result = {"kept": "tuned", "tuned": {"value": 0.75, "rows": 20}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    said = ask(server, "GET", "next").json()["outcome"]
    assert said.startswith("The tuned model was kept. ")
    assert "75% of 20 questions" in said
    (tmp_path / "result.json").write_text(json.dumps({**result, "kept": "start"}))
    assert ask(server, "GET", "next").json()["outcome"].startswith("The base model was kept")


def test_a_rare_wish_gets_advice(store: Ratings) -> None:
    store.ask([Question(f"k{i}", f"k{i}", ("x", "y")) for i in range(60)])

    def advice(verdict: str, count: int) -> str:
        for _ in range(count):
            shown = store.next_question()
            assert shown
            store.record(shown.id, verdict)
        report = progress_report(store, ["p"], [("a", "b")], 0, 0)
        assert (in_words(report) == [report["advice"]]) is bool(report["advice"])
        return str(report["advice"])

    assert advice("bad", 12) == "", "too few answers"
    assert "the wish in words" in advice("bad", 8)
    assert advice("tie", 25) == ""


def test_a_wish_in_words(server: Server, store: Ratings) -> None:
    store.ask([Question("k", "k", ("x", "y"))])
    assert post(server, "wish", {"text": " a dog\n"}).json()["progress"]["wish"] == "a dog"
    assert store.wish() == "a dog"
    for wrong in ({}, {"text": 3}, {"text": "x" * 401}):
        assert post(server, "wish", wrong).status == 400
    assert post(server, "wish", {"text": ""}).json()["progress"]["wish"] == ""


def test_stopping_skips_what_is_left_of_the_tuning(server: Server, store: Ratings) -> None:
    asked = [Question(k, k, ("x", "y"), p) for k, p in (("a", "tune"), ("b", "progress"), ("c", "judge"))]
    store.ask(asked)
    assert not store.skip_if_stopping(["a"])
    reply = post(server, "stop", {}).json()
    assert reply["progress"]["stopping"] is True
    assert reply["question"]["prompt"] == "c", "the last comparison is still asked"
    assert store.scores(["a", "b", "c"]) == {"a": None, "b": None}
    store.ask([Question("d", "d", ("x", "y"))])
    assert store.skip_if_stopping(["d"])
    assert not store.skip_if_stopping(["c"])
    assert store.scores(["c", "d"]) == {"d": None}
    store.clear_stop()
    assert not store.skip_if_stopping(["a"])


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_the_browser_gets_the_address_from_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    with serve(tmp_path, open_browser=True) as server:
        (file,) = tmp_path.iterdir()
        assert opened == [file.as_uri()]
        assert server.token not in opened[0]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert server.address in file.read_text()
    assert not list(tmp_path.iterdir())
