"""A server as the objective: every failure is an error and never a score."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from score_server import ScoreServer, in_turn
from zotune_objectives import scorer_calls
from zotune_objectives.http import Http, Https

from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec
from zotune.scoring.objective import wrap
from zotune.testing import ObjectiveContract

ROWS: dict[str, Any] = {
    "prompts": ["a", "b", "c", "d", "e"],
    "completions": ["x", "xx", "", "xxx", "xxxxx"],
    "references": ["x", ["y", "z"], None, "w", "v"],
}
LENGTHS = [1.0, 2.0, 0.0, 3.0, 5.0]
"""The lengths of the completions in ROWS."""


@pytest.fixture
def server() -> Iterator[ScoreServer]:
    server = ScoreServer()
    yield server
    server.close()


def test_requests_in_parts_and_scores_in_order(server: ScoreServer) -> None:
    scorer = server.scorer(batch_size=2)
    assert scorer(**ROWS, topic=["s"] * 5, odd=[object()] * 5) == LENGTHS
    assert server.requests[2] == {
        "prompts": ["e"],
        "completions": ["xxxxx"],
        "references": ["v"],
        "rows": [{"topic": "s"}],
    }
    assert server.requests[0]["references"] == ["x", ["y", "z"]]
    assert scorer.tally == {"calls": 3, "retries": 0, "restarts": 0}
    texts = ["né 👍\n\u2028", "\ud800"]
    assert scorer(texts, texts) == [6.0, 1.0]
    assert server.requests[-1]["completions"] == texts


def test_concurrent_requests(server: ScoreServer) -> None:
    barrier = threading.Barrier(2, timeout=10)

    def answer(body: Any) -> Any:
        barrier.wait()
        return [float(p) for p in body["prompts"]]

    server.answer = answer
    rows = [str(i) for i in range(8)]
    assert server.scorer(concurrency=2, batch_size=2)(rows, rows) == [float(i) for i in range(8)]


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ({"scores": [1, None]}, [1.0, None]),
        ({"rewards": [1, 0.5], "scores": [9, 9], "extra_logs": {"x": [1, 2]}}, [1.0, 0.5]),  # OpenRLHF
        ({"rewards": [[1.5], [2.5]]}, [1.5, 2.5]),
        ([1, True], [1.0, 1.0]),
        ([{"score": 3}, {"reward": 4}], [3.0, 4.0]),
        ({"data": [{"index": 1, "score": 0.1}, {"index": 0, "score": 0.2}]}, [0.2, 0.1]),  # vLLM /score
        (
            {"data": [{"index": 0, "label": "a", "probs": [0.1]}, {"index": 1, "label": "a", "probs": [0.9]}]},
            [0.1, 0.9],
        ),
        ({"data": [{"index": 0, "data": [0.3]}, {"index": 1, "data": 0.4}]}, [0.3, 0.4]),  # vLLM /pooling
        ([{"embedding": [-3.5], "meta_info": {}}, {"embedding": [2.0], "meta_info": {}}], [-3.5, 2.0]),  # SGLang
        ([[{"label": "LABEL_0", "score": 0.7}], [{"label": "LABEL_0", "score": 0.2}]], [0.7, 0.2]),  # TEI
        ([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}], [0.1, 0.9]),  # sorted by score, as rerankers reply
    ],
)
def test_replies_of_known_servers(server: ScoreServer, reply: Any, scores: list[float | None]) -> None:
    server.answer = lambda body: reply
    assert server.scorer()(["x", "y"], ["p", "q"]) == scores


@pytest.mark.parametrize(
    ("reply", "label", "score"),
    [
        ({"data": [{"index": 0, "probs": [0.1, 0.7, 0.2]}]}, "1", 0.7),
        ([[{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}]], "bad", 0.1),
        ([{"label": "LABEL_1", "score": 0.9}, {"label": "LABEL_0", "score": 0.1}], "0", 0.1),  # TEI, of one text
        ({"score": 2}, None, 2.0),
        (0.5, None, 0.5),
        ({"embedding": [1.0]}, None, 1.0),
    ],
)
def test_replies_of_one_row(server: ScoreServer, reply: Any, label: str | None, score: float) -> None:
    server.answer = lambda body: reply
    assert server.scorer(reward_label=label)(["x"], ["p"]) == [score]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"scores": [1]}, "replied 1 scores for 2 rows"),
        ([1, 2, 3], "replied 3 scores for 2 rows"),
        ([1, "2"], "replied 2 is not a number"),
        ({"error": "out of memory"}, "replied 1 scores for 2 rows"),
        ([{"error": "x"}, {"score": 1}], "an object without a score; it has error"),
        ([[0.1, 0.9], [0.2, 0.8]], "2 numbers for a row; set reward_label to one of 0, 1"),
        ([[[0.1], [0.9]], [[0.2], [0.8]]], "a nested list instead of one number"),
        ([{"index": 0, "score": 1}, {"index": 0, "score": 2}], "whose indices are not those of the rows"),
        ((200, {}, '{"scores": [NaN, 1]}'), r"not reply JSON \(NaN is not a number\)"),
        ((200, {}, '{"scores": [1e999, 1]}'), "out of range"),
        ((200, {}, "<html>hello</html>"), "did not reply JSON, but <html>hello</html>"),
        ((200, {}, ""), "not reply JSON, but nothing"),
        ((200, {}, b"\xff\xfe"), "not reply JSON"),
        ((404, {}, "no such model\nand more"), r"replied 404: no such model$"),
        ((401, {}, ""), "replied 401: Unauthorized"),
        ((302, {"Location": "http://elsewhere.example/x?k=1"}, ""), "a redirect to elsewhere.example, which is not"),
        ((307, {"Location": "http://elsewhere.example/x"}, ""), "a redirect to elsewhere.example, which is not"),
        ((307, {"Location": "/score"}, ""), "redirects to itself"),
        ((307, {"Location": "//["}, ""), "a redirect to nowhere, which is not"),
    ],
)
def test_bad_replies_are_not_retried(server: ScoreServer, reply: Any, message: str) -> None:
    server.answer = lambda body: reply
    scorer = server.scorer()
    with pytest.raises(ObjectiveError, match=f"http://127.0.0.1:{server.port}/score .*{message}"):
        scorer(["x", "y"], ["p", "q"])
    assert scorer.tally == {"calls": 1, "retries": 0, "restarts": 0}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_retried(server: ScoreServer, status: int) -> None:
    server.answer = in_turn((status, {}, "busy"), (status, {}, "busy"), [1.0])
    scorer = server.scorer()
    assert scorer(["x"], ["p"]) == [1.0]
    assert scorer.tally == {"calls": 3, "retries": 2, "restarts": 0}
    server.answer = lambda body: (status, {}, "still busy")
    with pytest.raises(ObjectiveError, match=f"replied {status}: still busy .after 4 attempts"):
        scorer(["x"], ["p"])
    with pytest.raises(ObjectiveError, match=r"still busy$"):
        server.scorer(retries=0)(["x"], ["p"])


def test_waits_are_doubled_or_set_by_the_server(server: ScoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    class Recorded(scorer_calls.Cancellation):
        def __init__(self) -> None:
            super().__init__()
            self.requested = Event()

    monkeypatch.setattr("zotune_objectives.scorer_calls.Cancellation", Recorded)
    later = "Fri, 31 Dec 2999 23:59:59 GMT"
    server.answer = in_turn(
        (500, {}, ""), (500, {}, ""), (429, {"Retry-After": "7"}, ""), (503, {"Retry-After": later}, ""),
        (503, {"Retry-After": "soon"}, ""), [1.0],
    )  # fmt: skip
    assert server.scorer(retries=5, backoff=0.25)(["x"], ["p"]) == [1.0]
    assert waits == [0.25, 0.5, 7.0, 60.0, 4.0]


def test_a_broken_connection_is_retried(server: ScoreServer) -> None:
    server.answer = in_turn(None, (200, {"Content-Length": "1000"}, "[1.0]"), [1.0])
    assert server.scorer()(["x"], ["p"]) == [1.0]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    unreachable = Http(f"//127.0.0.1:{port}/", backoff=0.0, retries=1)
    with pytest.raises(ObjectiveError, match=r"cannot be reached: Connection refused .after 2 attempts"):
        unreachable(["x"], ["p"])


def test_an_invalid_chunk_length_is_a_connection_error(server: ScoreServer) -> None:
    server.answer = lambda body: (200, {"Transfer-Encoding": "chunked"}, "-5\r\n1")
    with pytest.raises(ObjectiveError, match=r"cannot be reached"):
        server.scorer(retries=0)(["x"], ["p"])


def test_the_timeout(server: ScoreServer) -> None:
    server.answer = lambda body: server.hang.wait(20) or [1.0]
    scorer = server.scorer(timeout=0.2)
    start = time.monotonic()
    with pytest.raises(ObjectiveError, match=r"did not reply within 0\.2 s"):
        scorer(["x"], ["p"])
    assert time.monotonic() - start < 5
    assert scorer.tally["calls"] == 1


def test_the_timeout_holds_for_the_whole_reply() -> None:
    """Each part of the reply comes in time, but the whole does not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        done = threading.Event()

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                try:
                    while not done.wait(0.05):
                        connection.sendall(b"X-Slow: 1\r\n")
                except OSError:
                    pass

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        with pytest.raises(ObjectiveError, match=r"did not reply within 0\.3 s"):
            Http(f"//127.0.0.1:{listening.getsockname()[1]}/", timeout=0.3)(["x"], ["p"])
        done.set()
        thread.join(5)


def test_endless_replies_are_refused(server: ScoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zotune_objectives.http_post.MAX_REPLY", 1 << 20)
    server.answer = lambda body: (200, {}, " " * (1 << 21))
    with pytest.raises(ObjectiveError, match="replied more than 1 MB"):
        server.scorer()(["x"], ["p"])


def test_redirects_within_the_server_are_followed(server: ScoreServer) -> None:
    server.answer = in_turn((307, {"Location": "/score/"}, ""), [1.0])
    assert server.scorer()(["x"], ["p"]) == [1.0]
    assert server.requests[0] == server.requests[1]


def test_the_token_is_sent_and_never_shown(server: ScoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"'SCORER_TOKEN'.*is not set"):
        server.scorer(token_env="SCORER_TOKEN")
    for bad in ("se\ncret", "sécret"):
        monkeypatch.setenv("SCORER_TOKEN", bad)
        with pytest.raises(OptionError, match="characters that no token may have") as error:
            server.scorer(token_env="SCORER_TOKEN")
        assert "cret" not in str(error.value).replace("SCORER", "")
    monkeypatch.setenv("SCORER_TOKEN", "sk-verysecret\n")
    scorer = server.scorer(token_env="SCORER_TOKEN", retries=1)
    assert scorer(["x"], ["p"]) == [1.0]
    assert server.headers[-1]["Authorization"] == "Bearer sk-verysecret"
    server.scorer(token_env="SCORER_TOKEN", token_header="X-API-Key")(["x"], ["p"])
    assert server.headers[-1]["X-API-Key"] == "sk-verysecret"
    assert "Authorization" not in server.headers[-1]
    shown = [repr(scorer), str(vars(scorer))]
    for reply in (
        (401, {}, "who is sk-verysecret?"),
        (500, {}, "sk-verysecret"),
        (200, {}, "sk-verysecret"),
        (200, {}, '[{"sk-verysecret": 1}]'),
        (200, {}, '["sk-verysecret"]'),
        (302, {"Location": "http://sk-verysecret/"}, ""),
    ):
        server.answer = lambda body, reply=reply: reply
        with pytest.raises(ObjectiveError) as failed:
            scorer(["x"], ["p"])
        assert "***" in str(failed.value)
        shown.append(str(failed.value))
    assert "verysecret" not in "".join(shown)


def test_one_score_for_all_rows(server: ScoreServer) -> None:
    scorer = server.scorer(level="set", batch_size=2)
    objective = wrap(scorer, "http")
    assert (objective.info.level, objective.info.cacheable) == ("set", False)
    for reply in ({"score": 0.5}, 0.5, [0.5], {"reward": 0.5}):
        server.answer = lambda body, reply=reply: reply
        assert objective.score(5, ROWS).value == 0.5
    assert server.requests[-1]["completions"] == ROWS["completions"]
    for reply, message in (({"scores": [1, 2]}, "2 scores for 1 rows"), (None, "null; with level=set")):
        server.answer = lambda body, reply=reply: (200, {}, json.dumps(reply))
        with pytest.raises(ObjectiveError, match=message):
            objective.score(5, ROWS)


@pytest.mark.parametrize(
    ("options", "request_body"),
    [
        ({"format": "openrlhf"}, {"query": ["p c", "q d"], "prompts": ["p ", "q "], "labels": ["r", ""]}),
        ({"format": "vllm", "model": "m"}, {"input": ["p c", "q d"], "model": "m"}),
        ({"format": "vllm", "pair": True}, {"text_1": ["p ", "q "], "text_2": ["c", "d"]}),
        ({"format": "sglang", "extra": {"rid": 1}}, {"text": ["p c", "q d"], "rid": 1}),
        ({"format": "tei"}, {"inputs": [["p c"], ["q d"]]}),
        ({"format": "tei", "pair": True}, {"inputs": [["p ", "c"], ["q ", "d"]]}),
    ],
)
def test_requests_of_known_servers(server: ScoreServer, options: Any, request_body: Any) -> None:
    server.answer = lambda body: [1, 2]
    assert server.scorer(**options)(["c", "d"], ["p ", "q "], [["r", "s"], None]) == [1.0, 2.0]
    assert server.requests == [request_body]


def test_conversations_are_sent_as_messages_or_as_text(server: ScoreServer) -> None:
    prompt, completion = [{"role": "user", "content": "p"}], [{"role": "assistant", "content": "c"}]
    server.answer = lambda body: [1]
    server.scorer()([completion], [prompt])
    server.scorer(format="vllm")([completion], [prompt])
    assert server.requests[0]["prompts"] == [prompt]
    assert server.requests[1] == {"input": ["pc"]}


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("localhost:80/x", {}, "is not a valid address"),
        ("//", {}, "is not a valid address"),
        ("//localhost:x/", {}, "is not a valid address"),
        ("//localhost:99999/", {}, "is not a valid address"),
        ("//local host/", {}, "is not a valid address"),
        ("//me:secret@localhost/", {}, "must not contain a password"),
        ("//localhost/", {"timeout": 0.0}, "timeout must be positive"),
        ("//localhost/", {"retries": -1}, "must be 0 or more"),
        ("//localhost/", {"pair": True}, "does not support pair=true"),
        ("//localhost/", {"format": "tei", "level": "set"}, "does not support level=set"),
        ("//localhost/", {"extra": "{x"}, "must be a JSON object"),
        ("//localhost/", {"token_header": "A: b\r\nC"}, "must be the name of a header"),
    ],
)
def test_addresses_and_options_are_checked_at_construction(address: str, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        Http(address, **options)
    assert "secret" not in str(error.value)


def test_https_uses_tls(server: ScoreServer) -> None:
    """A server without TLS gets no request in plain text."""
    scorer = Https(server.address, backoff=0.0, retries=0, timeout=5.0)
    assert Https.scheme == "https"
    with pytest.raises(ObjectiveError, match=r"https://127\.0\.0\.1.* cannot be reached"):
        scorer(["x"], ["p"])
    assert server.requests == []


def test_an_interrupt_ends_concurrent_requests(server: ScoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the thread that waits for the requests."""
    received = threading.Semaphore(0)

    def hang(body: Any) -> Any:
        received.release()
        server.hang.wait(20)

    server.answer = hang

    def interrupted(running: Any, **options: Any) -> None:
        received.acquire(timeout=10)
        raise KeyboardInterrupt

    monkeypatch.setattr("zotune_objectives.scorer_calls.wait", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        server.scorer(concurrency=2)(["", ""], ["", ""])
    assert time.monotonic() - start < 5


def test_an_http_scorer_by_name(server: ScoreServer) -> None:
    objective = objective_spec.resolve(f"http:{server.address}", {"format": "zotune", "extra": '{"x": 1}'})
    assert objective.score(5, ROWS).samples == tuple(LENGTHS)
    assert server.requests[-1]["x"] == 1
    assert os.environ.get("SCORER_TOKEN") is None


class TestHttpContract(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: ScoreServer) -> None:
        server.answer = lambda body: [
            float(c == r) for c, r in zip(body["completions"], body["references"], strict=True)
        ]
        self.server = server

    def objective(self) -> Callable[..., Any]:
        return self.server.scorer()
