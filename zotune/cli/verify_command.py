"""`zotune verify`: whether the files of a run directory are what its journal says."""

from __future__ import annotations

import json
from dataclasses import dataclass

from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag, run_argument
from zotune.text import plain

WORDS = {True: "ok", False: "DIFFERS", None: "-"}
"""What a check found, in a word."""


@dataclass(frozen=True)
class VerifyFlags:
    """What `verify` takes."""

    run: str = run_argument()
    as_json: bool = json_flag()


def verify(flags: VerifyFlags) -> None:
    """Check the files of a run directory: journal, checkpoints, model files and weights. Exit code 1 if one differs."""
    from zotune.cli.terminal import Terminal
    from zotune.runs import verify as runs

    with Terminal() as terminal:
        checks = runs.verify(flags.run, terminal)
    bad = sum(c.ok is False for c in checks)
    if flags.as_json:
        print(json.dumps([c.json() for c in checks], indent=1))
    else:
        width = max(len(c.name) for c in checks)
        for c in checks:
            print(plain(f"{WORDS[c.ok]:<8}{c.name:<{width}}  {c.detail}"))
        print(f"{bad} of {len(checks)} differ" if bad else "nothing differs")
    if bad:
        raise SystemExit(1)


COMMAND = command("verify", verify, VerifyFlags)

__all__ = ["COMMAND"]
