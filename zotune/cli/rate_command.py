"""`zotune rate`: a person answers the questions of a run, on a local page or in the terminal."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from zotune.cli.command import command
from zotune.cli.shared_flags import open_flag, port_flag, run_argument, terminal_flag
from zotune.options import option


@dataclass(frozen=True)
class RateFlags:
    """What `rate` takes."""

    run: str = run_argument("Run directory of `zotune fit -o human`; the run may still be starting.")
    terminal: bool = terminal_flag()
    port: int = port_flag()
    open_browser: bool | None = open_flag()
    rater: str = option(
        "", "Your name, where several people rate. Nobody is shown what another one sees.", metavar="NAME"
    )
    export: str | None = option(
        None, "Write prompt, chosen and rejected as JSON lines to this file, and exit.", metavar="FILE"
    )


def rate(flags: RateFlags) -> None:
    """Answer which of two completions is better. Ctrl-C ends; answers are kept, and rating can be resumed any time."""
    from zotune.errors import RunFolderError
    from zotune.humans.preferences import export_preferences
    from zotune.humans.raters import MOST, in_words, rater_counts
    from zotune.humans.ratings import Ratings
    from zotune.humans.store import FILE_NAME

    folder, name = Path(flags.run), " ".join(flags.rater.split())[:MOST]
    if flags.export is not None:
        if not (folder / FILE_NAME).exists():
            raise RunFolderError(f"{folder} has no ratings")
        with Ratings(folder) as store:
            count = export_preferences(store, flags.export)
        _say(f"{count} preferences written to {flags.export}")
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if flags.terminal:
            from zotune.humans import console

            console.rate(folder, rater=name)
        else:
            _serve(folder, flags.port, bool(flags.open_browser), name)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal's echo of Ctrl-C stays on its own line
    finally:
        signal.signal(signal.SIGTERM, previous)
    from zotune.humans.console import summary

    if (folder / FILE_NAME).exists():
        with Ratings(folder) as store:
            for line in [summary(store.progress()), *in_words(rater_counts(store))]:
                _say(line)
    else:
        _say(summary(None))


def _serve(folder: Path, port: int, open_browser: bool, rater: str) -> None:
    from zotune.humans.page import serve

    with serve(folder, port, open_browser, rater) as server:
        print(server.address, flush=True)
        _say("open this address in a browser on this computer; Ctrl-C ends")
        while True:
            server.wait(1.0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


COMMAND = command("rate", rate, RateFlags)

__all__ = ["COMMAND"]
