"""The answers that people have given so far, as pairs of token ids, kept in a file of the run directory.

An answer belongs to the step whose questions it answers and is written before the step is recorded: a run that is
killed finds the answers of all recorded steps, and those of the step that it takes again are written anew. Knows files
and token ids; knows no model and no person.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from zotune import files
from zotune.errors import RunFolderError


@dataclass(frozen=True)
class AnsweredPair:
    """A completion that was chosen and one that was not. row: the training row whose prompt both answer; chosen,
    rejected: token ids without the end token; reference: log-probability of chosen less that of rejected, in nats,
    under the weights before the step that asked for it."""

    row: int
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    reference: float


class AnsweredPairs:
    """The pairs of all steps. `open` names their file; without one they are kept in memory alone."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._steps: dict[int, list[AnsweredPair]] = {}

    def open(self, path: Path) -> None:
        """Use this file from here on, with what an earlier process left in it. Raises RunFolderError where it cannot
        be read: a resumed run would learn from fewer answers."""
        self._path = path
        with contextlib.suppress(FileNotFoundError):
            try:
                lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                self._steps = {line["step"]: [_pair(x) for x in line["pairs"]] for line in lines}
            except (ValueError, KeyError, TypeError) as error:
                raise RunFolderError(f"{path} cannot be read: {error}", hint="start a new run") from None

    def put(self, step: int, pairs: Sequence[AnsweredPair]) -> None:
        """Keep the pairs of a step, in place of those that it had."""
        self._steps = {s: p for s, p in self._steps.items() if s < step} | {step: [*pairs]}
        if self._path is not None:
            lines = (json.dumps({"step": s, "pairs": [asdict(x) for x in p]}) for s, p in self._steps.items())
            files.write(self._path, "".join(line + "\n" for line in lines))

    def until(self, step: int) -> list[AnsweredPair]:
        """The pairs of all steps up to this one, in their order."""
        return [x for s in sorted(self._steps) if s <= step for x in self._steps[s]]


def _pair(fields: dict[str, object]) -> AnsweredPair:
    x = AnsweredPair(**fields)  # type: ignore[arg-type]
    return AnsweredPair(x.row, tuple(x.chosen), tuple(x.rejected), x.reference)


__all__ = ["AnsweredPair", "AnsweredPairs"]
