"""The plugin host: finds plugins, loads them, and refuses broken ones.

Every plugin, built-in or not, comes through the entry-point group `zotune`. The host loads and calls each one by itself
and keeps its registrations only if all of them succeed, so that a broken plugin is reported by name, version and reason
while the rest work. On a clash of names the built-in keeps the bare name; every plugin also answers to
`distribution/name`.

Importing this module, and loading plugins that register string targets, imports neither torch nor transformers. The
host knows what a plugin registers, not what it does.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, TypeVar

import pluggy

from zotune import declarations, hookspecs
from zotune.errors import PluginError, nearest
from zotune.text import one_line

T = TypeVar("T")
GROUP = "zotune"
KINDS = ("optimizer", "objective", "tracker", "engine")
PUBLIC: Final = (
    "zotune",
    "zotune.core.tensor_weights",
    "zotune.errors",
    "zotune.hookspecs",
    "zotune.humans.progress_report",
    "zotune.humans.ratings",
    "zotune.inference",
    "zotune.scales",
    "zotune.scoring.functions",
    "zotune.scoring.partial_scores",
    "zotune.tasks.gumbel",
    "zotune.tasks.text_classifier",
    "zotune.testing",
    "zotune.text",
    "zotune.types",
)
"""The modules that a plugin may import, built-in plugins included. Everything else may change without notice."""
_OBSERVERS = ("on_step_end", "on_run_end")


@dataclass(frozen=True)
class Plugin:
    """One registered optimizer, objective, tracker or engine."""

    kind: str
    name: str
    target: Any
    summary: str
    paper: str
    forwards: str
    memory: str
    distribution: str
    version: str

    @property
    def qualified(self) -> str:
        return f"{self.distribution}/{self.name}"

    def load(self) -> Any:
        """The target itself, imported now if it was registered as a string. Raises PluginError."""
        target = self.target
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            try:
                target = _guarded(
                    lambda: functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
                )
            except _PluginFault as error:
                raise PluginError(
                    f"{self.kind} {self.qualified}: {self.target!r} cannot be loaded: {error}"
                ) from error.__cause__
        problem = declarations.plugin_problem(self.kind, target)
        if problem:
            raise PluginError(f"{self.kind} {self.qualified}: {problem}")
        return target


@dataclass(frozen=True)
class Failure:
    """A plugin, or a part of one, that was refused."""

    plugin: str
    distribution: str
    version: str
    reason: str


class _PluginFault(Exception):
    """Something that a plugin's code raised, described in one line."""


def _guarded(run: Callable[[], T]) -> T:
    """`run()`, which is a plugin's code. Whatever it raises becomes a _PluginFault, also SystemExit and a
    KeyboardInterrupt that it raises itself; Ctrl-C of the user passes."""
    with _interrupts() as pressed:
        try:
            return run()
        except BaseException as error:
            if pressed:
                raise
            text = one_line(str(error))
            raise _PluginFault(f"{type(error).__name__}: {text}" if text else type(error).__name__) from error


def attempt(run: Callable[[], T]) -> tuple[T | None, str]:
    """`run()`, which is a plugin's code, and "", or None and what it raised in one line. Ctrl-C of the user passes."""
    try:
        return _guarded(run), ""
    except _PluginFault as error:
        return None, str(error)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is not empty once the user has pressed Ctrl-C in the block."""
    pressed: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield pressed
        return

    def noted(number: int, frame: Any) -> None:
        pressed.append(number)
        handler(number, frame)

    signal.signal(signal.SIGINT, noted)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, handler)


@dataclass(frozen=True)
class Source:
    """Where one plugin comes from: an entry point, or a module handed over in a test.

    problem: why it cannot even be asked for its plugins; empty where it can.
    """

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]
    problem: str = ""


def installed() -> list[Source]:
    """All entry points of the group, built-ins first, then by distribution name; the first copy on the path wins."""
    sources: dict[tuple[str, str], Source] = {}
    for dist in metadata.distributions():
        for source in _sources(dist):
            sources.setdefault((source.distribution, source.name), source)
    return sorted(sources.values(), key=lambda s: (s.distribution != "zotune", s.distribution, s.name))


def _sources(dist: metadata.Distribution) -> list[Source]:
    """The plugins of one distribution, or its problem where its metadata cannot be read."""
    name, version = "unknown", "?"
    try:
        name = one_line(dist.metadata["Name"] or "unknown").lower().replace("_", "-")
        version = one_line(dist.version or "?")
        points = list(dist.entry_points.select(group=GROUP))
    except Exception as error:  # files of another package may hold anything
        problem = f"has an entry_points.txt that cannot be read: {type(error).__name__}: {one_line(str(error))}"
        return [Source("entry_points.txt", name, version, lambda: None, problem)]
    return [Source(one_line(point.name), name, version, point.load) for point in points]


def _disabled() -> frozenset[str]:
    return frozenset(x.strip().lower() for x in os.environ.get("ZOTUNE_DISABLE_PLUGINS", "").split(",") if x.strip())


class Host:
    """All plugins that could be loaded, and all that could not.

    sources: for tests; by default everything installed, less what ZOTUNE_DISABLE_PLUGINS names (distributions or
    plugin names, comma-separated; "all" leaves only the built-ins).
    """

    def __init__(self, sources: Iterable[Source] | None = None) -> None:
        self.plugins: list[Plugin] = []
        self.failures: list[Failure] = []
        self._manager = pluggy.PluginManager("zotune")
        self._manager.add_hookspecs(hookspecs)
        self._observers: list[tuple[Source, Any]] = []
        disabled = _disabled()
        for source in installed() if sources is None else sources:
            off = {source.distribution, source.name.lower(), "all"} & disabled
            if not (off and source.distribution != "zotune"):
                self._admit(source)

    def _fail(self, source: Source, reason: str) -> None:
        self.failures.append(Failure(source.name, source.distribution, source.version, one_line(reason)))

    def _admit(self, source: Source) -> None:
        manager = self._manager
        if source.problem:
            return self._fail(source, source.problem)
        try:
            module = _guarded(source.load)
        except _PluginFault as error:
            return self._fail(source, f"cannot be imported: {error}")
        if manager.is_registered(module):
            return self._fail(source, "is the same module as another plugin; it is loaded once")
        try:
            _guarded(lambda: manager.register(module, name=f"{source.distribution}/{source.name}"))
        except _PluginFault as error:  # pluggy refuses wrong arguments; a module's attributes may raise anything
            return self._fail(source, f"is refused: {error}")

        callers = manager.get_hookcallers(module) or []
        misspelt = [c.name for c in callers if not c.has_spec()]
        hooks = [c.name for c in callers if c.has_spec()]
        specified = [n for n in vars(hookspecs) if n.startswith(("register_", "on_"))]
        for name in misspelt:
            self._fail(source, f"implements an unknown hook {name!r} ({nearest(name, specified)})")
        if not hooks:
            if not misspelt:
                self._fail(source, "implements no hook (decorate its functions with @zotune.hookimpl)")
            manager.unregister(module)
            return None

        collected: list[Plugin] = []
        others = [p for p in manager.get_plugins() if p is not module]
        try:
            for kind in KINDS:
                if f"register_{kind}s" in hooks:
                    caller = manager.subset_hook_caller(f"register_{kind}s", remove_plugins=others)
                    _guarded(functools.partial(caller, register=self._collector(kind, source, collected)))
        except _PluginFault as error:
            manager.unregister(module)
            return self._fail(source, f"failed while registering, nothing of it is used: {error}")
        if not collected and not set(hooks) & set(_OBSERVERS):
            self._fail(source, "registered nothing")
        for plugin in collected:
            self._commit(plugin)
        if set(hooks) & set(_OBSERVERS):
            self._observers.append((source, module))
        return None

    def _collector(self, kind: str, source: Source, out: list[Plugin]) -> hookspecs.Register:
        def register(
            name: str, target: Any, *, summary: str = "", paper: str = "", forwards: str = "", memory: str = ""
        ) -> None:
            if not isinstance(name, str) or not name.isprintable() or not name or set("/:") & set(name) or " " in name:
                raise PluginError(f"{name!r} is not a plugin name; use letters, digits, '-', '_' and '.'")
            if any(p.kind == kind and p.name == name for p in out):
                raise PluginError(f"registers the {kind} {name!r} twice")
            if isinstance(target, str) and ":" not in target:
                raise PluginError(f"{kind} {name!r}: a string target reads 'package.module:attribute', got {target!r}")
            problem = "" if isinstance(target, str) else declarations.plugin_problem(kind, target)
            if problem:
                raise PluginError(f"{kind} {name!r}: {problem}")
            out.append(
                Plugin(
                    kind,
                    name,
                    target,
                    summary=one_line(str(summary)),
                    paper=one_line(str(paper)),
                    forwards=one_line(str(forwards)),
                    memory=one_line(str(memory)),
                    distribution=source.distribution,
                    version=source.version,
                )
            )

        return register

    def _commit(self, plugin: Plugin) -> None:
        same = [p for p in self.plugins if p.kind == plugin.kind and p.name == plugin.name]
        if any(p.distribution == plugin.distribution for p in same):
            self.failures.append(
                Failure(plugin.name, plugin.distribution, plugin.version, f"a second {plugin.kind} {plugin.qualified}")
            )
            return
        if same:
            reason = (
                f"{plugin.kind} {plugin.name!r} is {same[0].distribution}'s; this one answers to {plugin.qualified!r}"
            )
            self.failures.append(Failure(plugin.name, plugin.distribution, plugin.version, reason))
        self.plugins.append(plugin)

    def find(self, kind: str, name: str) -> Plugin:
        """The plugin of this kind and name. Raises PluginError with the nearest name."""
        of_kind = [p for p in self.plugins if p.kind == kind]
        for p in of_kind:
            if name in (p.name, p.qualified):
                return p
        for f in self.failures:
            if name in (f.plugin, f.distribution, f"{f.distribution}/{f.plugin}"):
                raise PluginError(f"unknown {kind} {name!r}: plugin {f.distribution}/{f.plugin} {f.reason}")
        if name.endswith(".py"):
            raise _no_attribute(name, kind)
        raise PluginError(f"unknown {kind} {name!r}", hint=nearest(name, [p.name for p in of_kind]))

    def has(self, kind: str, name: str) -> bool:
        """Whether a plugin of this kind has the name."""
        return any(p.kind == kind and name in (p.name, p.qualified) for p in self.plugins)

    def names(self, kind: str) -> list[str]:
        return [p.name for p in self.plugins if p.kind == kind]

    def check(self) -> list[Failure]:
        """Load every target; what fails."""
        out = []
        for p in self.plugins:
            try:
                p.load()
            except PluginError as error:
                out.append(Failure(p.name, p.distribution, p.version, str(error)))
        return out

    def notify(self, hook: str, report: Callable[[str], None], **event: Any) -> None:
        """Call an observer hook on each plugin by itself; one that raises is reported once and switched off."""
        for source, module in list(self._observers):
            function = getattr(module, hook, None)
            others = [p for p in self._manager.get_plugins() if p is not module]
            if function is None:
                continue
            try:
                _guarded(functools.partial(self._manager.subset_hook_caller(hook, remove_plugins=others), **event))
            except _PluginFault as error:  # an observer must never stop a run
                self._observers.remove((source, module))
                report(f"observer {source.distribution}/{source.name} failed in {hook} and is switched off: {error}")


@functools.cache
def default() -> Host:
    """The host of everything installed, made once a process."""
    return Host()


def by_path(spec: str, kind: str) -> Any:
    """The object that `file.py:name` or `package.module:name` names. Raises PluginError."""
    path, _, attribute = spec.rpartition(":")
    if not path or not attribute:
        raise _no_attribute(path or attribute, kind)
    try:
        module = _guarded(lambda: _run_file(path, kind) if path.endswith(".py") else importlib.import_module(path))
    except _PluginFault as error:
        if isinstance(error.__cause__, PluginError):
            raise error.__cause__ from None
        raise PluginError(f"{kind} {spec!r}: {path} cannot be imported: {error}") from error.__cause__
    try:
        return functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        public = [n for n in vars(module) if not n.startswith("_")]
        raise PluginError(f"{path} has no {attribute!r}", hint=nearest(attribute, public)) from None


def _no_attribute(path: str, kind: str) -> PluginError:
    """The error for a path that names no function or class in its module."""
    what = "function" if kind == "objective" else "Class"
    if not path.endswith(".py"):
        return PluginError(f"{path!r} names no {kind}; write file.py:{what} or package.module:{what}")
    if not os.path.isfile(path):
        return PluginError(f"{kind} file {path!r} does not exist", hint=f"{path}:{what}")
    names = _defined(path, kind)
    hint = f"write {path}:{names[0] if len(names) == 1 else what}"
    if len(names) != 1:
        hint += f"; it defines {', '.join(names)}" if names else f"; it defines no {what.lower()}"
    return PluginError(f"{path!r} is a file, and names no {what.lower()} in it", hint=hint)


def _defined(path: str, kind: str) -> list[str]:
    """The public classes that a file defines, of an objective's file the functions too; it is not run."""
    try:
        with open(path, encoding="utf-8") as file:
            body = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef) if kind == "objective" else (ast.ClassDef,)
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


_SIBLINGS: dict[str, str] = {}
"""The folders of the modules that users' files have imported from beside them, by module name."""


def _run_file(path: str, kind: str) -> Any:
    """The module that a file defines; it is run now. Raises PluginError where there is no such file."""
    if not os.path.isfile(path):
        raise PluginError(f"{kind} file {path!r} does not exist")
    name = "zotune_user_" + os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file runs
    with _importable(os.path.dirname(os.path.abspath(path))):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Inside the block the modules of a folder can be imported, as by a script in it.

    Modules of the same names that files of other folders have imported are loaded again from this one.
    """
    for name, other in list(_SIBLINGS.items()):
        if other != folder and (os.path.isfile(f"{folder}/{name}.py") or os.path.isdir(f"{folder}/{name}")):
            for loaded in [m for m in sys.modules if m.partition(".")[0] == name]:
                del sys.modules[loaded]
            del _SIBLINGS[name]
    importlib.invalidate_caches()
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            with contextlib.suppress(AttributeError):  # not every entry is a module of a file
                file = sys.modules[name].__file__
                if file in (os.path.join(folder, f"{name}.py"), os.path.join(folder, name, "__init__.py")):
                    _SIBLINGS[name] = folder


def listing(host: Host) -> Mapping[str, Any]:
    """What `zotune plugins --json` prints."""
    keys = ("kind", "name", "distribution", "version", "summary")
    return {
        "plugins": [{k: getattr(p, k) for k in keys} for p in host.plugins],
        "failures": [vars(f) for f in host.failures],
    }
