"""`zotune ls`: the runs of a directory, and what ships with zotune."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zotune.cli import ls_runs
from zotune.cli.command import RecordGroup, command
from zotune.cli.shared_flags import json_flag
from zotune.data.task_kinds import TASK_KINDS

if TYPE_CHECKING:
    from zotune.data.presets import TaskFile


@dataclass(frozen=True)
class ListFlags:
    """What `ls tasks` takes."""

    as_json: bool = json_flag()


def tasks(flags: ListFlags) -> None:
    """List the tasks that --task knows by name. Your own task is a file of the same form."""
    from zotune.data import presets

    shipped = [presets.load(name) for name in presets.names()]
    if flags.as_json:
        print(json.dumps([_record(t) for t in shipped], indent=1))
        return
    for kind in TASK_KINDS:
        print(kind)
        for t in (t for t in shipped if t.kind == kind):
            record = _record(t)
            print(f"  {t.name:<10} {t.about}")
            print(f"  {'':<10} metric: {record['objective']}; data: {record['data']}")
    print("\nzotune fit -m MODEL --task json               a task with data of its own")
    print("zotune fit -m MODEL -d DATA --task gsm8k      a task that needs data with its columns")
    print("zotune ls tasks --json                        all of it, with an example of each")


def _record(task: TaskFile) -> dict[str, Any]:
    """What is shown of a task."""
    from zotune.data import presets

    needed = ", ".join("/".join(n) for n in presets.needed_columns(task))
    own = task.reward or task.objective or ("cross-entropy" if task.kind == "generation" else "accuracy")
    objective = "" if task.reward else f" -o {own}"
    dataset = "" if task.data else " -d DATA"
    return {
        "name": task.name,
        "kind": task.kind,
        "about": task.about,
        "paper": task.paper,
        "objective": own,
        "data": f"{task.data}, or {needed}" if task.data else needed,
        "example": f"zotune fit -m MODEL{dataset} --task {task.name}{objective}",
    }


COMMAND = RecordGroup(
    "ls",
    "List the runs of a directory, or what ships with zotune.",
    {"Commands": [ls_runs.COMMAND, command("tasks", tasks, ListFlags)]},
)

__all__ = ["COMMAND"]
