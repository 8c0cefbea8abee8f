"""A server of yours as the objective: `-o http://host:port/path`, or https.

Rows are posted as JSON, `format` says in which shape:

    zotune   {"prompts": ["…"], "completions": ["…"], "references": ["…"], "rows": [{…}]}
             references: the right text, a list of them, or null; rows: the data's own columns
    openrlhf {"query": ["prompt and completion"], "prompts": ["…"], "labels": ["the first right text, or nothing"]}
    vllm     {"input": ["prompt and completion"]}                  /classify, /pooling; SGLang's /v1/embeddings
             {"text_1": ["prompt"], "text_2": ["completion"]}      /score, with pair=true
    sglang   {"text": ["prompt and completion"]}                   /classify
    tei      {"inputs": [["prompt and completion"]]}               text-embeddings-inference, /predict
             {"inputs": [["prompt", "completion"]]}                with pair=true

`model` adds "model", and `extra` any other fields, such as {"use_activation": false} or {"raw_scores": true}. The reply
is understood whatever the format: a list of scores, bare or as "scores", "rewards" or "data", one a row; for one row,
and for level=set, also one score bare or as "score" or "reward". A score is a number, null where the row does not
count, or an object with one as "score", "reward", "probs", "embedding" or "data". Where these hold several numbers, or
several objects with "label", `reward_label` says which one counts. Objects with "index" are put in its order.

Statuses 408, 429 and 5xx and broken connections are tried again, `retries` times, after 0.5, 1, 2, … seconds or what
Retry-After says, a minute at most; any other status, a reply that is no JSON or has other scores than rows, and no
reply in time are errors at once. Only redirects 307 and 308 within the same server are followed; proxies are not used.

Formats: OpenRLHF's remote reward models, vLLM's and SGLang's servers (which verl asks in the same way), Hugging Face
text-embeddings-inference.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote, urljoin, urlsplit

import zotune
from zotune.errors import ObjectiveError, OptionError
from zotune.types import ObjectiveInfo
from zotune_objectives import calls

LARGEST = 1 << 24
"""Bytes of a reply at most."""
CLIP = 2000
"""Bytes of a reply that an error message is made from."""
LONGEST_WAIT = 60.0
"""Seconds between two tries at most, whatever the server asks for."""
HOPS = 3
"""Redirects within a server at most."""
AGAIN = frozenset({408, 429})


@zotune.objective(call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True, eq=False)
class Http:
    address: str  # host, port and path, as in //localhost:8000/score
    format: Literal["zotune", "openrlhf", "vllm", "sglang", "tei"] = "zotune"  # the shape of a request
    pair: bool = False  # vllm and tei: prompt and completion as two texts
    model: str | None = None  # "model" of the request, where the server asks for it
    reward_label: str | None = None  # label, or its number, where a row has a score for each
    extra: Any = None  # further fields of each request, as a JSON object
    level: Literal["sample", "set"] = "sample"  # one score a row, or one for all rows
    concurrency: int = 1  # requests at a time
    batch_size: int = 16  # rows a request at most
    timeout: float = 60.0  # seconds a request
    retries: int = 3  # further tries where a server is busy or not there
    backoff: float = 0.5  # seconds before the second try, twice as long before each further one
    token_env: str | None = None  # environment variable that holds a token
    token_header: str = "Authorization"  # header for the token; any other than this one has it without "Bearer"
    query_env: str | None = None  # environment variable that holds what follows "?" in the address

    scheme = "http"
    tally: calls.Tally = field(default_factory=calls.Tally, init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = {"concurrency": self.concurrency, "batch_size": self.batch_size, "timeout": self.timeout}
        calls.check(self.scheme, numbers)
        if self.retries < 0 or not self.backoff >= 0:
            raise OptionError(f"{self.scheme}: retries and backoff must be 0 or more")
        self._check_address()
        if self.pair and self.format not in ("vllm", "tei"):
            raise OptionError(f"{self.scheme}: format {self.format} has no pairs", hint="vllm and tei have")
        if self.level == "set" and self.format != "zotune":
            raise OptionError(f"{self.scheme}: format {self.format} scores rows, it has no level=set")
        if self.extra is not None and not isinstance(self.extra, Mapping):
            raise OptionError(f"{self.scheme}: extra must be a JSON object, got {self.extra!r}")
        self._secret("token_env", self.token_env)
        self._secret("query_env", self.query_env)

    def _check_address(self) -> None:
        example = f"{self.scheme}://localhost:8000/score"
        if "@" in self.address.removeprefix("//").partition("/")[0]:
            raise OptionError(f"{self.scheme}: an address must not hold a password", hint="token_env says where it is")
        if "?" in self.address or "#" in self.address:
            raise OptionError(
                f"{self.scheme}: an address must hold no ?query, which would stand in the run folder with its keys",
                hint="query_env names an environment variable that holds it",
            )
        try:
            parts = urlsplit(f"{self.scheme}:{self.address}")
            fine = bool(self.address.startswith("//") and parts.hostname and parts.port != 0)
        except ValueError:
            fine = False
        if not fine or not self.address.isascii() or any(c <= " " or c == "\x7f" for c in self.address):
            raise OptionError(f"{self.scheme}:{self.address!r} is no address", hint=f"such as {example}")
        if not self.token_header.replace("-", "").isalnum() or not self.token_header.isascii():
            raise OptionError(f"{self.scheme}: {self.token_header!r} (token_header) is no name of a header")

    def _secret(self, option: str, name: str | None) -> str:
        """What the environment variable of this name, the value of the option, holds; it is nowhere kept."""
        if name is None:
            return ""
        said = os.environ.get(name, "").strip()
        if not said:
            raise OptionError(f"{self.scheme}: the environment variable {name!r} ({option}) is not set")
        if not (said.isascii() and said.isprintable()) or (option == "query_env" and set(said) & set(" #")):
            what = "token" if option == "token_env" else "query"
            raise OptionError(f"{self.scheme}: {name} ({option}) holds characters that no {what} has")
        return said

    def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        references: Sequence[Any] | None = None,
        **columns: Any,
    ) -> Any:
        """One score or None a row; with level=set one number. Raises ObjectiveError."""
        rows = calls.gather(completions, prompts, references, columns)
        stop = calls.Stop()
        if self.level == "set":
            return self._scores(rows, stop)[0]
        chosen = calls.parts(len(rows), self.batch_size, self.concurrency)
        answers = calls.spread(lambda at: self._scores(rows.part(at), stop), chosen, self.concurrency, stop)
        return [x for part in answers for x in part]

    def info(self) -> ObjectiveInfo:
        return calls.declaration(self.level, self.tally)

    # -- requests and replies ------------------------------------------------------------------------------------------

    def _scores(self, rows: calls.Rows, stop: calls.Stop) -> list[float | None]:
        body = json.dumps(self._request(rows)).encode()
        query = self._secret("query_env", self.query_env)
        url = f"{self.scheme}:{self.address}" + (f"?{query}" if query else "")
        call = _Call(url, self.timeout, self._headers(), _secrets(self._secret("token_env", self.token_env), query))
        reply = self._reply(call, body, stop)
        try:
            if self.level == "set":
                found = scores(reply, 1, self.reward_label)
                if found == [None]:
                    raise ValueError("null where one number for all rows belongs")
                return found
            return scores(reply, len(rows), self.reward_label)
        except ValueError as error:
            raise ObjectiveError(f"{call.name} replied {call.clean(str(error))}") from None
        except RecursionError:
            raise ObjectiveError(f"{call.name} replied scores that are nested too deeply") from None

    def _request(self, rows: calls.Rows) -> dict[str, Any]:
        prompts, said = map(calls.as_text, rows.prompts), map(calls.as_text, rows.completions)
        pairs = list(zip(prompts, said, strict=True)) if self.format != "zotune" else []
        texts = [p + c for p, c in pairs]
        if self.format == "zotune":
            body = rows.together()
        elif self.format == "openrlhf":
            right = [r if isinstance(r, str) else str(r[0]) if r else "" for r in rows.references]
            body = {"query": texts, "prompts": [p for p, _ in pairs], "labels": right}
        elif self.format == "vllm" and self.pair:
            body = {"text_1": [p for p, _ in pairs], "text_2": [c for _, c in pairs]}
        elif self.format == "vllm":
            body = {"input": texts}
        elif self.format == "sglang":
            body = {"text": texts}
        else:
            body = {"inputs": [list(p) for p in pairs] if self.pair else [[t] for t in texts]}
        return {**body, **({"model": self.model} if self.model else {}), **(self.extra or {})}

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "zotune", "Connection": "close"}
        if token := self._secret("token_env", self.token_env):
            bearer = self.token_header.lower() == "authorization"
            headers[self.token_header] = f"Bearer {token}" if bearer else token
        return headers

    def _reply(self, call: _Call, body: bytes, stop: calls.Stop) -> Any:
        for attempt in range(self.retries + 1):
            self.tally.add("calls")
            try:
                return call.post(body, stop)
            except _Again as error:
                if attempt == self.retries or stop.asked.is_set():
                    tries = f" (tried {attempt + 1} times)" if attempt else ""
                    raise ObjectiveError(f"{error}{tries}") from None
                wait = self.backoff * 2.0**attempt if error.after is None else error.after
                self.tally.add("retries")
                stop.asked.wait(min(wait, LONGEST_WAIT))
        raise AssertionError("unreachable")


class Https(Http):
    scheme = "https"


class _Again(Exception):
    """What may be better at another try. after: seconds that the server asks for."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class _Call:
    """Posts to one address. Its name and its errors hold no secret."""

    def __init__(self, url: str, timeout: float, headers: Mapping[str, str], secrets: Sequence[str]) -> None:
        self._url, self._timeout, self._headers, self._secrets = url, timeout, headers, secrets
        self.name = url.partition("?")[0]

    def post(self, body: bytes, stop: calls.Stop) -> Any:
        """The reply's JSON. Raises _Again or ObjectiveError."""
        url, until = self._url, time.monotonic() + self._timeout
        for _ in range(HOPS + 1):
            status, reason, headers, said = self._once(url, body, until, stop)
            target = _joined(url, headers.get("Location", ""))
            if status in (307, 308) and target and self._same(target):
                url = target
                continue
            if 300 <= status < 400:
                host = self.clean(urlsplit(target).netloc.rpartition("@")[2]) or "nowhere"
                what = f"answered {status}, a redirect to {host}, which is not followed"
                raise ObjectiveError(f"{self.name} {what}", hint="name the address itself")
            if 200 <= status < 300:
                return self._json(said)
            text = self.clean(said[:CLIP].decode(errors="replace").strip().partition("\n")[0]) or reason
            message = f"{self.name} answered {status}: {text}"
            if status in AGAIN or status >= 500:
                raise _Again(message, _seconds(headers.get("Retry-After")))
            raise ObjectiveError(message)
        raise ObjectiveError(f"{self.name} redirects to itself")

    def clean(self, text: str) -> str:
        """Text of the server's, in one line and without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return calls.shown(text, 200)

    def _same(self, url: str) -> bool:
        """Whether an address is of the same server."""
        a, b = urlsplit(self._url), urlsplit(url)
        usual = {"http": 80, "https": 443}.get(a.scheme)
        with contextlib.suppress(ValueError):
            return (a.scheme, a.hostname, a.port or usual) == (b.scheme, b.hostname, b.port or usual)
        return False

    def _once(self, url: str, body: bytes, until: float, stop: calls.Stop) -> tuple[int, str, Any, bytes]:
        at, late = urlsplit(url), threading.Event()
        left = max(until - time.monotonic(), 0.001)
        make = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
        connection = make(at.hostname or "", at.port, timeout=left)

        def cut() -> None:
            late.set()
            if (opened := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(left, cut)  # a socket's own limit is for each part of a reply, however slowly they come
        timer.daemon = True
        timer.start()
        try:
            with stop.watching(cut):
                connection.connect()
                if late.is_set():  # cut before there was anything to cut
                    raise TimeoutError
                path = (at.path or "/") + (f"?{at.query}" if at.query else "")
                connection.request("POST", path, body, dict(self._headers))
                response = connection.getresponse()
                said = response.read(LARGEST + 1)
                if late.is_set():
                    raise TimeoutError
            if len(said) > LARGEST:
                raise ObjectiveError(f"{self.name} replied more than {LARGEST >> 20} MB")
            return response.status, response.reason, response.headers, said
        except ssl.SSLCertVerificationError as error:
            raise ObjectiveError(f"{self.name} has no certificate that holds: {error.verify_message}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a chunk's impossible length
            if late.is_set() or isinstance(error, TimeoutError):
                raise ObjectiveError(f"{self.name} did not reply within {self._timeout:g} s") from None
            what = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise _Again(f"{self.name} cannot be reached: {what}") from None
        finally:
            timer.cancel()
            connection.close()

    def _json(self, said: bytes) -> Any:
        try:
            return calls.parse(said.decode())
        except (ValueError, RecursionError) as error:
            begin = self.clean(said[:CLIP].decode(errors="replace")) or "nothing"
            reason = "" if isinstance(error, json.JSONDecodeError) else f" ({self.clean(str(error))})"
            raise ObjectiveError(f"{self.name} replied what is no JSON{reason}: {begin}") from None


def _secrets(token: str, query: str) -> list[str]:
    """The texts that no message may hold, the longest first: a server may repeat a key without its name."""
    values = [value for pair in query.split("&") for value in (pair.partition("=")[2], unquote(pair.partition("=")[2]))]
    return sorted({s for s in (token, query, *values) if len(s) > 3 or s == token} - {""}, key=len, reverse=True)


def _joined(url: str, location: str) -> str:
    """Where a redirect leads, or nothing where it is no address."""
    with contextlib.suppress(ValueError):
        return urljoin(url, location)
    return ""


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds: a number or a date."""
    if not header:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return max(float(int(header)), 0.0)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    return None


# -- replies -----------------------------------------------------------------------------------------------------------


def scores(reply: Any, rows: int, label: str | None = None) -> list[float | None]:
    """A reply of any known shape as one score a row. Raises ValueError that says what it is instead."""
    found: Any = reply
    if isinstance(reply, dict):
        name = next((n for n in ("rewards", "scores", "data") if isinstance(reply.get(n), list)), None)
        found = [reply] if name is None else reply[name]
    elif not isinstance(reply, list):
        found = [reply]
    elif rows == 1 and len(reply) > 1 and all(isinstance(x, dict) and "label" in x for x in reply):
        found = [reply]  # of a single row a score for each label
    if len(found) != rows:
        raise ValueError(f"{len(found)} scores for {rows} rows")
    if found and all(isinstance(x, dict) and isinstance(x.get("index"), int) for x in found):
        found = sorted(found, key=lambda x: int(x["index"]))
        if [x["index"] for x in found] != list(range(rows)):
            raise ValueError("an index twice, or none for some row")
    return [_score(x, label) for x in found]


def _score(item: Any, label: str | None) -> float | None:
    """What stands for one row as a number."""
    if isinstance(item, dict):
        name = next((n for n in ("score", "reward", "probs", "embedding", "data") if n in item), None)
        if name is None:
            keys = ", ".join(map(str, item)) or "nothing"
            raise ValueError(f"an object without a score; it has {calls.shown(keys)}")
        item = item[name]
    if not isinstance(item, list):
        return calls.number(item)
    if len(item) == 1 and label is None:
        return _score(item[0], None) if not isinstance(item[0], list) else _nested(item)
    if all(isinstance(x, dict) and "label" in x for x in item):
        named = {str(x["label"]): x for x in item}
        for key in (label, f"LABEL_{label}"):
            if key in named:
                return _score(named[str(key)], None)
        raise ValueError(_which(label, list(named)))
    if any(isinstance(x, list) for x in item):
        return _nested(item)
    if label is None or not label.isdecimal() or int(label) >= len(item):
        raise ValueError(_which(label, [str(i) for i in range(len(item))]))
    return calls.number(item[int(label)])


def _nested(item: Any) -> float | None:
    raise ValueError(f"a table where one number belongs: {calls.shown(item)}")


def _which(label: str | None, known: Sequence[str]) -> str:
    said = calls.shown(", ".join(known))
    if label is None:
        return f"{len(known)} numbers for a row; reward_label says which one counts: {said}"
    return f"no score for reward_label {label!r}, but for {said}"
