"""A language model behind an OpenAI-compatible server as the judge of two completions: `judge:http://host:port/v1`.

One request to ADDRESS/chat/completions for each pair and order, at temperature 0; the reply's first line that holds
"A", "B" or "tie" as a word of its own, after an optional "verdict:", is the verdict. The rubric says what is better.

This module knows the requests and how a verdict is read; it knows no rows and no strengths.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from zotune.errors import ObjectiveError, OptionError
from zotune_objectives.http_post import JsonPost
from zotune_objectives.scorer_calls import Cancellation, Tally, check_positive, run, split

RUBRIC = "The better answer does what the prompt asks for, is correct, and is clear."
INSTRUCTIONS = """You compare two answers to the same prompt. What is better:

{rubric}

Length, style and the order of the answers do not count unless this says so. Reply with one word: A if answer A is \
better, B if answer B is better, tie if neither is."""
QUESTION = """<prompt>
{prompt}
</prompt>

<answer A>
{first}
</answer A>

<answer B>
{second}
</answer B>

Which answer is better: A, B or tie?"""
VERDICTS = {"a": 0, "b": 1, "tie": -1}
MAX_TOKENS = 16


@dataclass(frozen=True)
class ChatJudge:
    """url: of the API, such as http://localhost:8000/v1; model: its name there, "" for a server with one model.

    tally: counts calls, retries, tokens and verdicts that could not be read. Raises OptionError.
    """

    url: str
    model: str
    rubric: str
    token_env: str | None
    concurrency: int
    timeout: float
    retries: int = 3
    tally: Tally = field(default_factory=Tally, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("judge", {"concurrency": self.concurrency, "timeout": self.timeout})
        if "@" in self.url or "?" in self.url or "#" in self.url:
            raise OptionError(
                "judge: the address must contain neither a password nor a ?query, which would be saved",
                hint="put a token into an environment variable and name it with token_env",
            )
        self._token()

    def verdicts(self, prompts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[int | None]:
        """For each pair 0 if the first is better, 1 if the second, -1 for a tie, None where the reply says none of
        these. Raises ObjectiveError where a request fails."""
        cancellation = Cancellation()

        def judged(part: slice) -> list[int | None]:
            both = zip(prompts[part], pairs[part], strict=True)
            return [self._verdict(prompt, *pair, cancellation) for prompt, pair in both]

        parts = run(judged, split(len(pairs), 1, self.concurrency), self.concurrency, cancellation)
        return [v for part in parts for v in part]

    def _verdict(self, prompt: str, first: str, second: str, cancellation: Cancellation) -> int | None:
        token = self._token()
        headers = {"Content-Type": "application/json", "User-Agent": "zotune", "Connection": "close"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = JsonPost(f"{self.url.rstrip('/')}/chat/completions", "", headers, token, self.timeout)
        body = {
            "messages": [
                {"role": "system", "content": INSTRUCTIONS.format(rubric=self.rubric or RUBRIC)},
                {"role": "user", "content": QUESTION.format(prompt=prompt, first=first, second=second)},
            ],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            **({"model": self.model} if self.model else {}),
        }
        reply = request.post(json.dumps(body).encode(), self.retries, 0.5, self.tally, cancellation)
        try:
            text = reply["choices"][0]["message"]["content"]
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            start = request.clean(json.dumps(reply)[:2000])
            raise ObjectiveError(f"{request.name} replied no chat completion, but {start}") from None
        usage = reply.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            count = usage.get(name) if isinstance(usage, dict) else None
            if isinstance(count, int) and count > 0:
                self.tally.add(name, count)
        verdict = read_verdict(text)
        if verdict is None:
            self.tally.add("unreadable verdicts")
        return verdict

    def _token(self) -> str:
        """The token, empty if there is none. Raises OptionError."""
        if self.token_env is None:
            return ""
        token = os.environ.get(self.token_env, "").strip()
        if not token or not (token.isascii() and token.isprintable()):
            raise OptionError(
                f"judge: the environment variable {self.token_env!r} (token_env) holds no token",
                hint=f"export {self.token_env}=…",
            )
        return token


def read_verdict(text: str) -> int | None:
    """0 for A, 1 for B, -1 for a tie: of the first line that says one of them and no other; None where none does."""
    for line in text.strip().splitlines():
        said = re.sub(r"^\W*(final\s+)?(verdict|answer|better)\s*(is|:)\s*", "", line.strip().lower())
        match = re.fullmatch(r"\W*(?:answer\s+)?(a|b|tie)\W*", said)
        if match:
            return VERDICTS[match[1]]
    return None


__all__ = ["ChatJudge", "read_verdict"]
