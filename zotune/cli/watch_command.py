"""`zotune watch`: the page of a run, live on this computer."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from zotune.cli.command import command
from zotune.cli.shared_flags import open_flag, port_flag
from zotune.options import argument


@dataclass(frozen=True)
class WatchFlags:
    """What `watch` takes."""

    runs: tuple[str, ...] = argument("Run directories; a run may still be starting.", "RUN [RUN …]")
    port: int = port_flag("Page")
    open_browser: bool | None = open_flag("Page")


def watch(flags: WatchFlags) -> None:
    """Show the page of a run, or of several, and keep it up to date while they go on. Ctrl-C ends.

    Only this computer can open it, by the address that is printed.
    """
    from zotune.runs.watch import serve

    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serve([Path(run) for run in flags.runs], flags.port, bool(flags.open_browser)) as server:
            print(server.address, flush=True)
            print("open this address in a browser on this computer; Ctrl-C ends", file=sys.stderr, flush=True)
            while True:
                server.wait(1.0)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal's echo of Ctrl-C stays on its own line
    finally:
        signal.signal(signal.SIGTERM, previous)


COMMAND = command("watch", watch, WatchFlags)

__all__ = ["COMMAND"]
