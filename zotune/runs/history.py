"""What a run has recorded, as records: its steps, its validations, and completions of some rows.

Reads the files of a run directory; computes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, overload

from zotune.errors import OptionError
from zotune.runs.json_lines import read_lines
from zotune.runs.run_directory import COMPLETIONS, METRICS

_NAMES: Final = {"drift": "kl", "ruined": "diverged"}
"""Keys of metrics.jsonl that have other names here."""


class History(Sequence[Mapping[str, Any]]):
    """The records of a run in order. A step has "step", "loss" (smaller is better), "difference" and "dropped"; a
    validation has "step", "score", "kl", "evaluations" and "zero_share"; each where it is known."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._records = list(records)

    @classmethod
    def of(cls, folder: Path) -> History:
        """The history of a run directory; empty where it has recorded nothing."""
        rows = read_lines(folder / METRICS)
        return cls([{_NAMES.get(key, key): value for key, value in row.items()} for row in rows])

    @property
    def steps(self) -> History:
        """The records of steps alone."""
        return History([r for r in self._records if not _is_validation(r)])

    @property
    def validations(self) -> History:
        """The records of validations alone."""
        return History([r for r in self._records if _is_validation(r)])

    def to_pandas(self) -> Any:
        """The records as a pandas frame. Raises OptionError without pandas."""
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise OptionError("history.to_pandas() needs pandas", hint="pip install pandas") from None
        return pandas.DataFrame(self._records)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> History: ...
    def __getitem__(self, place: int | slice) -> Mapping[str, Any] | History:
        return History(self._records[place]) if isinstance(place, slice) else self._records[place]

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"History({len(self.steps)} steps, {len(self.validations)} validations)"


def samples(folder: Path) -> list[dict[str, Any]]:
    """The lines of completions.jsonl: "step", "prompt", "completion", "reference", "score" and more."""
    return list(read_lines(folder / COMPLETIONS))


def plot(history: History, title: str, before: float | None = None, after: float | None = None) -> Any:
    """A matplotlib figure: the validation score and the batch loss against steps. before, after: test scores of the
    base model and of the kept weights, as lines. Raises OptionError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OptionError("plot() needs matplotlib", hint="pip install 'zotune[plot]'") from None

    class Shown(Figure):
        """Shown by notebooks that have not loaded pyplot, too."""

        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            self.savefig(image, format="png", dpi=80)
            return image.getvalue()

    figure = Shown(figsize=(6.4, 4.8), layout="constrained")
    scores, losses = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    validated = [r for r in history.validations if "score" in r]
    scores.plot([r["step"] for r in validated], [r["score"] for r in validated], marker="o", label="validation")
    for value, name, style in ((before, "test, base model", ":"), (after, "test, kept weights", "--")):
        if value is not None:
            scores.axhline(value, linestyle=style, color="gray", label=name)
    steps = [r for r in history.steps if "loss" in r]
    losses.plot([r["step"] for r in steps], [r["loss"] for r in steps], linewidth=0.8)
    scores.set(title=title, ylabel="score")
    scores.legend()
    losses.set(xlabel="step", ylabel="batch loss")
    return figure


def _is_validation(record: Mapping[str, Any]) -> bool:
    return "score" in record or "failed" in record


__all__ = ["History", "plot", "samples"]
