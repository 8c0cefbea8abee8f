"""A variant: files that `zotune eval` shall score, the right score, and the words that a refusal must hold.

Also the register of kinds. Knows no model and no kind.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrong_file_kinds.tiny_models import Base


@dataclass(frozen=True)
class Variant:
    """What is scored, and what is right.

    options: those of `zotune.evaluate`. right: the score, None where the files have none. culprits: a refusal must hold
    one of these words, in any case; without words no refusal is right. noted: another score that is right if a note
    holds one of the culprits. about: the parameters of the variant.
    """

    options: dict[str, Any]
    right: float | None
    culprits: tuple[str, ...] = ()
    noted: float | None = None
    about: str = ""


@dataclass(frozen=True)
class Draw:
    """What a kind builds its variant from: the models, a folder of its own, and the variant's random generator."""

    base: Base
    folder: Path
    random: random.Random

    def choice(self, items: Sequence[Any]) -> Any:
        return self.random.choice(list(items))

    def write(self, name: str, content: str | bytes) -> Path:
        """A file in the variant's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def lines(self, records: Sequence[dict[str, Any]], name: str = "data.jsonl") -> Path:
        """Records as JSON lines."""
        return self.write(name, "".join(json.dumps(r) + "\n" for r in records))


Kind = Callable[[Draw], Variant]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Register a kind under its function's name."""
    KINDS[function.__name__.replace("_", "-")] = function
    return function


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    data = json.loads(path.read_text()) if path.exists() else {}
    data.update(changes)
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
