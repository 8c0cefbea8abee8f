"""Data sources: a file, a folder with a file for each split, or a hub id, as named splits of records.

Knows split names; does not decide which rows train, validate or test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zotune.data.hub import looks_like_hub_id, read_hub
from zotune.data.readers import SPLIT_NAMES, SUFFIXES, DataFile, data_suffix, path_type, read_data_file
from zotune.data.records import Record, normalize
from zotune.data.synthetic import make_splits, synthetic_name
from zotune.errors import DataError, nearest


@dataclass(frozen=True)
class DataSource:
    """The splits of a source.

    splits: records by split name. aliases: the source's own name → split name (`dev` → `validation`). files: records by
    resolved path, so that a file under two names is read once and recognized. left_out: split name → why it cannot be
    used. notes: what was left out and how files were read, in words; a file that is read later adds its own.
    """

    name: str
    splits: dict[str, list[Record]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    files: dict[Path, list[Record]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def split(self, name: str) -> list[Record]:
        """The records of a split, by its name or the path of a file. A file under two names gives the same list. Raises
        DataError."""
        if name in self.splits or name in self.aliases:
            return self.splits[self.aliases.get(name, name)]
        if name in self.left_out:
            raise DataError(f"{self.name}: split {name!r} cannot be used: {self.left_out[name]}")
        if not data_suffix(name):
            raise DataError(f"{self.name} has no split {name!r}", hint=nearest(name, self.splits))
        path = to_path(name)
        kind = path_type(path)
        if kind == "file":
            return self._file(path)
        reason = "that is a folder, not a file" if kind == "folder" else "there is no such file"
        raise DataError(f"{self.name} has no split {name!r}, and {reason}", hint=nearest(name, self.splits))

    def _file(self, path: Path) -> list[Record]:
        resolved = path.resolve()
        if resolved not in self.files:
            content = _read(path)
            if len(content.splits) > 1:
                raise DataError(f"{path} has the splits {', '.join(content.splits)} itself", hint=f"--dataset {path}")
            self.files[resolved] = next(iter(content.splits.values()))
            self.notes.extend(content.notes)
        return self.files[resolved]


def load_source(source: str | Path, *, label: str = "label") -> DataSource:
    """All splits of a source, with normalized records.

    A file is the split "train", unless it holds an object of splits. In a folder each data file is a split named by its
    stem; valid, val, dev, eval and validation_matched stand for validation. `synthetic:NAME` is made. A text that is no
    path and looks like a hub id is read from the hub, where `label` names the column of class numbers. Raises
    DataError.
    """
    if isinstance(source, str) and not source.strip():
        raise DataError(f"the path of the data is empty: {source!r}", hint="--dataset PATH or a hub id")
    if isinstance(source, str) and (made := synthetic_name(source)) is not None:
        return DataSource(source, {name: normalize(rows, source) for name, rows in make_splits(made).items()})
    path = to_path(source)
    kind = path_type(path)
    if kind == "file":
        content = _read(path)
        aliases = _aliases(content.splits)
        splits = {aliases.get(name, name): records for name, records in content.splits.items()}
        files = {path.resolve(): records for records in splits.values()} if len(splits) == 1 else {}
        return DataSource(str(source), splits, aliases, files, notes=list(content.notes))
    if kind == "folder":
        return _load_folder(source, path)
    if kind == "other":
        raise DataError(f"{source} is neither a file nor a folder")
    if not isinstance(source, str) or not looks_like_hub_id(source):
        raise DataError(f"{source}: no such file or folder")
    hub = read_hub(source, label)
    aliases = _aliases(hub.splits)
    splits = {aliases.get(s, s): normalize(records, f"{source}, split {s!r}") for s, records in hub.splits.items()}
    notes = [f"split {split!r} left out: {reason}" for split, reason in hub.left_out.items()]
    return DataSource(source, splits, aliases, left_out=hub.left_out, notes=[*notes, *hub.notes])


def read_splits(source: str | Path, *, label: str = "label") -> dict[str, list[Record]]:
    """The records of a source by split name, as `load_source` reads them. Raises DataError."""
    return load_source(source, label=label).splits


def to_path(source: str | Path) -> Path:
    """A path with `~` expanded."""
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~name of an unknown user
        return Path(source)


def _read(path: Path) -> DataFile:
    """The content of a file with normalized records."""
    content = read_data_file(path)
    several = len(content.splits) > 1
    splits = {
        name: normalize(records, f"{path}, {name}" if several else str(path))
        for name, records in content.splits.items()
    }
    return DataFile(splits, content.notes)


SHARD = re.compile(r"(?P<split>[A-Za-z]+(?:_matched)?)[-_.]?(?:part|shard)?[-_.]?(?P<number>\d+)(?:[-_]of[-_]\d+)?")
"""Names of a split's several files, such as test-00000-of-00002, test_0 and test.part1."""


def _load_folder(source: str | Path, path: Path) -> DataSource:
    try:
        entries = sorted(p for p in path.iterdir() if data_suffix(p.name) and not p.name.startswith("."))
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    by_stem: dict[str, list[Path]] = {}
    standard = {name for names in SPLIT_NAMES.values() for name in names}
    for entry in entries:
        kind = path_type(entry)
        if kind != "file":
            raise DataError(f"{entry} is {'a folder' if kind == 'folder' else 'missing'}, but named like a data file")
        stem = entry.name[: -len(data_suffix(entry.name))].removesuffix(
            "-00000-of-00001"
        )  # as the hub names the only parquet file of a split
        stem = stem.lower() if stem.lower() in standard else stem
        shard = SHARD.fullmatch(stem)
        name = shard["split"].lower() if shard and shard["split"].lower() in standard else stem
        if name in by_stem and (name == stem or not _is_shard(by_stem[name][0])):
            raise DataError(f"{path} has more than one {name} file: {by_stem[name][0].name}, {entry.name}")
        by_stem.setdefault(name, []).append(entry)
    if not by_stem:
        raise DataError(f"{path} has no data file", hint=f"expected train{'|train'.join(SUFFIXES)}")
    aliases = _aliases(by_stem)
    splits, files = {}, {}
    notes: list[str] = []
    for stem, shards in by_stem.items():
        records: list[Record] = []
        for entry in sorted(shards, key=_shard_number):
            content = _read(entry)
            if len(content.splits) > 1:
                raise DataError(
                    f"{entry} has the splits {', '.join(content.splits)} itself",
                    hint=f"give the file alone: -d {entry}",
                )
            files[entry.resolve()] = next(iter(content.splits.values()))
            records += files[entry.resolve()]
            notes.extend(content.notes)
        splits[aliases.get(stem, stem)] = files[shards[0].resolve()] if len(shards) == 1 else records
        if len(shards) > 1:
            notes.append(f"{stem}: {len(shards)} files are read as one split")
    return DataSource(str(source), splits, aliases, files, notes=notes)


def _is_shard(path: Path) -> bool:
    return SHARD.fullmatch(path.name[: -len(data_suffix(path.name))]) is not None


def _shard_number(path: Path) -> int:
    """The number in a shard's name; 0 for a file that is no shard."""
    shard = SHARD.fullmatch(path.name[: -len(data_suffix(path.name))])
    return int(shard["number"]) if shard else 0


def _aliases(names: Iterable[str]) -> dict[str, str]:
    """The source's own name → split name, for each split whose name differs. Of several names for one split the first
    in SPLIT_NAMES stands for it; the others stay splits of their own."""
    lower = {name.lower(): name for name in names}
    chosen = {split: next((lower[a] for a in known if a in lower), None) for split, known in SPLIT_NAMES.items()}
    return {name: split for split, name in chosen.items() if name is not None and name != split}


__all__ = ["DataSource", "load_source", "read_splits", "to_path"]
