"""A process that reads lines and answers each with a score on one line; it is restarted after it ends or fails.

This module knows processes and pipes; it knows nothing of rows and objectives.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from zotune.errors import ObjectiveError
from zotune_objectives.scorer_calls import Cancellation, Tally
from zotune_objectives.scorer_replies import number, parse, shorten

CHUNK = 1 << 16
"""Bytes that are read or written at a time."""
MAX_LINE = 1 << 20
"""Bytes of an output line at most."""
STDERR_TAIL = 4096
"""Bytes of standard error that are kept."""
POLL = 0.1
"""Seconds between two checks of a silent process."""
FIRST_CALL_WAIT = 0.05
"""Seconds after the first call in which further output is noticed."""
EXIT_WAIT = 1.0
"""Seconds that a process may take to exit after its input has ended."""


class LineProcess:
    """One process. arguments: program and arguments; command: names it in messages; tally: counts restarts.

    It is started by the first exchange, and again by the exchange after it has ended or failed.
    """

    def __init__(self, arguments: Sequence[str], command: str, tally: Tally) -> None:
        self._arguments, self._command, self._tally, self._folder = arguments, command, tally, os.getcwd()
        self._process: Any = None
        self._was_started = False
        self._stderr = b""

    def exchange(self, lines: Sequence[bytes], timeout: float, cancellation: Cancellation) -> list[float | None]:
        """Send lines and read one score for each. Raises ObjectiveError after killing the process."""
        deadline = time.monotonic() + timeout
        scores: list[float | None] = []
        try:
            is_new = self._start()
            batches = [[line] for line in lines] if is_new else [lines]
            for batch in batches:
                self._exchange(batch, scores, len(lines), deadline, timeout, cancellation)
            self._check_no_output(FIRST_CALL_WAIT if is_new else 0.0)
            return scores
        except BaseException:  # on Ctrl-C too: late scores would be taken for those of other rows
            self.end(0.0)
            raise

    def close_input(self) -> None:
        """End the input of the process, which should then exit."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self, wait: float) -> None:
        """Wait so many seconds for the process to exit, then kill it and its child processes."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(wait, 0.0))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._process = None
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()

    def _start(self) -> bool:
        """Start the process unless it is running; whether it was started."""
        if self._process is not None and self._process.poll() is not None:
            self.end(0.0)
        if self._process is not None:
            self._check_no_output()
            return False
        if self._was_started:
            self._tally.add("restarts")
        self._stderr, self._was_started = b"", True
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
        environment = {"PYTHONUNBUFFERED": "1", **os.environ}
        try:
            self._process = subprocess.Popen(
                self._arguments, cwd=self._folder, env=environment, start_new_session=True, **pipes
            )
        except OSError as error:
            raise ObjectiveError(f"{self._command!r} cannot be started: {error.strerror}") from None
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(pipe.fileno(), False)
        return True

    def _exchange(
        self,
        lines: Sequence[bytes],
        scores: list[float | None],
        total: int,
        deadline: float,
        timeout: float,
        cancellation: Cancellation,
    ) -> None:
        """Send lines and append their scores. total: scores that the whole call needs, for messages."""
        process, unsent, partial = self._process, memoryview(b"".join(lines)), b""
        wanted = len(scores) + len(lines)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while unsent or len(scores) < wanted:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._error(
                        f"gave {len(scores)} of {total} scores within {timeout:g} s",
                        "write and flush one line for each line read, or set a larger timeout",
                    )
                if cancellation.aborted.is_set():
                    raise self._error("was interrupted")
                ready = [key.fileobj for key, _ in selector.select(min(remaining, POLL))]
                if process.stdin in ready:
                    unsent = self._write(unsent)
                    if not unsent:
                        selector.unregister(process.stdin)
                if process.stderr in ready and not self._read_stderr():
                    selector.unregister(process.stderr)
                if process.stdout in ready:
                    data = os.read(process.stdout.fileno(), CHUNK)
                    *complete, partial = (partial + data).split(b"\n")
                    for line in complete:
                        self._append_score(line, scores, wanted)
                    if len(partial) > MAX_LINE:
                        raise self._output_error(partial, "is not a score")
                    if not data:
                        raise self._exit_error(partial, scores, total)
                elif process.poll() is not None:  # it has exited, but a child process keeps its output open
                    raise self._exit_error(partial, scores, total)
        if partial:
            raise self._unexpected(partial)

    def _write(self, unsent: memoryview) -> memoryview:
        """Write some bytes; the rest."""
        try:
            return unsent[os.write(self._process.stdin.fileno(), unsent[:CHUNK]) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # the exit of the process is reported later, with its standard error
            time.sleep(POLL / 10)
            return unsent

    def _read_stderr(self) -> bool:
        """Read some of standard error; False at its end."""
        data = os.read(self._process.stderr.fileno(), CHUNK)
        self._stderr = (self._stderr + data)[-STDERR_TAIL:]
        return bool(data)

    def _append_score(self, line: bytes, scores: list[float | None], wanted: int) -> None:
        if len(scores) == wanted:
            raise self._unexpected(line)
        try:
            scores.append(number(parse(line.decode())))
        except (ValueError, RecursionError):
            raise self._output_error(line, "is not a score") from None

    def _check_no_output(self, seconds: float = 0.0) -> None:
        """Raises ObjectiveError if there is output that belongs to no row, or comes within so many seconds."""
        if seconds:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                selector.select(seconds)
        with contextlib.suppress(BlockingIOError):
            if data := os.read(self._process.stdout.fileno(), CHUNK):
                raise self._unexpected(data.split(b"\n")[0])

    def _unexpected(self, line: bytes) -> ObjectiveError:
        return self._output_error(line, "belongs to no row")

    def _output_error(self, line: bytes, problem: str) -> ObjectiveError:
        output = shorten(line.decode(errors="replace"))
        return self._error(
            f"wrote {repr(output) if output else 'an empty line'}, which {problem}",
            'write a number, null or {"score": …} for each row and nothing else; print the rest to standard error',
        )

    def _exit_error(self, partial: bytes, scores: Sequence[Any], total: int) -> ObjectiveError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(POLL)
        code = self._process.poll()
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        line = f", within the line {shorten(partial.decode(errors='replace'))!r}" if partial else ""
        return self._error(f"{how} after {len(scores)} of {total} scores{line}")

    def _error(self, problem: str, hint: str = "") -> ObjectiveError:
        """An error with the last line of standard error."""
        with contextlib.suppress(OSError):  # nothing to read at the moment
            for _ in range(64):
                if not self._read_stderr():
                    break
        lines = self._stderr.decode(errors="replace").strip().splitlines()
        last = f"; last line of its standard error: {shorten(lines[-1], 200)}" if lines else ""
        return ObjectiveError(f"{self._command!r} {problem}{last}", hint=hint)


def end_all(processes: Sequence[LineProcess]) -> None:
    """End the input of all processes, and kill those that do not exit in time."""
    deadline = time.monotonic() + EXIT_WAIT
    for process in processes:
        process.close_input()
    for process in processes:
        process.end(deadline - time.monotonic())
