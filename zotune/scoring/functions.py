"""Functions of the user's, for plugins that call them: find one by name, call it, and read its scores.

Public: the objective `judge` is built on this module, and other plugins may use it. It knows how objectives are called
and how their results are read; it knows no model and no data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zotune import plugins
from zotune.errors import ObjectiveError
from zotune.scoring.calls import Calls, call, select_rows
from zotune.scoring.partial_scores import Report, ignore
from zotune.scoring.results import read_list


def find(spec: str, kind: str) -> Any:
    """The object named by `file.py:name` or `package.module:name`. kind: for messages. Raises PluginError."""
    return plugins.by_path(spec, kind)


@dataclass(frozen=True)
class UserFunction:
    """A function that returns one score for each row; called as an objective is.

    function: plain or async; it gets those inputs that it declares as parameters, or all with `**kwargs`.
    name: names the function in messages.
    concurrency, batch_size: calls at a time and rows in a call, of an async function; timeout: seconds a call.
    """

    function: Callable[..., Any]
    name: str
    concurrency: int | None = None
    batch_size: int | None = None
    timeout: float | None = None

    def scores(self, inputs: Mapping[str, Any], rows: int, report: Report = ignore) -> list[float | None]:
        """Call the function once for all rows, or in parts if it is async; one number or None for each row. report:
        takes the scores of a part as soon as it is there.

        Raises ObjectiveError for any other result and after the time limit, and whatever the function raises.
        """
        parameters = inspect.signature(self.function).parameters
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            inputs = {name: value for name, value in inputs.items() if name in parameters}
        result = call(self.function, inputs, rows, Calls(self.concurrency, self.batch_size, self.timeout), report)
        scores = read_list(self.name, result, rows)
        if scores is None:
            raise ObjectiveError(f"{self.name!r} must return a list with a number for each row, got {result!r:.60}")
        return scores


__all__ = ["UserFunction", "find", "select_rows"]
