"""Your program as the objective: `-o exec:./score.sh`, or any other command; larger scores are better.

The program is started once, without a shell, and kept running. For each row it reads one JSON line from standard input,

    {"prompt": "…", "completion": "…", "references": "…", …}

where `references` is a text, a list of texts or null, and the data's columns follow. For each line it writes one line
to standard output, in the same order, flushed: a number, null if the row does not count, or an object with `score`,
such as {"score": 0.5}. With level=set it reads one line for all rows,

    {"prompts": ["…"], "completions": ["…"], "references": ["…"], "rows": [{…}]}

(`rows` holds the data's columns), and writes one number. It must exit when its input ends. Standard error is kept for
error messages. Any other output is an error, because it would shift scores to other rows; to detect it, the rows of the
first call are sent one by one.

The command is searched on the PATH, then in the directory in which zotune was started. A `*.py` file that is not
executable is run by the Python that runs zotune, with unbuffered output (PYTHONUNBUFFERED). If the program does not
answer in time, exits, or writes something that is not a score, it is killed with its child processes, the call fails,
and the next call starts the program again.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import shutil
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zotune
from zotune.errors import ObjectiveError, OptionError
from zotune.types import ObjectiveInfo
from zotune_objectives.line_process import LineProcess, end_all
from zotune_objectives.scorer_calls import Cancellation, Tally, check_positive, declaration, score_in_parts
from zotune_objectives.scorer_rows import Rows


@zotune.objective(call_options=("concurrency", "batch_size", "timeout"))
@dataclass(frozen=True, eq=False)
class Exec:
    command: str  # program and arguments, written as in a shell
    level: Literal["sample", "set"] = "sample"  # one score for each row, or one for all rows
    concurrency: int = 1  # processes that run at the same time
    batch_size: int = 16  # rows in a call
    timeout: float = 60.0  # seconds a call may take; the first call includes the start

    tally: Tally = field(default_factory=Tally, init=False, repr=False)
    _processes: list[LineProcess] = field(init=False, repr=False)
    _idle: queue.LifoQueue[LineProcess] = field(default_factory=queue.LifoQueue, init=False, repr=False)

    def __post_init__(self) -> None:
        numbers = {"concurrency": self.concurrency, "batch_size": self.batch_size, "timeout": self.timeout}
        check_positive("exec", numbers)
        if os.name != "posix":
            raise OptionError("exec needs Linux or macOS", hint="use an http scorer")
        arguments = resolve(self.command)
        processes = [LineProcess(arguments, self.command, self.tally) for _ in range(self.concurrency)]
        for process in reversed(processes):
            self._idle.put(process)
        object.__setattr__(self, "_processes", processes)
        weakref.finalize(self, end_all, processes)  # at the latest when Python exits

    def info(self) -> ObjectiveInfo:
        return declaration(self.level, self.tally, self.close)

    def close(self) -> None:
        """End the processes; a later call starts them again."""
        end_all(self._processes)

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
        (score,) = self._exchange([rows.single_object()], Cancellation())
        if score is None:
            raise ObjectiveError(f"{self.command!r} wrote null; with level=set it must write a number")
        return score

    def _score_rows(self, rows: Rows, cancellation: Cancellation) -> list[float | None]:
        return self._exchange(rows.objects(), cancellation)

    def _exchange(self, objects: Sequence[Any], cancellation: Cancellation) -> list[float | None]:
        """One score for each object."""
        process = self._idle.get()
        try:
            self.tally.add("calls")
            return process.exchange([json.dumps(x).encode() + b"\n" for x in objects], self.timeout, cancellation)
        finally:
            self._idle.put(process)


def resolve(command: str) -> list[str]:
    """The words of a command, the first as an absolute path. Raises OptionError if it cannot be run."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise OptionError(f"exec:{command}: {error}", hint="close the quotation") from None
    if not words:
        raise OptionError("exec: needs a command", hint="exec:./score.sh")
    name, *arguments = words
    path = Path(name).expanduser().absolute()
    on_path = None if "/" in name else shutil.which(name)
    if on_path:
        return [os.path.abspath(on_path), *arguments]
    if not path.is_file():
        where = "neither on the PATH nor a file in this directory" if "/" not in name else "not a file"
        raise OptionError(f"exec:{command}: {name!r} is {where}", hint="check the path")
    if os.access(path, os.X_OK):
        return [str(path), *arguments]
    if path.suffix == ".py":
        return [sys.executable, str(path), *arguments]
    raise OptionError(f"exec:{command}: {name!r} is not executable", hint=f"chmod +x {shlex.quote(name)}")
