"""The rules about the package's folders, checked by reading the source of a folder. Each returns its violations."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BOTTOM = "root, bottom"
TOP = "root, top"


@dataclass(frozen=True)
class Violation:
    """module: dotted name below the package; line: where it is; text: which rule it breaks."""

    module: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text}"


def modules(package: Path) -> dict[str, ast.Module]:
    """The syntax tree of every module, by its dotted name below the package; a folder's `__init__` has its name."""
    out = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        out[".".join(parts)] = ast.parse(path.read_text(), str(path))
    return out


def imports(tree: ast.Module, module: str, package: str, names: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of each import from the package, wherever it stands: in functions, under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield node.lineno, _inside(alias.name, package), ""
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                folder = [package, *module.split(".")][: -node.level] if module in names else [package]
                source = ".".join([*folder, *source.split(".")] if source else folder)
            if source.split(".")[0] != package:
                continue
            inside = _inside(source, package)
            for alias in node.names:
                below = alias.name if inside == "__init__" else f"{inside}.{alias.name}"
                yield (node.lineno, below, "") if below in names else (node.lineno, inside, alias.name)


def _inside(module: str, package: str) -> str:
    return module[len(package) + 1 :] or "__init__"


def upward(package: Path, folders: Sequence[str], bottom: Collection[str], top: Collection[str]) -> list[Violation]:
    """Imports that go up in the order: modules of the root's bottom, the folders, modules of the root's top."""
    order = [BOTTOM, *folders, TOP]
    trees = modules(package)

    def place(module: str) -> str | None:
        if module in bottom:
            return BOTTOM
        if module in top:
            return TOP
        folder = module.split(".")[0]
        return folder if folder in folders else None

    out = [Violation(m, 1, "has no place in the order of folders") for m in trees if place(m) is None]
    for module, tree in trees.items():
        for line, other, _ in imports(tree, module, package.name, trees):
            here, there = place(module), place(other)
            if here is not None and there is not None and order.index(there) > order.index(here):
                out.append(Violation(module, line, f"imports {other}, which is above it"))
    return out


def circles(package: Path) -> list[Violation]:
    """Modules that import each other, directly or through others."""
    trees = modules(package)
    arrows = {
        module: {other: line for line, other, _ in imports(tree, module, package.name, trees) if other != module}
        for module, tree in trees.items()
    }
    out = []
    for module in arrows:
        reached, waiting = set(), [module]
        while waiting:
            for other in arrows.get(waiting.pop(), {}):
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)
        if module in reached:
            first = min(arrows[module].values())
            out.append(Violation(module, first, "imports a module that imports it"))
    return out


def same_names(package: Path) -> list[Violation]:
    """Modules that have the name of another one."""
    stems: dict[str, list[str]] = {}
    folders = {".".join(p.parent.relative_to(package).parts) for p in package.rglob("__init__.py")}
    for module in modules(package).keys() - folders:
        stems.setdefault(module.split(".")[-1], []).append(module)
    twice = [sorted(names) for names in stems.values() if len(names) > 1]
    return [Violation(name, 1, f"has the name of {names[0]}") for names in twice for name in names[1:]]


def private_imports(plugin: Path, package: str, public: Collection[str]) -> list[Violation]:
    """Imports of a plugin from modules of the package that are not public, and of names that begin with _."""
    names = {_inside(name, package) for name in public}
    out = []
    for module, tree in modules(plugin).items():
        for line, other, name in imports(tree, module, package, names):
            full = package if other == "__init__" else f"{package}.{other}"
            if other not in names:
                out.append(Violation(module, line, f"imports {full}, which is not public"))
            elif name.startswith("_") and not name.endswith("__"):
                out.append(Violation(module, line, f"imports the private name {name} of {full}"))
    return out


def literal_attributes(package: Path, allowed: Collection[str] = ()) -> list[Violation]:
    """Calls of getattr and hasattr with a literal name, outside the allowed modules."""
    out = []
    for module, tree in modules(package).items():
        for node in ast.walk(tree):
            if (
                module not in allowed
                and isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
                and len(node.args) > 1
                and isinstance(node.args[1], ast.Constant)
            ):
                out.append(
                    Violation(module, node.lineno, f"{node.func.id} with the literal name {node.args[1].value!r}")
                )
    return out
