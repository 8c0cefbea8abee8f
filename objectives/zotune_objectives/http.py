"""Your server as the objective: `-o http://host:port/path`, or https; larger scores are better.

Rows are posted as JSON in the shape that `format` selects:

    zotune   {"prompts": ["…"], "completions": ["…"], "references": ["…"], "rows": [{…}]}
             references: per row a text, a list of texts, or null; rows: the data's columns
    openrlhf {"query": ["prompt and completion"], "prompts": ["…"], "labels": ["the first reference, or empty"]}
    vllm     {"input": ["prompt and completion"]}                  /classify, /pooling; /v1/embeddings of SGLang
             {"text_1": ["prompt"], "text_2": ["completion"]}      /score, with pair=true
    sglang   {"text": ["prompt and completion"]}                   /classify
    tei      {"inputs": [["prompt and completion"]]}               text-embeddings-inference, /predict
             {"inputs": [["prompt", "completion"]]}                with pair=true

`model` adds the field "model", and `extra` any other fields, such as {"use_activation": false} or {"raw_scores": true}.

Replies are read in the same way for all formats: a list with one score per row, on its own or as "scores", "rewards" or
"data"; for a single row, and for level=set, also one score on its own or as "score" or "reward". A score is a number,
null if the row does not count, or an object with "score", "reward", "probs", "embedding" or "data". If these hold
several numbers, or several objects with "label", `reward_label` selects one. Objects with "index" are sorted by it.

After the statuses 408, 429 and 5xx and after connection errors a request is retried, `retries` times, after 0.5, 1, 2
… seconds or the server's Retry-After, at most a minute. Any other status, a reply that is not JSON, a wrong number of
scores, and a timeout are errors at once. Only redirects 307 and 308 within the server are followed; proxies are not
used.

Formats: remote reward models of OpenRLHF; servers of vLLM and SGLang, which verl calls in the same way; Hugging Face
text-embeddings-inference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import zotune
from zotune.errors import ObjectiveError, OptionError
from zotune.types import ObjectiveInfo
from zotune_objectives.http_post import JsonPost
from zotune_objectives.scorer_calls import Cancellation, Tally, check_positive, declaration, score_in_parts
from zotune_objectives.scorer_replies import server_scores
from zotune_objectives.scorer_rows import Rows, as_text


@zotune.objective(call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True, eq=False)
class Http:
    address: str  # host, port and path, as in //localhost:8000/score
    format: Literal["zotune", "openrlhf", "vllm", "sglang", "tei"] = "zotune"  # shape of a request
    pair: bool = False  # vllm and tei: whether prompt and completion are two texts
    model: str | None = None  # field "model" of the request
    reward_label: str | None = None  # label of the score, or its index, if the server replies several for a row
    extra: Any = None  # further fields of each request, a JSON object
    level: Literal["sample", "set"] = "sample"  # one score for each row, or one for all rows
    concurrency: int = 1  # requests at the same time
    batch_size: int = 16  # rows in a request
    timeout: float = 60.0  # seconds a request may take
    retries: int = 3  # further attempts after a connection error or a busy server
    backoff: float = 0.5  # seconds before the second attempt, doubled before each further one
    token_env: str | None = None  # environment variable with a token
    token_header: str = "Authorization"  # header of the token; any other header gets it without "Bearer"
    query_env: str | None = None  # environment variable with the query string, what follows "?" in the address

    scheme = "http"
    tally: Tally = field(default_factory=Tally, init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = {"concurrency": self.concurrency, "batch_size": self.batch_size, "timeout": self.timeout}
        check_positive(self.scheme, numbers)
        for name, value in (("retries", self.retries), ("backoff", self.backoff)):
            if not value >= 0:
                raise OptionError(f"{self.scheme}: {name} must be 0 or more, got {value}")
        self._check_address()
        if self.pair and self.format not in ("vllm", "tei"):
            raise OptionError(
                f"{self.scheme}: format={self.format} does not support pair=true", hint="use format vllm or tei"
            )
        if self.level == "set" and self.format != "zotune":
            raise OptionError(
                f"{self.scheme}: format={self.format} does not support level=set", hint="use format zotune"
            )
        if self.extra is not None and not isinstance(self.extra, Mapping):
            raise OptionError(f"{self.scheme}: extra must be a JSON object, got {self.extra!r}")
        self._token()
        self._query()

    def _check_address(self) -> None:
        if "@" in self.address.removeprefix("//").partition("/")[0]:
            raise OptionError(
                f"{self.scheme}: the address must not contain a password",
                hint="put a token into an environment variable and name it with token_env",
            )
        if "?" in self.address or "#" in self.address:
            raise OptionError(
                f"{self.scheme}: the address must not contain a ?query, whose keys would be saved in the run directory",
                hint="put the query into an environment variable and name it with query_env",
            )
        try:
            parts = urlsplit(f"{self.scheme}:{self.address}")
            valid = bool(self.address.startswith("//") and parts.hostname and parts.port != 0)
        except ValueError:
            valid = False
        if not valid or not self.address.isascii() or any(c <= " " or c == "\x7f" for c in self.address):
            example = f"{self.scheme}://localhost:8000/score"
            raise OptionError(f"{self.scheme}:{self.address!r} is not a valid address", hint=f"example: {example}")
        if not self.token_header.replace("-", "").isalnum() or not self.token_header.isascii():
            raise OptionError(f"{self.scheme}: token_header must be the name of a header, got {self.token_header!r}")

    def _token(self) -> str:
        """The token, empty if there is none. Raises OptionError."""
        return self._secret("token_env", self.token_env, "token")

    def _query(self) -> str:
        """The query string, empty if there is none. Raises OptionError."""
        query = self._secret("query_env", self.query_env, "query")
        if set(query) & set(" #"):
            raise OptionError(f"{self.scheme}: {self.query_env} (query_env) contains characters that no query may have")
        return query

    def _secret(self, option: str, variable: str | None, kind: str) -> str:
        """The value of an environment variable; it is stored nowhere."""
        if variable is None:
            return ""
        value = os.environ.get(variable, "").strip()
        if not value:
            raise OptionError(
                f"{self.scheme}: the environment variable {variable!r} ({option}) is not set",
                hint=f"export {variable}=…",
            )
        if not (value.isascii() and value.isprintable()):
            raise OptionError(f"{self.scheme}: {variable} ({option}) contains characters that no {kind} may have")
        return value

    def info(self) -> ObjectiveInfo:
        return declaration(self.level, self.tally)

    def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        references: Sequence[Any] | None = None,
        **columns: Any,
    ) -> Any:
        """One score or None for each row; with level=set one number. Raises ObjectiveError."""
        rows = Rows.from_inputs(completions, prompts, references, columns)
        if self.level == "sample":
            return score_in_parts(rows, self._score_rows, self.batch_size, self.concurrency)
        (score,) = self._scores(rows, 1, Cancellation())
        return score

    def _score_rows(self, rows: Rows, cancellation: Cancellation) -> list[float | None]:
        return self._scores(rows, len(rows), cancellation)

    def _scores(self, rows: Rows, count: int, cancellation: Cancellation) -> list[float | None]:
        """So many scores from one request."""
        body = json.dumps(self._request(rows)).encode()
        token = self._token()
        request = JsonPost(f"{self.scheme}:{self.address}", self._query(), self._headers(token), token, self.timeout)
        reply = request.post(body, self.retries, self.backoff, self.tally, cancellation)
        try:
            scores = server_scores(reply, count, self.reward_label)
            if self.level == "set" and scores == [None]:
                raise ValueError("null; with level=set it must reply a number")
        except ValueError as error:
            raise ObjectiveError(f"{request.name} replied {request.clean(str(error))}") from None
        except RecursionError:
            raise ObjectiveError(f"{request.name} replied scores that are nested too deeply") from None
        return scores

    def _request(self, rows: Rows) -> dict[str, Any]:
        """The JSON object to post."""
        pairs: list[tuple[str, str]] = []
        if self.format != "zotune":
            pairs = [(as_text(p), as_text(c)) for p, c in zip(rows.prompts, rows.completions, strict=True)]
        texts = [prompt + completion for prompt, completion in pairs]
        if self.format == "zotune":
            body = rows.single_object()
        elif self.format == "openrlhf":
            labels = [r if isinstance(r, str) else str(r[0]) if r else "" for r in rows.references]
            body = {"query": texts, "prompts": [p for p, _ in pairs], "labels": labels}
        elif self.format == "vllm" and self.pair:
            body = {"text_1": [p for p, _ in pairs], "text_2": [c for _, c in pairs]}
        elif self.format == "vllm":
            body = {"input": texts}
        elif self.format == "sglang":
            body = {"text": texts}
        else:
            body = {"inputs": [list(p) for p in pairs] if self.pair else [[t] for t in texts]}
        return {**body, **({"model": self.model} if self.model else {}), **(self.extra or {})}

    def _headers(self, token: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "zotune", "Connection": "close"}
        if token:
            is_bearer = self.token_header.lower() == "authorization"
            headers[self.token_header] = f"Bearer {token}" if is_bearer else token
        return headers


class Https(Http):
    scheme = "https"
