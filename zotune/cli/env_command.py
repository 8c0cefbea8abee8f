"""`zotune env`: versions and machine."""

from __future__ import annotations

import json
from dataclasses import dataclass

from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag


@dataclass(frozen=True)
class EnvFlags:
    """What `env` takes."""

    as_json: bool = json_flag()


def env(flags: EnvFlags) -> None:
    """Print versions, device and threads, for a bug report."""
    from zotune.runs import provenance

    environment = provenance.environment()
    if flags.as_json:
        print(json.dumps(environment, indent=1))
        return
    for key, value in environment.items():
        if isinstance(value, dict):
            for name, version in value.items():
                print(f"{name:<14} {version or 'not installed'}")
        else:
            print(f"{key:<14} {value}")


COMMAND = command("env", env, EnvFlags)

__all__ = ["COMMAND"]
