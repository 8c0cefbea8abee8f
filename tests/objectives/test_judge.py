"""Judges: functions and servers. Position bias is counted and cancels; a judge that fails is never a score."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from score_server import ScoreServer
from zotune_objectives.chat_judge import read_verdict
from zotune_objectives.judge import Judge

from zotune.errors import ObjectiveError, OptionError
from zotune.scoring import objective_spec

PROMPTS = ["p", "q", "r"]
CANDIDATES = [("a long answer", "short"), ("no", "a longer one"), ("same length", "length same")]


@pytest.fixture
def server() -> Iterator[ScoreServer]:
    made = ScoreServer()
    yield made
    made.close()


def completion(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], **more}


def answers(body: Any) -> tuple[str, str]:
    """Answer A and answer B of a request."""
    asked = body["messages"][1]["content"]
    first = asked.split("<answer A>\n")[1].split("\n</answer A>")[0]
    return first, asked.split("<answer B>\n")[1].split("\n</answer B>")[0]


def longer(body: Any) -> Any:
    first, second = answers(body)
    verdict = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return completion(verdict, usage={"prompt_tokens": 50, "completion_tokens": 1})


def judge(server: ScoreServer, **options: Any) -> Judge:
    return Judge(f"http://127.0.0.1:{server.port}/v1", **options)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_compares_in_both_orders(server: ScoreServer, concurrency: int) -> None:
    server.answer = longer
    made = judge(server, rubric="Longer is better.", model="m", concurrency=concurrency)
    assert made(PROMPTS, CANDIDATES) == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    assert len(server.requests) == 6
    assert sorted(answers(x) for x in server.requests) == sorted([*CANDIDATES, *(c[::-1] for c in CANDIDATES)])
    assert all("Longer is better." in x["messages"][0]["content"] for x in server.requests)
    assert {(x["model"], x["temperature"]) for x in server.requests} == {("m", 0)}
    counts = made.info().faults()
    assert (counts["calls"], counts["prompt_tokens"], counts["completion_tokens"]) == (6, 300, 6)
    assert (counts["verdicts for the first place"], counts["verdicts for the second place"]) == (2, 2)


def test_a_server_that_always_says_first_is_found_and_cancels(server: ScoreServer) -> None:
    server.answer = lambda body: completion("Verdict: A.")
    made = judge(server)
    assert made(PROMPTS, CANDIDATES) == [[0.5, 0.5]] * 3
    counts = made.info().faults()
    assert counts["verdicts for the first place"] == 6
    assert "verdicts for the second place" not in counts


def test_a_function_that_always_says_first_is_found_and_cancels(tmp_path: Path) -> None:
    (tmp_path / "j.py").write_text("def first(prompts, completions):\n    return [0] * len(completions)\n")
    made = Judge(f"{tmp_path / 'j.py'}:first")
    rows = [(f"a {i}", f"b {i}") for i in range(400)]
    won = [row[0] for row in made([f"p {i}" for i in range(400)], rows)]
    assert abs(sum(won) - 200) < 60, "either side wins by chance: six standard deviations"
    assert made.info().faults() == {"verdicts for the first place": 400}


def test_three_candidates(server: ScoreServer) -> None:
    server.answer = longer
    assert judge(server)(["p"], [("a", "aaa", "aa")]) == [[0.0, 1.0, 0.5]]
    assert len(server.requests) == 6


def test_a_reply_without_a_verdict_decides_nothing(server: ScoreServer) -> None:
    server.answer = lambda body: completion("I like both" if "short" in answers(body) else "B")
    made = judge(server)
    assert made(PROMPTS, CANDIDATES) == [None, [0.5, 0.5], [0.5, 0.5]]
    assert made.info().faults()["unreadable verdicts"] == 2
    server.answer = lambda body: completion("")
    with pytest.raises(ObjectiveError, match="no reply names A, B or tie"):
        made(PROMPTS, CANDIDATES)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((500, {}, b"broken"), "replied 500: broken"),
        ((404, {}, b"no such model"), "replied 404: no such model"),
        ({"error": "x"}, "replied no chat completion"),
        ({"choices": []}, "replied no chat completion"),
        ((200, {}, b"not JSON"), "did not reply JSON"),
    ],
)
def test_a_server_that_fails_is_never_a_score(
    server: ScoreServer, reply: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zotune_objectives.http_post.MAX_WAIT", 0.0)
    server.answer = lambda body: reply
    with pytest.raises(ObjectiveError, match=message):
        judge(server)(PROMPTS, CANDIDATES)


def test_tokens_stay_out_of_options_and_messages(server: ScoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "very-secret")
    server.answer = lambda body: (401, {}, b"bad token very-secret")
    with pytest.raises(ObjectiveError) as refused:
        judge(server, token_env="JUDGE_TOKEN")(PROMPTS, CANDIDATES)
    assert server.headers[0]["Authorization"] == "Bearer very-secret"
    assert "very-secret" not in str(refused.value)
    with pytest.raises(OptionError, match="NOT_SET"):
        judge(server, token_env="NOT_SET")
    for address in ("http://user:word@host/v1", "http://host/v1?key=word"):
        with pytest.raises(OptionError, match="neither a password nor"):
            Judge(address)
    with pytest.raises(OptionError, match="for a judge behind a server"):
        Judge("f.py:g", rubric="x")


def test_it_is_named_as_other_objectives_are(server: ScoreServer) -> None:
    server.answer = longer
    made = objective_spec.resolve(f"judge:http://127.0.0.1:{server.port}/v1", {"rubric": "Longer is better."})
    assert made.ordered
    compared = made.compare({"prompts": ["p"]}, [["short", "much longer"]])
    assert compared == [[0.0, 1.0]]
    assert json.loads(json.dumps(dict(made.faults())))["calls"] == 2


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", 0), ("b.", 1), ("Answer B", 1), ("**A**", 0), ("Verdict: tie", -1), ("\n\nAnswer: A\nbecause", 0),
        ("The answer A is better", None), ("A or B", None), ("", None), ("Both\nB", 1),
    ],
)  # fmt: skip
def test_verdicts_are_read(text: str, verdict: int | None) -> None:
    assert read_verdict(text) == verdict
