"""`zotune rate`: a person answers what a run asks, on a local page or in the terminal."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def rate(
    run: Annotated[str, typer.Argument(help="Run folder of `zotune fit -o human`; it may still be starting.")],
    terminal: Annotated[bool, typer.Option("--terminal", help="Ask in the terminal, without a page.")] = False,
    port: Annotated[int, typer.Option(help="Port of the page on this computer; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
    export: Annotated[
        str | None, typer.Option(help="Write prompt, chosen and rejected as JSON lines to this file, and exit.")
    ] = None,
) -> None:
    """Say which answers are better. Ctrl-C ends it; answers are kept, and it may be started again at any time."""
    from zotune.errors import RunFolderError
    from zotune.humans.preferences import export_preferences
    from zotune.humans.ratings import Ratings
    from zotune.humans.store import FILE_NAME

    folder = Path(run)
    if export is not None:
        if not (folder / FILE_NAME).exists():
            raise RunFolderError(f"{folder} has no ratings")
        with Ratings(folder) as store:
            count = export_preferences(store, export)
        _say(f"{count} preferences written to {export}")
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if terminal:
            from zotune.humans import console

            console.rate(folder)
        else:
            _serve(folder, port, open_browser)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # what the terminal echoed for Ctrl-C stays on its own line
    finally:
        signal.signal(signal.SIGTERM, before)
    from zotune.humans.console import summary

    if (folder / FILE_NAME).exists():
        with Ratings(folder) as store:
            _say(summary(store.progress()))
    else:
        _say(summary(None))


def _serve(folder: Path, port: int, open_browser: bool) -> None:
    from zotune.humans.page import serve

    with serve(folder, port, open_browser) as server:
        print(server.address, flush=True)
        _say("open this address in a browser on this computer; Ctrl-C ends")
        while True:
            server.wait(1.0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
