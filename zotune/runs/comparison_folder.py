"""The folder of a comparison: its settings and the completions of both models.

Knows files and the settings that completions depend on; generates nothing and asks nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from zotune import files
from zotune.config import RunConfig
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.errors import RunFolderError
from zotune.models.gguf_files import gguf_path, is_gguf
from zotune.models.model_files import ModelFiles
from zotune.tasks import resolve_task

SETTINGS: Final = "compare.json"
COMPLETIONS: Final = "completions.jsonl"
RESULT: Final = "result.json"
_MODEL_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".jinja", ".py")
_NOT_MODEL: Final = ("result.json", "env.json")
"""Files of a run directory that no completion depends on."""

Side = tuple[ModelFiles, TaskSpec, resolve_task.RecordSets]
"""A model's files, the task as it is formatted for this model, and the rows."""


class Pair(NamedTuple):
    """A prompt, and the completions of models A and B."""

    prompt: str
    a: str
    b: str

    @property
    def same(self) -> bool:
        return self.a == self.b

    @property
    def key(self) -> str:
        """A hash of prompt and completions: equal pairs are one question."""
        return hash_of(json.dumps(self).encode())


def settings(
    config: RunConfig, names: Sequence[str], sides: Sequence[Side], split: str, rows: Sequence[Record]
) -> dict[str, Any]:
    """Everything that the completions depend on, as JSON."""
    (model_a, spec, _), (model_b, spec_b, _) = sides  # a task file has a template for each head
    data = json.dumps(rows, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    values = {
        "A": {"name": names[0], "files": _model_hash(model_a)},
        "B": {"name": names[1], "files": _model_hash(model_b)},
        "data": {"name": config.dataset, "split": split, "rows": len(rows), "digest": hash_of(data)},
        "template": spec.template.text,
        "template of B": spec_b.template.text,
        "stop": spec.stop,
        "max_new_tokens": spec.max_new_tokens,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        **spec.sampling.record(),
        "system": spec.system,
        **({"chat_template": [spec.chat_template, spec_b.chat_template]} if spec.chat_template != "off" else {}),
        **({"demonstrations": [_shown(spec), _shown(spec_b)]} if config.shots else {}),
        **({"chat_args": dict(spec.chat_args)} if spec.chat_args else {}),
        "max_length": resolve_task.max_length(config, spec),
        "dtype": config.dtype,
        "seed": config.seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _shown(spec: TaskSpec) -> str:
    """A hash of the demonstrations before every prompt."""
    return hash_of(json.dumps([spec.demonstrations, list(spec.example_messages)], default=str).encode())


def open_folder(output_dir: str | None, a: str, b: str, current: Mapping[str, Any]) -> tuple[Path, bool]:
    """The folder, and whether it was created here: `compare/A-vs-B-<number>`, or the given one. Raises RunFolderError
    where it holds something else, or a comparison with other settings."""
    if output_dir is None:
        stem, number = f"{_stem(a)}-vs-{_stem(b)}", 1
        while True:
            folder = Path("compare") / f"{stem}-{number}"
            try:
                folder.mkdir(parents=True)
                return folder, True
            except FileExistsError:
                number += 1
    folder = Path(output_dir)
    if not folder.exists():
        folder.mkdir(parents=True)
        return folder, True
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / SETTINGS).is_file()):
        raise RunFolderError(f"{folder} exists already and holds no comparison", hint="another --output-dir")
    if (folder / SETTINGS).is_file():
        _check_settings(folder, current)
    return folder, False


def read_pairs(folder: Path, rows: int) -> list[Pair] | None:
    """The recorded completions; None where they are missing or incomplete."""
    try:
        lines = (folder / COMPLETIONS).read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line]
        pairs = [Pair(row["prompt"], row["a"], row["b"]) for row in records]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    complete = len(pairs) == rows and all(isinstance(text, str) for pair in pairs for text in pair)
    return pairs if complete else None


def write_pairs(folder: Path, current: Mapping[str, Any], pairs: Sequence[Pair]) -> list[Pair]:
    """Write settings and completions, and read the completions back: text that UTF-8 cannot hold changes on the way.
    Raises RunFolderError."""
    files.write(folder / SETTINGS, json.dumps(current, indent=1) + "\n", hint="")
    lines = "".join(json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs)
    files.write(folder / COMPLETIONS, lines, hint="")
    written = read_pairs(folder, len(pairs))
    if written is None:
        raise RunFolderError(f"{folder / COMPLETIONS} cannot be read back")
    return written


def hash_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _model_hash(model: ModelFiles) -> str:
    """A hash of a model's files and its adapter's; of the id for a model on the hub."""
    h = hashlib.blake2b(digest_size=16)
    gguf = is_gguf(model.source)
    if gguf and (path := gguf_path(model.source)) is not None:
        h.update(files.checksum(path).encode())
    for folder in (None if gguf else model.folder, model.adapter):
        if folder is None:
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix in _MODEL_SUFFIXES and path.name not in _NOT_MODEL and path.is_file():
                h.update(path.name.encode())
                with path.open("rb") as file:
                    h.update(hashlib.file_digest(file, "blake2b").digest())
    if model.folder is None:
        h.update(model.source.encode())
    return h.hexdigest()


def _stem(model: str) -> str:
    """A model's name as part of a file name."""
    path = Path(model).expanduser()
    name = path.resolve().name if path.exists() else path.name
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name).strip("-.")[:40] or "model"


def _check_settings(folder: Path, current: Mapping[str, Any]) -> None:
    """Raises RunFolderError where the folder's settings differ from the current ones."""
    try:
        recorded = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(recorded, dict):
            raise TypeError("not a mapping")
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{folder / SETTINGS} cannot be read: {error}") from None
    for key, new in current.items():
        old = recorded.get(key)
        if key in ("A", "B", "data") and isinstance(old, dict):
            content = "digest" if key == "data" else "files"
            if old.get(content) == new[content]:
                continue
            old, new = old.get("name"), new["name"]  # not shortened: paths differ at their ends
        elif old == new:
            continue
        what = {"A": "model A", "B": "model B"}.get(key, key.replace("_", " "))
        change = f": {old} then, {new} now" if old != new else ": the same name, but it has changed"
        raise RunFolderError(f"{folder} was made with another {what}{change}", hint="another --output-dir")


__all__ = [
    "COMPLETIONS",
    "RESULT",
    "SETTINGS",
    "Pair",
    "Side",
    "hash_of",
    "open_folder",
    "read_pairs",
    "settings",
    "write_pairs",
]
