"""`zotune ls`: what ships with zotune."""

from __future__ import annotations

import json
from dataclasses import dataclass

from zotune.cli.command import RecordGroup, command
from zotune.cli.shared_flags import json_flag


@dataclass(frozen=True)
class ListFlags:
    """What `ls tasks` takes."""

    as_json: bool = json_flag()


def tasks(flags: ListFlags) -> None:
    """List the tasks that --task knows by name. Your own task is a file of the same form."""
    from zotune.data import presets

    shipped = [presets.load(name) for name in presets.names()]
    if flags.as_json:
        print(
            json.dumps(
                [{"name": t.name, "kind": t.kind, "about": t.about, "paper": t.paper} for t in shipped], indent=1
            )
        )
        return
    for t in shipped:
        print(f"{t.name:<10} {t.kind:<15} {t.about}")


COMMAND = RecordGroup("ls", "List what ships with zotune.", {"Commands": [command("tasks", tasks, ListFlags)]})

__all__ = ["COMMAND"]
