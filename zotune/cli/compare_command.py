"""`zotune compare`: two models on the same prompts, blind, by a person or a judge."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from zotune import options

if TYPE_CHECKING:
    from zotune.runs.compare import Comparison

Opt = typer.Option
Text = str | None
Whole = int | None
Real = float | None
LOOK = 0.25
"""Seconds between two looks whether everything has an answer."""
STAY = 1.0
"""Seconds that the page stays after the last answer: so that it hears that it is done."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Folder, run folder, adapter or hub id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What A is compared with.")],
    dataset: Annotated[Text, Opt("--dataset", "-d", help="Prompts: file, folder of splits or hub id.")] = None,
    split: Annotated[Text, Opt(help="[test, else validation, else all]")] = None,
    limit: Annotated[Whole, Opt(help="Rows at most.")] = None,
    judge: Annotated[
        Text, Opt(help="file.py:function or package.module:function that says which of two is better; no person.")
    ] = None,
    terminal: Annotated[bool, Opt("--terminal", help="Ask in the terminal, without a page.")] = False,
    port: Annotated[int, Opt(help="Port of the page on this computer; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, Opt("--open/--no-open", help="Open the page in the browser.")] = False,
    output_dir: Annotated[Text, Opt(help="What is kept; the same one goes on. [compare/<A>-vs-<B>-<n>]")] = None,
    task: Annotated[Text, Opt(help="A preset, a YAML file, or generation.")] = None,
    template: Annotated[Text, Opt(help="Prompt with {column} places.")] = None,
    column: Annotated[list[str] | None, Opt(help="wanted=found.")] = None,
    max_length: Annotated[Whole, Opt(help="Tokens a row at most.")] = None,
    max_new_tokens: Annotated[Whole, Opt(help="Tokens to generate at most.")] = None,
    stop: Annotated[list[str] | None, Opt(help="Text that ends a completion.")] = None,
    temperature: Annotated[Real, Opt(help="0: greedy.")] = None,
    top_p: Annotated[Real, Opt(help="Sample from this much of the probability.")] = None,
    system: Annotated[Text, Opt(help="First message of every chat.")] = None,
    eval_batch_size: Annotated[Whole, Opt(help="Rows a forward at most. [64]")] = None,
    score_concurrency: Annotated[Whole, Opt(help="Calls of an async judge at a time.")] = None,
    score_batch_size: Annotated[Whole, Opt(help="Pairs a call of an async judge.")] = None,
    score_timeout: Annotated[Real, Opt(help="Seconds that a call of the judge may take.")] = None,
    seed: Annotated[Whole, Opt(help="[0]")] = None,
    device: Annotated[Text, Opt(help="auto, cuda, mps or cpu.")] = None,
    dtype: Annotated[Text, Opt(help="auto, float32, bfloat16 or float16.")] = None,
    trust_remote_code: Annotated[bool, Opt("--trust-remote-code", help="Run code that a hub model brings.")] = False,
    allow_pickle: Annotated[bool, Opt("--allow-pickle", help="Read pickle weights, which can run code.")] = False,
    as_json: Annotated[
        bool, Opt("--json", help="The result as JSON on standard output; all else goes to standard error.")
    ] = False,
) -> None:
    """Compare what two models say, blind: how often A is better than B. Ctrl-C ends it; --output-dir goes on."""
    said = dict(locals())
    for name in ("a", "b", "column", "terminal", "port", "open_browser", "as_json"):
        said.pop(name)
    said |= {"trust_remote_code": trust_remote_code or None, "allow_pickle": allow_pickle or None}
    said |= {"stop": tuple(stop or ()) or None, "columns": options.pairs(column or [], "--column", "wanted=found")}

    from zotune.errors import OptionError

    if judge is not None and terminal:
        raise OptionError("--judge and --terminal exclude each other: a judge asks nobody")

    from zotune.cli.terminal import Terminal
    from zotune.runs import compare as comparing

    show = Terminal()
    told = sys.stderr if as_json else sys.stdout

    def ask(folder: Path) -> None:
        try:
            if terminal:
                _terminal(folder, told)
            else:
                _page(folder, port, open_browser, told)
        except KeyboardInterrupt:
            print(file=sys.stderr)  # what the terminal echoed for Ctrl-C stays on its own line

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = comparing.compare(a, b, ask=ask, emit=show, **said)
    except KeyboardInterrupt:
        print("\nzotune: interrupted before both had answered; nothing is kept", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print(json.dumps(found.json(), indent=1))
    else:
        print("\n".join(lines(found)))
    if found.left:
        waiting = "row has" if found.left == 1 else "rows have"
        print(f"{found.left} {waiting} no answer yet: --output-dir {found.folder} goes on", file=sys.stderr)
        raise typer.Exit(130)


def lines(found: Comparison) -> list[str]:
    """What was found, for a person."""
    n = found.wins + found.losses + found.ties
    out = [f"A  {found.a}", f"B  {found.b}"]
    same = f", {found.same} of them because both said the same" if found.same else ""
    out.append(f"A wins {found.wins}, loses {found.losses}, ties {found.ties}{same}")
    if found.skipped:
        out.append(f"skipped {found.skipped}")
    out.append(f"win rate of A {found.rate:.3f}, 95 % interval {found.low:.3f} to {found.high:.3f} ({n} rows)")
    if found.repeated:
        out.append(f"the same answer on {found.agreed} of {found.repeated} repeats")
    return [*out, found.verdict]


def _terminal(folder: Path, told: TextIO) -> None:
    from zotune.humans import console

    def ask(prompt: str) -> str:
        print(prompt, end="", file=told, flush=True)
        return input()

    console.rate(folder, ask, lambda text: print(text, file=told, flush=True))


def _page(folder: Path, port: int, open_browser: bool, told: TextIO) -> None:
    """Serve the questions until all are answered, and a moment more."""
    from zotune.humans.page import serve
    from zotune.humans.ratings import Ratings

    with Ratings(folder) as store, serve(folder, port, open_browser) as server:
        print(server.address, file=told, flush=True)
        print("open this address in a browser on this computer; Ctrl-C ends", file=sys.stderr, flush=True)
        stayed = 0.0
        while stayed < STAY:
            server.wait(LOOK)
            stayed = stayed + LOOK if store.progress().done else 0.0  # the last answer may be taken back
