"""The host: every kind of broken plugin is reported and survived."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zotune import hookimpl, plugins
from zotune.errors import PluginError
from zotune.plugins import Host, Source


class Good:
    def init(self, theta: Any) -> None: ...

    def step(self, theta: Any, oracle: Any, state: Any, at: Any) -> Any: ...


def source(name: str, dist: str = "stranger", *, load: Callable[[], Any] | None = None, **hooks: Any) -> Source:
    module = types.ModuleType(name)
    for hook, fn in hooks.items():
        setattr(module, hook, hookimpl(fn))
    return Source(name, dist, "1.2", load or (lambda: module))


def registers(*names: str, target: Any = Good) -> Callable[..., None]:
    def register_optimizers(register: Any) -> None:
        for name in names:
            register(name, target)

    return register_optimizers


def raising(error: BaseException) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


GOOD = source("good", "good-dist", register_optimizers=registers("fine"))


def two_then_fail(register: Any) -> None:
    register("one", Good)
    raise RuntimeError("half way")


def misspelt(registr: Any) -> None: ...


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (source("bad", load=raising(ImportError("no torch here"))), "cannot be imported: ImportError: no torch here"),
        (source("bad", load=raising(SystemExit(3))), "cannot be imported: SystemExit"),
        (source("bad", load=raising(KeyboardInterrupt())), "cannot be imported: KeyboardInterrupt"),
        (source("bad", register_optimizers=lambda register: sys.exit(1)), "nothing of it is used: SystemExit: 1"),
        (source("bad", register_optimizers=two_then_fail), "nothing of it is used: RuntimeError: half way"),
        (source("bad", register_optimizer=registers("x")), "unknown hook 'register_optimizer'"),
        (source("bad", register_optimizers=misspelt), "is refused"),
        (source("bad"), "implements no hook"),
        (source("bad", register_optimizers=lambda register: None), "registered nothing"),
        (source("bad", register_optimizers=registers("x", "x")), "'x' twice"),
        (source("bad", register_optimizers=registers("x", target=int)), "no step"),
        (source("bad", register_optimizers=registers("x", target=3)), "not a class or function"),
        (source("bad", register_optimizers=registers("x", target="nocolon")), "string target reads"),
        (source("bad", register_optimizers=registers("a/b")), "is not a plugin name"),
        (source("bad", register_objectives=registers("x", target=3)), "not a class or function"),
    ],
)
def test_a_bad_plugin_is_reported_and_the_rest_work(bad: Source, said: str) -> None:
    found = Host([bad, GOOD])
    assert [p.name for p in found.plugins] == ["fine"]
    (failure,) = found.failures
    assert (failure.plugin, failure.distribution, failure.version) == ("bad", "stranger", "1.2")
    assert said in failure.reason


def test_ctrl_c_while_a_plugin_is_imported_ends_the_program() -> None:
    def load() -> Any:
        signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Host([source("slow", load=load)])
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("broken", ["[zotune]\nx = y\nno equals sign\n", "[zotune\n\xff", "\x00"])
def test_broken_entry_points_of_another_package_are_survived(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "wreck-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wreck\nVersion: 1.0\n")
    (info / "entry_points.txt").write_bytes(broken.encode("latin-1"))
    monkeypatch.syspath_prepend(tmp_path)
    host = Host()
    assert {p.name for p in host.plugins} >= {"mezo", "f1"}
    assert all(f.distribution == "wreck" for f in host.failures)
    if "\x00" not in broken:  # to importlib.metadata a NUL is a line like any other outside a section
        assert "wreck" in {f.distribution for f in host.failures}


def test_control_characters_of_plugins_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def register_objectives(register: Any) -> None:
        register("fine", lambda: 0.0, summary="red \x1b[31m text\nnext line", paper="\x07", forwards="\x9b2J")

    host = Host(
        [
            source("a", register_objectives=register_objectives),
            source("b", load=raising(ValueError("\x1b]0;title\x07"))),
            source("c", register_optimizers=registers("x\x1b[1m")),
        ]
    )
    shown = json.dumps(plugins.listing(host), ensure_ascii=False) + repr(host.plugins)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert [p.summary for p in host.plugins] == ["red \\x1b[31m text next line"]
    assert len(host.failures) == 2


def test_misspelt_hook_offers_the_nearest() -> None:
    (failure,) = Host([source("bad", register_optimizer=registers("x"))]).failures
    assert "did you mean 'register_optimizers'?" in failure.reason


def test_a_clash_leaves_the_bare_name_to_the_first() -> None:
    first = source("a", "zotune", register_optimizers=registers("mine"))
    found = Host([first, source("b", "other", register_optimizers=registers("mine"))])
    assert found.find("optimizer", "mine").distribution == "zotune"
    assert found.find("optimizer", "other/mine").distribution == "other"
    assert "answers to 'other/mine'" in found.failures[0].reason


def test_string_targets_are_imported_on_use_and_checked() -> None:
    found = Host([source("a", register_optimizers=registers("x", target="no_such_module:X"))])
    assert not found.failures
    assert "no_such_module" in found.check()[0].reason
    with pytest.raises(PluginError, match="cannot be loaded"):
        found.find("optimizer", "x").load()
    wrong = Host([source("a", register_optimizers=registers("x", target="fractions:Fraction"))])
    assert "no step" in wrong.check()[0].reason


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean 'mezo'"):
        plugins.default().find("optimizer", "mezzo")


def test_disabled_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOTUNE_DISABLE_PLUGINS", "good-dist")
    assert Host([GOOD]).plugins == []
    monkeypatch.setenv("ZOTUNE_DISABLE_PLUGINS", "all")
    assert Host([GOOD]).plugins == []


def test_a_failing_observer_is_told_once_and_switched_off() -> None:
    calls = []

    def on_step_end(step: int, metrics: Any) -> None:
        calls.append(step)
        raise ValueError("no disk")

    found = Host([source("watch", on_step_end=on_step_end)])
    said: list[str] = []
    for step in range(3):
        found.notify("on_step_end", said.append, step=step, metrics={})
    assert calls == [0]
    assert len(said) == 1
    assert "no disk" in said[0]


def test_built_ins_come_through_the_entry_points() -> None:
    found = {(p.kind, p.name) for p in plugins.default().plugins if p.distribution == "zotune"}
    assert found >= {("optimizer", "auto"), ("optimizer", "mezo"), ("objective", "f1"), ("objective", "accuracy")}
    assert not plugins.default().check()


LIMIT = 0.8
"""Seconds of a light command, beside other tests."""


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["plugins", "--json"]])
def test_light_commands_are_quick_and_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from zotune.cli.app import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    best = float("inf")
    for _ in range(12):  # the best of several: other tests may be running
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        if best < LIMIT:
            break
    assert best < LIMIT, f"{best:.2f} s"


def test_a_file_imports_the_modules_beside_it(tmp_path: Any) -> None:
    """Two files that import modules of one name get each its own."""
    paths = list(sys.path)
    for name, value in ("one", 1.0), ("two", 2.0):
        (tmp_path / name / "deeper").mkdir(parents=True)
        (tmp_path / name / "zt_beside.py").write_text(f"VALUE = {value}\n")
        (tmp_path / name / "deeper" / "__init__.py").write_text(f"VALUE = {value}\n")
        (tmp_path / name / "reward.py").write_text(
            "from dataclasses import dataclass\nimport zt_beside\nfrom deeper import VALUE\n"
            "@dataclass\nclass P:\n    x: float\n"
            "def f(completions):\n    import zt_beside as again\n"
            "    assert again.VALUE == VALUE\n    return P(zt_beside.VALUE).x\n"
        )
    for name, value in ("one", 1.0), ("two", 2.0):
        assert plugins.by_path(f"{tmp_path}/{name}/reward.py:f", "objective")([]) == value
    assert sys.path == paths


def test_file_targets(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text("def score(predictions): return 1.0\nboom = 1\n")
    assert plugins.by_path(f"{tmp_path}/mine.py:score", "objective")(predictions=[]) == 1.0
    with pytest.raises(PluginError, match="did you mean 'score'"):
        plugins.by_path(f"{tmp_path}/mine.py:scores", "objective")
    with pytest.raises(PluginError, match="does not exist"):
        plugins.by_path(f"{tmp_path}/none.py:score", "objective")
    with pytest.raises(PluginError, match=r"is a file.*write .*mine.py:score"):
        plugins.default().find("objective", f"{tmp_path}/mine.py")
    with pytest.raises(PluginError, match=r"it defines no class"):
        plugins.by_path(f"{tmp_path}/mine.py:", "optimizer")
    (tmp_path / "several.py").write_text("def a(x): ...\nasync def b(x): ...\nclass C: ...\ndef _hidden(): ...\n")
    with pytest.raises(PluginError, match=r"several.py:function; it defines a, b, C\)"):
        plugins.default().find("objective", f"{tmp_path}/several.py")
    with pytest.raises(PluginError, match=r"write .*several.py:C\)"):
        plugins.default().find("optimizer", f"{tmp_path}/several.py")
    with pytest.raises(PluginError, match=r"none.py' does not exist \(.*none.py:function\)"):
        plugins.default().find("objective", f"{tmp_path}/none.py")
    (tmp_path / "quits.py").write_text("raise SystemExit(0)")
    with pytest.raises(PluginError, match="cannot be imported: SystemExit: 0"):
        plugins.by_path(f"{tmp_path}/quits.py:score", "objective")
    (tmp_path / "broken.py").write_text("raise ValueError('half written')")
    with pytest.raises(PluginError, match="half written"):
        plugins.by_path(f"{tmp_path}/broken.py:score", "objective")
