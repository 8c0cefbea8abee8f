"""`zotune compare`: two models on the same prompts, blind, by a person or a judge."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag, open_flag, port_flag, terminal_flag
from zotune.errors import OptionError
from zotune.options import argument, option

if TYPE_CHECKING:
    from zotune.runs.compare import Comparison

POLL_SECONDS: Final = 0.25
"""Seconds between two looks whether every question has an answer."""
LINGER_SECONDS: Final = 1.0
"""Seconds that the page is served after the last answer, so that it learns that it is done."""
SETTINGS = {
    name: replace(o, first=0)
    for name, o in config.select(
        *("dataset", "limit", "task", "template", "columns", "system", "max_length", "max_new_tokens", "stop"),
        *("chat_template", "chat_args", "shots"),
        *("temperature", "top_p", "top_k", "min_p", "objective_args"),
        *("repetition_penalty", "eval_batch_size", "score_concurrency", "score_batch_size", "score_timeout"),
        *("seed", "device", "dtype", "trust_remote_code", "allow_pickle"),
        dataset="Prompts: file, directory of splits or hub id.",
        limit="Compare at most this many rows.",
        objective_args="Option of the judge, such as rubric=TEXT or model=NAME of a server; repeatable.",
        score_concurrency="Concurrent calls of an async judge.",
        score_batch_size="Pairs per call of an async judge.",
        score_timeout="Seconds that one call of the judge may take.",
        seed="Random seed of sampling and of the order of A and B.",
    ).items()
}


@dataclass(frozen=True)
class CompareFlags:
    """What `compare` takes beside options of a run."""

    a: str = argument("Directory, run directory, adapter or hub id.", "A")
    b: str = argument("The model to compare A with.", "B")
    split: str | None = option(None, "Split with the prompts.", shown="test, else validation, else all", group="Data")
    judge: str | None = option(
        None,
        "file.py:function, package.module:function or http://host:port/v1 (a language model) that decides which of two "
        "is better, instead of a person.",
        group="Questions",
    )
    terminal: bool = terminal_flag()
    port: int = port_flag()
    open_browser: bool | None = open_flag()
    output_dir: str | None = option(
        None,
        "Directory of completions and answers; give it again to resume.",
        shown="compare/<A>-vs-<B>-<n>",
        group="Output",
    )
    as_json: bool = json_flag("Print the result as JSON on standard output and everything else on standard error.")


def compare(flags: CompareFlags, settings: Mapping[str, Any]) -> None:
    """Compare the completions of two models, blind: how often is A better than B?

    Ctrl-C ends; the same --output-dir resumes.
    """
    if flags.judge is not None and flags.terminal:
        raise OptionError("--judge and --terminal exclude each other: with a judge no person is asked")

    from zotune.cli.terminal import Terminal
    from zotune.runs import compare as runs

    out = sys.stderr if flags.as_json else sys.stdout

    def ask(folder: Path) -> None:
        try:
            if flags.terminal:
                _ask_in_terminal(folder, out)
            else:
                _serve(folder, flags.port, bool(flags.open_browser), out)
        except KeyboardInterrupt:
            print(file=sys.stderr)  # the terminal's echo of Ctrl-C stays on its own line

    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Terminal() as terminal:
            result = runs.compare(
                flags.a,
                flags.b,
                split=flags.split,
                judge=flags.judge,
                output_dir=flags.output_dir,
                ask=ask,
                emit=terminal,
                **settings,
            )
    except KeyboardInterrupt:
        print("\nzotune: interrupted before both models had generated; nothing is kept", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if flags.as_json:
        print(json.dumps(result.json(), indent=1))
    else:
        print("\n".join(lines(result)))
    if result.left:
        waiting = "row has" if result.left == 1 else "rows have"
        print(f"{result.left} {waiting} no answer yet; resume with --output-dir {result.folder}", file=sys.stderr)
        raise SystemExit(130)


def lines(result: Comparison) -> list[str]:
    """The result as text."""
    n = result.wins + result.losses + result.ties
    out = [f"A  {result.a}", f"B  {result.b}"]
    same = f", {result.same} of them equal completions" if result.same else ""
    out.append(f"A wins {result.wins}, loses {result.losses}, ties {result.ties}{same}")
    if result.skipped:
        out.append(f"skipped {result.skipped}")
    out.append(f"win rate of A {result.rate:.3f}, 95 % interval {result.low:.3f} to {result.high:.3f} ({n} rows)")
    if result.repeated:
        out.append(f"the same answer on {result.agreed} of {result.repeated} repeats")
    return [*out, result.verdict]


def _ask_in_terminal(folder: Path, out: TextIO) -> None:
    from zotune.humans import console

    def ask(prompt: str) -> str:
        print(prompt, end="", file=out, flush=True)
        return input()

    console.rate(folder, ask, lambda text: print(text, file=out, flush=True))


def _serve(folder: Path, port: int, open_browser: bool, out: TextIO) -> None:
    """Serve the questions until all are answered, and a moment more."""
    from zotune.humans.page import serve
    from zotune.humans.ratings import Ratings

    with Ratings(folder) as store, serve(folder, port, open_browser) as server:
        print(server.address, file=out, flush=True)
        print("open this address in a browser on this computer; Ctrl-C ends", file=sys.stderr, flush=True)
        done_seconds = 0.0
        while done_seconds < LINGER_SECONDS:
            server.wait(POLL_SECONDS)
            # a person may take the last answer back
            done_seconds = done_seconds + POLL_SECONDS if store.progress().done else 0.0


COMMAND = command("compare", compare, CompareFlags, SETTINGS)

__all__ = ["COMMAND", "lines"]
