"""A JSON request to one server: time limit, redirects, retries, and errors without secrets.

This module knows HTTP; it knows nothing of rows and scores.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from zotune.errors import ObjectiveError
from zotune_objectives.scorer_calls import Cancellation, Tally
from zotune_objectives.scorer_replies import parse, shorten

MAX_REPLY = 1 << 24
"""Bytes of a reply at most."""
QUOTED = 2000
"""Bytes of a reply that an error message is made from."""
MAX_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""
MAX_REDIRECTS = 3
RETRIED_STATUSES = frozenset({408, 429})
"""Statuses below 500 after which a request is retried."""


class _Retryable(Exception):
    """An error that another attempt may avoid. wait: seconds that the server asks to wait."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class JsonPost:
    """Posts JSON to one address. url: without the query; its name and its errors contain no secret.

    query: what follows "?" in the address. token: a secret that the headers contain. timeout: seconds an attempt.
    """

    def __init__(self, url: str, query: str, headers: Mapping[str, str], token: str, timeout: float) -> None:
        self.name = url
        self._url = f"{url}?{query}" if query else url
        self._headers, self._timeout = headers, timeout
        self._secrets = _secrets(token, query)

    def post(self, body: bytes, retries: int, backoff: float, tally: Tally, cancellation: Cancellation) -> Any:
        """The JSON value of the reply. Raises ObjectiveError.

        After a retryable error there are `retries` more attempts, after the time that the server asks for or
        `backoff` · 2^attempt seconds; none after a cancellation.
        """
        for attempt in range(retries + 1):
            tally.add("calls")
            try:
                return self._attempt(body, cancellation)
            except _Retryable as error:
                if attempt == retries or cancellation.requested.is_set():
                    attempts = f" (after {attempt + 1} attempts)" if attempt else ""
                    raise ObjectiveError(f"{error}{attempts}") from None
                wait = backoff * 2.0**attempt if error.wait is None else error.wait
                tally.add("retries")
                cancellation.requested.wait(min(wait, MAX_WAIT))
        raise AssertionError("unreachable")

    def clean(self, text: str) -> str:
        """Text of the server on one line, without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return shorten(text, 200)

    def _attempt(self, body: bytes, cancellation: Cancellation) -> Any:
        """The JSON value of the reply. Raises _Retryable or ObjectiveError."""
        url, deadline = self._url, time.monotonic() + self._timeout
        for _ in range(MAX_REDIRECTS + 1):
            status, reason, headers, data = self._request(url, body, deadline, cancellation)
            target = _join(url, headers.get("Location", ""))
            if status in (307, 308) and target and self._is_same_server(target):
                url = target
                continue
            if 300 <= status < 400:
                host = self.clean(urlsplit(target).netloc.rpartition("@")[2]) or "nowhere"
                raise ObjectiveError(
                    f"{self.name} replied {status}, a redirect to {host}, which is not followed",
                    hint="use the final address",
                )
            if 200 <= status < 300:
                return self._json(data)
            text = self.clean(data[:QUOTED].decode(errors="replace").strip().partition("\n")[0]) or reason
            message = f"{self.name} replied {status}: {text}"
            if status in RETRIED_STATUSES or status >= 500:
                raise _Retryable(message, _seconds(headers.get("Retry-After")))
            raise ObjectiveError(message)
        raise ObjectiveError(f"{self.name} redirects to itself")

    def _is_same_server(self, url: str) -> bool:
        a, b = urlsplit(self._url), urlsplit(url)
        default = {"http": 80, "https": 443}.get(a.scheme)
        with contextlib.suppress(ValueError):
            return (a.scheme, a.hostname, a.port or default) == (b.scheme, b.hostname, b.port or default)
        return False

    def _request(
        self, url: str, body: bytes, deadline: float, cancellation: Cancellation
    ) -> tuple[int, str, Any, bytes]:
        """(status, reason, headers, body) of the reply. Raises _Retryable or ObjectiveError."""
        parts, expired = urlsplit(url), threading.Event()
        remaining = max(deadline - time.monotonic(), 0.001)
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = connect(parts.hostname or "", parts.port, timeout=remaining)

        def shut_down() -> None:
            expired.set()
            if (opened := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

        # The timeout of a socket applies to each part of a reply, so a slow reply needs a timer.
        timer = threading.Timer(remaining, shut_down)
        timer.daemon = True
        timer.start()
        try:
            with cancellation.on_abort(shut_down):
                connection.connect()
                if expired.is_set():  # before there was a socket to shut down
                    raise TimeoutError
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("POST", path, body, dict(self._headers))
                response = connection.getresponse()
                data = response.read(MAX_REPLY + 1)
                if expired.is_set():
                    raise TimeoutError
            if len(data) > MAX_REPLY:
                raise ObjectiveError(f"{self.name} replied more than {MAX_REPLY >> 20} MB")
            return response.status, response.reason, response.headers, data
        except ssl.SSLCertVerificationError as error:
            raise ObjectiveError(f"{self.name} has no valid certificate: {error.verify_message}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an invalid chunk length
            if expired.is_set() or isinstance(error, TimeoutError):
                raise ObjectiveError(f"{self.name} did not reply within {self._timeout:g} s") from None
            reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise _Retryable(f"{self.name} cannot be reached: {reason}") from None
        finally:
            timer.cancel()
            connection.close()

    def _json(self, data: bytes) -> Any:
        try:
            return parse(data.decode())
        except (ValueError, RecursionError) as error:
            start = self.clean(data[:QUOTED].decode(errors="replace")) or "nothing"
            reason = "" if isinstance(error, json.JSONDecodeError) else f" ({self.clean(str(error))})"
            raise ObjectiveError(f"{self.name} did not reply JSON{reason}, but {start}") from None


def _secrets(token: str, query: str) -> list[str]:
    """The texts that no message may contain, the longest first; a server may repeat a value of the query alone."""
    values = [value for pair in query.split("&") for value in (pair.partition("=")[2], unquote(pair.partition("=")[2]))]
    return sorted({s for s in (token, query, *values) if len(s) > 3 or s == token} - {""}, key=len, reverse=True)


def _join(url: str, location: str) -> str:
    """The address of a redirect; empty if it is invalid."""
    with contextlib.suppress(ValueError):
        return urljoin(url, location)
    return ""


def _seconds(header: str | None) -> float | None:
    """The header Retry-After, a number or a date, in seconds; None if it is missing or invalid."""
    if not header:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return max(float(int(header)), 0.0)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    return None
