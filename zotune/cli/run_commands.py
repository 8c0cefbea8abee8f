"""`zotune resume`, `replay` and `verify`: what a run folder can do after its process has gone."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zotune import config
from zotune.errors import RunFolderError
from zotune.text import plain

Opt = typer.Option
Text = str | None
Whole = int | None
Real = float | None
TOGETHER = 3.0
"""Seconds."""
Folder = Annotated[str, typer.Argument(help="The run folder.")]


class Stoppable:
    """The first Ctrl-C or SIGTERM asks the run to stop after the step; the second leaves at once. `code` is the exit
    code of either, as shells have it: 130 and 143. A launcher of several processes passes Ctrl-C on, and sends SIGTERM
    after it: what comes within `TOGETHER` seconds is one signal."""

    def __init__(self, terminal: Any, launched: bool) -> None:
        self.terminal, self.launched, self.code, self.asked = terminal, launched, 0, -math.inf

    def __enter__(self) -> Callable[[], bool]:
        self.old = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return lambda: self.code != 0

    def _handle(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.code and self.launched and now - self.asked < TOGETHER:
            return
        again, self.asked = self.code != 0, now
        self.code = 128 + number
        if again:
            raise KeyboardInterrupt
        self.terminal.say("stopping after this step; once more leaves at once", "yellow")

    def __exit__(self, kind: Any, *error: object) -> None:
        for s, handler in self.old.items():
            signal.signal(s, handler)
        if kind is KeyboardInterrupt and self.code:
            self.terminal.close()
            print("zotune: left at once; zotune resume goes on with what is in the run folder", file=sys.stderr)
            raise typer.Exit(self.code)


def run_to_the_end(cfg: config.RunConfig, resume: str | None, force: bool, quiet: bool, as_json: bool) -> None:
    """Fit, and say what came of it."""
    from zotune.cli.terminal import Terminal, show_result
    from zotune.distributed import follows, launched
    from zotune.runs import fit as run
    from zotune.runs.summary import verdict

    terminal, stoppable = Terminal(quiet), None
    try:
        with (stoppable := Stoppable(terminal, launched() > 1)) as asked:
            result = run.fit(cfg, emit=terminal, stop=asked, resume=resume, force=force)
    finally:
        terminal.close()
    if not follows():
        show_result(terminal, cfg.objective_name, result, verdict(result))
        if as_json:
            print(json.dumps(result.json(), indent=1))
    if result.reason == "interrupted":
        raise typer.Exit(stoppable.code or 130)


def resume(
    run: Folder,
    checkpoint: Annotated[Text, Opt(help="A checkpoint folder of the run. [the newest that is whole]")] = None,
    max_steps: Annotated[Whole, Opt(help="Another budget in steps, counted from the run's start. [the run's]")] = None,
    max_evals: Annotated[Whole, Opt(help="Another budget in forwards. [the run's]")] = None,
    max_time: Annotated[Real, Opt(help="Another budget in seconds of tuning. [the run's]")] = None,
    max_score_calls: Annotated[Whole, Opt(help="Another budget in scored rows. [the run's]")] = None,
    device: Annotated[Text, Opt(help="auto, cuda, mps or cpu. [the run's]")] = None,
    threads: Annotated[Whole, Opt(help="CPU threads. [the run's]")] = None,
    force: Annotated[
        bool, Opt("--force", help="Also with other versions, data or scoring; the journal says so.")
    ] = False,
    as_json: Annotated[bool, Opt("--json", help="The result as JSON on standard output.")] = False,
    quiet: Annotated[bool, Opt("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Go on with a run that was stopped or killed, or that is to have a larger budget: the bits of one never stopped.

    Its other options are those in its config.yaml; paths in there are looked up from where this command is given.
    """
    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise RunFolderError(f"{folder} holds no config.yaml to resume from", hint="is this a run folder?")
    said: dict[str, Any] = {"max_steps": max_steps, "max_evals": max_evals, "max_time": max_time}
    said |= {"max_score_calls": max_score_calls, "device": device, "threads": threads}
    saved = config.resolve(said, str(folder / "config.yaml"))
    run_to_the_end(replace(saved, output_dir=str(folder), run_name=None), checkpoint or "last", force, quiet, as_json)


def replay(
    run: Folder,
    output_dir: Annotated[str, Opt("--output-dir", "-o", help="Where to; must not exist, or be empty.")],
    base: Annotated[Text, Opt(help="The model that the run started from. [where it was then]")] = None,
    step: Annotated[Whole, Opt(help="Whose weights. [what the run kept, or its last]")] = None,
    optimizer: Annotated[Text, Opt(help="file.py:Class, where the run's optimizer came from a file.")] = None,
    device: Annotated[Text, Opt(help="auto, cuda, mps or cpu.")] = None,
    threads: Annotated[Whole, Opt(help="CPU threads. [torch's choice]")] = None,
    compile: Annotated[Text, Opt(help="auto (where there are many steps), on, off.")] = None,
    trust_remote_code: Annotated[bool, Opt("--trust-remote-code", help="Run code that a hub model brings.")] = False,
    allow_pickle: Annotated[bool, Opt("--allow-pickle", help="Read pickle weights, which can run code.")] = False,
    as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False,
) -> None:
    """Rebuild a run's weights from its base model and its journal alone, without a forward pass of the objective."""
    from zotune.cli.terminal import Terminal
    from zotune.runs import replay as replaying

    found = replaying.replay(
        run,
        output_dir,
        base=base,
        step=step,
        optimizer=optimizer,
        device=device or "auto",
        threads=threads,
        compile=compile or "auto",
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        emit=Terminal(),
    )
    if as_json:
        print(json.dumps({**asdict(found), "folder": str(found.folder)}, indent=1))
        return
    for line in replayed(found):
        print(line)


def replayed(found: Any) -> list[str]:
    """What a replay made, for a person."""
    sure = "the journal records the same weights" if found.confirmed else "the journal records no weights of this step"
    where = (
        "any machine makes these bits: the steps hold no sum over floats that is not in the journal"
        if found.portable
        else "other kinds of machines may differ: the optimizer computes matrices, whose sums round as they like"
    )
    return [
        f"step        {found.step}",
        f"weights     {found.weights}: {sure}",
        f"portable    {'yes' if found.portable else 'no'}, {where}",
        f"written to  {found.folder}",
    ]


def verify(run: Folder, as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False) -> None:
    """Check a run folder: journal, checkpoints, the model's files and its weights. Exit code 1 where one differs."""
    from zotune.cli.terminal import Terminal
    from zotune.runs import verify as verifying

    checks = verifying.verify(run, Terminal())
    bad = sum(c.ok is False for c in checks)
    if as_json:
        print(json.dumps([c.json() for c in checks], indent=1))
    else:
        width = max(len(c.name) for c in checks)
        for c in checks:
            print(plain(f"{ {True: 'ok', False: 'DIFFERS', None: '-'}[c.ok]:<8}{c.name:<{width}}  {c.detail}"))
        print(f"{bad} of {len(checks)} differ" if bad else "nothing differs")
    if bad:
        raise typer.Exit(1)
