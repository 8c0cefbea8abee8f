"""The plugin host: find, load, refuse.

Every plugin, built-in or a stranger's, comes through the entry-point group `zotune`. Each is loaded and called by
itself and its registrations are committed only if all of them succeed, so a broken plugin is reported by name, version
and reason while the rest work. On a clash of names the built-in keeps the bare name; everything also answers to
`distribution/name`.

Importing this module, and loading plugins that register string targets, imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pluggy

from zotune import declarations, hookspecs
from zotune.errors import PluginError, nearest

GROUP = "zotune"
KINDS = ("optimizer", "objective")
_OBSERVERS = ("on_step_end", "on_run_end")


@dataclass(frozen=True)
class Plugin:
    """One registered optimizer or objective."""

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
                target = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
            except (Exception, SystemExit) as error:  # a stranger's module may raise anything while it is imported
                raise PluginError(
                    f"{self.kind} {self.qualified}: {self.target!r} cannot be loaded: {_say(error)}"
                ) from error
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


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@dataclass(frozen=True)
class Source:
    """Where one plugin comes from: an entry point, or a module handed over in a test."""

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]


def installed() -> list[Source]:
    """All entry points of the group, built-ins first, then by distribution name; the first copy on the path wins."""
    found: dict[tuple[str, str], Source] = {}
    for dist in metadata.distributions():
        points = dist.entry_points.select(group=GROUP)
        for point in points:
            name = (dist.metadata["Name"] or "unknown").lower().replace("_", "-")
            key = (name, point.name)
            found.setdefault(key, Source(point.name, name, dist.version, point.load))
    return sorted(found.values(), key=lambda s: (s.distribution != "zotune", s.distribution, s.name))


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
        self.failures.append(Failure(source.name, source.distribution, source.version, reason))

    def _admit(self, source: Source) -> None:
        manager = self._manager
        try:
            module = source.load()
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything while it is imported
            return self._fail(source, f"cannot be imported: {_say(error)}")
        if manager.is_registered(module):
            return self._fail(source, "is the same module as another plugin; it is loaded once")
        try:
            manager.register(module, name=f"{source.distribution}/{source.name}")
        except (
            Exception,
            SystemExit,
        ) as error:  # pluggy refuses wrong arguments; getattr on a plugin may raise anything
            return self._fail(source, f"is refused: {_say(error)}")

        callers = manager.get_hookcallers(module) or []
        misspelt = [c.name for c in callers if not c.has_spec()]
        hooks = [c.name for c in callers if c.has_spec()]
        known = [n for n in vars(hookspecs) if n.startswith(("register_", "on_"))]
        for name in misspelt:
            self._fail(source, f"implements an unknown hook {name!r} ({nearest(name, known)})")
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
                    caller(register=self._collector(kind, source, collected))
        except (Exception, SystemExit) as error:  # whatever a stranger's hook raises, the others must live
            manager.unregister(module)
            return self._fail(source, f"failed while registering, nothing of it is used: {_say(error)}")
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
            if not isinstance(name, str) or not name or "/" in name or ":" in name or name != name.strip():
                raise PluginError(f"{name!r} is not a plugin name; use letters, digits, '-', '_' and '.'")
            if any(p.kind == kind and p.name == name for p in out):
                raise PluginError(f"registers the {kind} {name!r} twice")
            if isinstance(target, str) and ":" not in target:
                raise PluginError(f"{kind} {name!r}: a string target reads 'package.module:attribute', got {target!r}")
            problem = "" if isinstance(target, str) else declarations.plugin_problem(kind, target)
            if problem:
                raise PluginError(f"{kind} {name!r}: {problem}")
            out.append(
                Plugin(kind, name, target, summary, paper, forwards, memory, source.distribution, source.version)
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

    # -- use -----------------------------------------------------------------------------------------------------------

    def find(self, kind: str, name: str) -> Plugin:
        """The plugin of this kind and name. Raises PluginError with the nearest name."""
        of_kind = [p for p in self.plugins if p.kind == kind]
        for p in of_kind:
            if name in (p.name, p.qualified):
                return p
        for f in self.failures:
            if name in (f.plugin, f.distribution, f"{f.distribution}/{f.plugin}"):
                raise PluginError(f"unknown {kind} {name!r}: plugin {f.distribution}/{f.plugin} {f.reason}")
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
                self._manager.subset_hook_caller(hook, remove_plugins=others)(**event)
            except Exception as error:  # an observer must never stop a run
                self._observers.remove((source, module))
                report(f"observer {source.distribution}/{source.name} failed in {hook} and is off now: {_say(error)}")


@functools.cache
def default() -> Host:
    """The host of everything installed, made once a process."""
    return Host()


def by_path(spec: str, kind: str) -> Any:
    """The object that `file.py:name` or `package.module:name` names. Raises PluginError."""
    path, _, attribute = spec.rpartition(":")
    if not path or not attribute:
        raise PluginError(f"{spec!r} names no {kind}; write file.py:name or package.module:name")
    try:
        if path.endswith(".py"):
            module = _run_file(path, kind)
        else:
            module = importlib.import_module(path)
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # the user's own file may raise anything
        raise PluginError(f"{kind} {spec!r}: {path} cannot be imported: {_say(error)}") from error
    try:
        return functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        public = [n for n in vars(module) if not n.startswith("_")]
        raise PluginError(f"{path} has no {attribute!r}", hint=nearest(attribute, public)) from None


def _run_file(path: str, kind: str) -> Any:
    import importlib.util

    if not os.path.isfile(path):
        raise PluginError(f"{kind} file {path!r} does not exist")
    name = "zotune_user_" + os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file runs
    spec.loader.exec_module(module)
    return module


def listing(host: Host) -> Mapping[str, Any]:
    """What `zotune plugins --json` prints."""
    shown = ("kind", "name", "distribution", "version", "summary")
    return {
        "plugins": [{k: getattr(p, k) for k in shown} for p in host.plugins],
        "failures": [vars(f) for f in host.failures],
    }
