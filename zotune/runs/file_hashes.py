"""Hashes of the small files that a run's scores depend on beside weights and data: of the model, and of the objective.

Knows paths and file names; loads no model and runs no code.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from zotune import declarations, files
from zotune.models.gguf_files import gguf_path, is_gguf
from zotune.models.model_files import ModelFiles
from zotune.models.small_files import small_files

LARGE: Final = 256 << 20
"""Bytes of a file up to which all of it is hashed."""
MODEL_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".jinja", ".py", ".gguf")


def model_file_hashes(model: ModelFiles, revision: str | None) -> dict[str, str]:
    """The hash of each small file of a model and of its adapter, by name; of a hub id, of the downloaded files. A GGUF
    file holds configuration and tokenizer, and is hashed as a whole."""
    hashes = {name: files.checksum(path) for name, path in small_files(model.source, model.folder, revision)}
    if is_gguf(model.source) and (path := gguf_path(model.source, revision)):
        hashes = {path.name: files.checksum(path)}
    if model.adapter is not None:
        own = small_files(str(model.adapter), model.adapter)
        hashes |= {f"adapter: {name}": files.checksum(path) for name, path in own}
    return hashes


def objective_file_hashes(
    spec: str | tuple[str, ...], options: Mapping[str, Any], functions: list[Callable[..., Any]]
) -> dict[str, str]:
    """The hash of each file that an objective runs or reads: programs and files that its name or its options name, and
    modules that its Python files import from their own folders, by path as the name, option or import says it."""
    named = [word for text in _texts([spec, dict(options)]) for word in _words(text)]
    paths = {word: path for word in named if (path := _file(word)) is not None}
    sources = [path for path in paths.values() if path.suffix == ".py"]
    for function in functions:
        try:
            sources.append(Path(inspect.getfile(declarations.definition(function))))
        except (OSError, TypeError):  # built in, or defined in a session without files
            continue
    for source in sources:
        folder = source.resolve().parent
        paths |= {str(path.relative_to(folder)): path for path in helper_modules(source)}
    return {name: files.checksum(path) for name, path in sorted(paths.items())}


def folder_hashes(spec: str | tuple[str, ...], options: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each model folder that an objective's name or options name, such as a reward model: over its files'
    names, sizes and contents; of files above LARGE bytes, over their first and last MiB."""
    hashes = {}
    for word in (word for text in _texts([spec, dict(options)]) for word in _words(text)):
        if (folder := _model_folder(word)) is not None:
            digest = hashlib.blake2b(digest_size=16)
            for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in MODEL_SUFFIXES):
                digest.update(f"{path.relative_to(folder)} {_content(path)}\n".encode("utf-8", "surrogatepass"))
            hashes[word] = digest.hexdigest()
    return hashes


def _content(path: Path) -> str:
    size = path.stat().st_size
    if size <= LARGE:
        return files.checksum(path)
    with path.open("rb") as file:
        ends = file.read(1 << 20)
        file.seek(-(1 << 20), 2)
        return f"{size} {hashlib.blake2b(ends + file.read(), digest_size=16).hexdigest()}"


def _model_folder(word: str) -> Path | None:
    """The folder that a word names, if it holds a model."""
    try:
        path = Path(word).expanduser()
        holds = word and path.is_dir() and any((path / n).is_file() for n in ("config.json", "adapter_config.json"))
        return path if holds else None
    except (OSError, RuntimeError, ValueError):  # too long, ~name of an unknown user, a null byte
        return None


def optimizer_file_hashes(optimizer: Any) -> dict[str, str]:
    """The hash of each module that an optimizer's own file imports from its folder, by path from there; empty for an
    optimizer that comes with zotune."""
    if declarations.is_shipped(type(optimizer)):
        return {}
    try:
        source = Path(inspect.getfile(declarations.definition(type(optimizer))))
    except (OSError, TypeError):  # defined in a session without files
        return {}
    folder = source.resolve().parent
    return {str(path.relative_to(folder)): files.checksum(path) for path in helper_modules(source)}


def helper_modules(source: Path) -> list[Path]:
    """The Python files that a file imports from its own folder, and those that these import; of a package all files."""
    folder = source.resolve().parent
    matches: list[Path] = []
    open_files = [source.resolve()]
    while open_files:
        for name in _imports(open_files.pop()):
            package = folder / name
            inside = sorted(package.rglob("*.py")) if (package / "__init__.py").is_file() else []
            for path in [p for p in (folder / f"{name}.py", *inside) if p.is_file()]:
                if path not in matches and path != source.resolve():
                    matches.append(path)
                    open_files.append(path)
    return sorted(matches)


def _imports(path: Path) -> set[str]:
    """The first parts of the names that a file imports, wherever in the file."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _words(text: str) -> list[str]:
    """The words of a name or an option that may be files: `exec:./score.sh --fast`, `file.py:function`, a path."""
    name, colon, command = text.partition(":")
    try:
        if name == "exec" and colon:
            return shlex.split(command)
    except ValueError:
        return []
    return [text, text.rpartition(":")[0]]


def _file(word: str) -> Path | None:
    """The file that a word names, as a path or as a program on the PATH."""
    try:
        path = Path(word).expanduser()
        if not path.is_file() and word and "/" not in word:
            path = Path(shutil.which(word) or path)
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, ~name of an unknown user, a null byte
        return None


__all__ = [
    "folder_hashes",
    "helper_modules",
    "model_file_hashes",
    "objective_file_hashes",
    "optimizer_file_hashes",
]
