"""The rows of a call as JSON, for scorers that run outside of this process.

This module knows the inputs of objectives; it knows neither programs nor servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zotune.types import PROVIDED


@dataclass(frozen=True)
class Rows:
    """The rows to score. columns: for each row the data's columns, as far as JSON can represent them."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    references: Sequence[Any]
    columns: Sequence[Mapping[str, Any]]

    @classmethod
    def from_inputs(
        cls,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        references: Sequence[Any] | None,
        others: Mapping[str, Any],
    ) -> Rows:
        """The rows of an objective's call. others: all other inputs; those that are no column of the data, or that JSON
        cannot represent, are omitted."""
        n = len(completions)
        columns = {
            name: values
            for name, values in others.items()
            if name not in PROVIDED and isinstance(values, list | tuple) and len(values) == n and _is_json(values)
        }
        return cls(
            list(prompts),
            list(completions),
            [None] * n if references is None else list(references),
            [{name: values[i] for name, values in columns.items()} for i in range(n)],
        )

    def __len__(self) -> int:
        return len(self.completions)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.prompts[part], self.completions[part], self.references[part], self.columns[part])

    def objects(self) -> list[dict[str, Any]]:
        """One JSON object for each row: its columns, `prompt`, `completion` and `references`."""
        rows = zip(self.columns, self.prompts, self.completions, self.references, strict=True)
        return [{**columns, "prompt": p, "completion": c, "references": r} for columns, p, c, r in rows]

    def single_object(self) -> dict[str, Any]:
        """One JSON object for all rows: `prompts`, `completions` and `references` as lists, the columns in `rows`."""
        return {
            "prompts": list(self.prompts),
            "completions": list(self.completions),
            "references": list(self.references),
            "rows": list(self.columns),
        }


def as_text(turns: Any) -> str:
    """A prompt or completion as a text: of a list of messages the contents, one below the other."""
    return turns if isinstance(turns, str) else "\n".join(str(turn["content"]) for turn in turns)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
