"""A program of yours as the objective: `-o exec:./score.sh`, or any other command.

It is started once, without a shell, and kept alive. It reads one line of JSON a row on its standard input,

    {"prompt": "…", "completion": "…", "references": "…", …}

where `references` is the right text, a list of them, or null; the data's own columns stand beside. To each line it
answers one line on its standard output, in the same order, flushed: a number (larger is better), null where the row
does not count, or an object with `score`, such as {"score": 0.5}. With level=set it reads one line for all rows,

    {"prompts": ["…"], "completions": ["…"], "references": ["…"], "rows": [{…}]}

(`rows` has the data's columns), and answers one number. It ends when its input ends. What it says on standard error is
kept for error messages; any other line on standard output is an error, or scores would be taken for those of other
rows. That it prints none is tried at its first call, whose rows are sent one by one; those of a later call go together.

The command is looked up on the PATH, then in the folder that zotune was started in; a file `*.py` that is not
executable is run by the Python that runs zotune. Python programs print unbuffered (PYTHONUNBUFFERED is set). Where
anything goes wrong (no answer in time, an end, a line that is no score) the program and everything that it started are
killed, the call fails, and the next call starts it anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zotune
from zotune.errors import ObjectiveError, OptionError
from zotune.types import ObjectiveInfo
from zotune_objectives import calls

CHUNK = 1 << 16
LONGEST = 1 << 20
"""Bytes of an answer without an end."""
TAIL = 4096
"""Bytes of standard error that are kept."""
TICK = 0.1
"""Seconds after which a silent program is looked at: whether it has ended, or should."""
SETTLE = 0.05
"""Seconds in which a program that has just answered its first call may show that it prints more than its answers."""
GRACE = 1.0
"""Seconds that a program may take to end after its input has."""


@zotune.objective(call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True, eq=False)
class Exec:
    command: str  # the program and its arguments, as in a shell, but no shell reads it
    level: Literal["sample", "set"] = "sample"  # one score a row, or one for all rows
    concurrency: int = 1  # how many of it run at a time
    batch_size: int = 16  # rows a call at most
    timeout: float = 60.0  # seconds a call; the first one includes the start

    tally: calls.Tally = field(default_factory=calls.Tally, init=False, repr=False)
    _programs: list[_Program] = field(init=False, repr=False)
    _free: queue.LifoQueue[_Program] = field(default_factory=queue.LifoQueue, init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = {"concurrency": self.concurrency, "batch_size": self.batch_size, "timeout": self.timeout}
        calls.check("exec", numbers)
        if os.name != "posix":
            raise OptionError("exec needs pipes and process groups as Linux and macOS have them")
        argv = resolve(self.command)
        programs = [_Program(argv, self.command, self.tally) for _ in range(self.concurrency)]
        for program in reversed(programs):
            self._free.put(program)
        object.__setattr__(self, "_programs", programs)
        weakref.finalize(self, _end, programs)  # at the latest when Python ends

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
            (found,) = self._ask([rows.together()], stop)
            if found is None:
                raise ObjectiveError(f"{self.command!r} answered null where one number for all rows belongs")
            return found
        chosen = calls.parts(len(rows), self.batch_size, self.concurrency)
        answers = calls.spread(lambda at: self._ask(rows.part(at).each(), stop), chosen, self.concurrency, stop)
        return [x for part in answers for x in part]

    def _ask(self, asked: Sequence[Any], stop: calls.Stop) -> list[float | None]:
        program = self._free.get()
        try:
            self.tally.add("calls")
            return program.ask([json.dumps(x).encode() + b"\n" for x in asked], self.timeout, stop)
        finally:
            self._free.put(program)

    def info(self) -> ObjectiveInfo:
        return calls.declaration(self.level, self.tally, self.close)

    def close(self) -> None:
        """End the programs; a later call starts them again."""
        _end(self._programs)


def resolve(command: str) -> list[str]:
    """The command's words, the first as an absolute path. Raises OptionError for what cannot be run."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise OptionError(f"exec:{command}: {error}") from None
    if not words:
        raise OptionError("exec: needs a command", hint="exec:./score.sh")
    name, *rest = words
    path = Path(name).expanduser().absolute()
    on_path = None if "/" in name else shutil.which(name)
    if on_path:
        return [os.path.abspath(on_path), *rest]
    if not path.is_file():
        where = "is not on the PATH and no file here" if "/" not in name else "is no file"
        raise OptionError(f"exec:{command}: {name!r} {where}")
    if os.access(path, os.X_OK):
        return [str(path), *rest]
    if path.suffix == ".py":
        return [sys.executable, str(path), *rest]
    raise OptionError(f"exec:{command}: {name!r} is not executable", hint=f"chmod +x {shlex.quote(name)}")


def _end(programs: Sequence[_Program]) -> None:
    until = time.monotonic() + GRACE
    for program in programs:
        program.hang_up()
    for program in programs:
        program.end(until - time.monotonic())


class _Program:
    """One process that is started when it is asked, and again after it has ended or failed."""

    def __init__(self, argv: Sequence[str], command: str, report: calls.Tally) -> None:
        self._argv, self._command, self._report, self._folder = argv, command, report, os.getcwd()
        self._process: Any = None
        self._started = False
        self._said = b""

    def ask(self, lines: Sequence[bytes], timeout: float, stop: calls.Stop) -> list[float | None]:
        """Send lines and read as many answers. Raises ObjectiveError, with the process killed."""
        until = time.monotonic() + timeout
        found: list[float | None] = []
        try:
            if new := self._ready():
                for line in lines:
                    self._exchange([line], found, len(lines), until, timeout, stop)
            else:
                self._exchange(lines, found, len(lines), until, timeout, stop)
            self._no_more(SETTLE if new else 0.0)
            return found
        except BaseException:  # also Ctrl-C: answers to come would be taken for those of other rows
            self.end(0.0)
            raise

    def _ready(self) -> bool:
        """Start it unless it runs; whether that was so."""
        if self._process is not None and self._process.poll() is not None:
            self.end(0.0)
        if self._process is not None:
            self._no_more()
            return False
        if self._started:
            self._report.add("restarts")
        self._said, self._started = b"", True
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
        env = {"PYTHONUNBUFFERED": "1", **os.environ}
        try:
            self._process = subprocess.Popen(self._argv, cwd=self._folder, env=env, start_new_session=True, **pipes)
        except OSError as error:
            raise ObjectiveError(f"{self._command!r} cannot be started: {error.strerror}") from None
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(pipe.fileno(), False)
        return True

    def _exchange(
        self,
        lines: Sequence[bytes],
        found: list[float | None],
        answers: int,
        until: float,
        timeout: float,
        stop: calls.Stop,
    ) -> None:
        """Send lines and add as many answers to those found; `answers`: how many the whole call wants."""
        process, left, heard = self._process, memoryview(b"".join(lines)), b""
        enough = len(found) + len(lines)
        with selectors.DefaultSelector() as watch:
            watch.register(process.stdin, selectors.EVENT_WRITE)
            watch.register(process.stdout, selectors.EVENT_READ)
            watch.register(process.stderr, selectors.EVENT_READ)
            while left or len(found) < enough:
                rest = until - time.monotonic()
                if rest <= 0:
                    raise self._failed(
                        f"gave {len(found)} of {answers} answers within {timeout:g} s",
                        "each line wants its answer, flushed, before the input ends; or more time",
                    )
                if stop.cut.is_set():
                    raise self._failed("was interrupted")
                ready = [key.fileobj for key, _ in watch.select(min(rest, TICK))]
                if process.stdin in ready:
                    left = self._write(left)
                    if not left:
                        watch.unregister(process.stdin)
                if process.stderr in ready and not self._hear():
                    watch.unregister(process.stderr)
                if process.stdout in ready:
                    some = os.read(process.stdout.fileno(), CHUNK)
                    *whole, heard = (heard + some).split(b"\n")
                    for line in whole:
                        self._take(line, found, enough)
                    if len(heard) > LONGEST:
                        raise self._garbage(heard, "is no score")
                    if not some:
                        raise self._ended(heard, found, answers)
                elif process.poll() is not None:  # while something that it started holds its output
                    raise self._ended(heard, found, answers)
        if heard:
            raise self._unasked(heard)

    def _write(self, left: memoryview) -> memoryview:
        try:
            return left[os.write(self._process.stdin.fileno(), left[:CHUNK]) :]
        except BlockingIOError:
            return left
        except BrokenPipeError:  # its end will be seen, with what it said
            time.sleep(TICK / 10)
            return left

    def _hear(self) -> bool:
        """Read some of what is on standard error; False at its end."""
        some = os.read(self._process.stderr.fileno(), CHUNK)
        self._said = (self._said + some)[-TAIL:]
        return bool(some)

    def _take(self, line: bytes, found: list[float | None], enough: int) -> None:
        if len(found) == enough:
            raise self._unasked(line)
        try:
            found.append(calls.number(calls.parse(line.decode())))
        except (ValueError, RecursionError):
            raise self._garbage(line, "is no score") from None

    def _no_more(self, seconds: float = 0.0) -> None:
        """Raises where there is output, or comes some in so many seconds, that nothing asked for."""
        if seconds:
            with selectors.DefaultSelector() as watch:
                watch.register(self._process.stdout, selectors.EVENT_READ)
                watch.select(seconds)
        with contextlib.suppress(BlockingIOError):
            if some := os.read(self._process.stdout.fileno(), CHUNK):
                raise self._unasked(some.split(b"\n")[0])

    def _unasked(self, line: bytes) -> ObjectiveError:
        return self._garbage(line, "answers no row")

    def _garbage(self, line: bytes, why: str) -> ObjectiveError:
        said = calls.shown(line.decode(errors="replace"))
        hint = (
            'a number, null or {"score": …} a row, and nothing else; what else there is to say goes to standard error'
        )
        return self._failed(f"printed {repr(said) if said else 'an empty line'}, which {why}", hint)

    def _ended(self, heard: bytes, found: Sequence[Any], answers: int) -> ObjectiveError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TICK)
        code = self._process.poll()
        if code is None:
            how = "closed its output"
        else:
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        half = f", in the middle of {calls.shown(heard.decode(errors='replace'))!r}" if heard else ""
        return self._failed(f"{how} after {len(found)} of {answers} answers{half}")

    def _failed(self, what: str, hint: str = "") -> ObjectiveError:
        with contextlib.suppress(OSError):  # nothing more to read
            for _ in range(64):
                if not self._hear():
                    break
        words = self._said.decode(errors="replace").strip().splitlines()
        last = f"; its last words: {calls.shown(words[-1], 200)}" if words else ""
        return ObjectiveError(f"{self._command!r} {what}{last}", hint=hint)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """End its input."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self, grace: float) -> None:
        """Wait so long for its end, then kill it and what it started."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(grace, 0.0))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._process = None
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
