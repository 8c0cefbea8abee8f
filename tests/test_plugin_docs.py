"""docs/plugins.md: its package passes its tests and the type checker, its other code runs, its tables are complete."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import zotune
from zotune import declarations, hookspecs, types
from zotune.plugins import PUBLIC
from zotune.scoring.objective import wrap
from zotune.types import ObjectiveInfo, OptimizerInfo

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
EXAMPLES = ROOT / "examples"
PACKAGE = Path(zotune.__file__).parent

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the page is not beside the tests")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def files() -> dict[str, str]:
    """The files that the page shows, by path."""
    named = [re.match(r"# (\S+\.(?:py|toml))\n", code) for code in blocks("python") + blocks("toml")]
    return {m[1]: m.string[m.end() :] for m in named if m}


def write(folder: Path) -> Path:
    for name, text in files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_package_keeps_its_contracts(tmp_path: Path) -> None:
    done = run(write(tmp_path), "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_heavy.py")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d passed", done.stdout)


def test_the_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    info = write(tmp_path) / "zotune_heavy-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zotune-heavy\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[zotune]\nheavy = zotune_heavy\n")
    done = run(tmp_path, "-m", "zotune", "plugins", "show", "g-mean")
    assert "smoothing = 0.0" in done.stdout, done.stderr
    done = run(tmp_path, "-m", "zotune", "plugins", "show", "zotune-heavy/heavy-ball")
    assert "η: learning rate" in done.stdout, done.stderr


def squares(model: torch.nn.Module, batch: list[int]) -> float:
    return float(model(torch.ones(len(batch), 8)).square().mean())


@pytest.mark.parametrize("code", [c for c in blocks("python") if not c.startswith("# ")] if PAGE.exists() else [])
def test_the_other_code_runs(code: str) -> None:
    module: dict[str, Any] = {"__name__": "plugins_page"}
    sys.modules.setdefault("plugins_page", type(sys)("plugins_page"))
    exec(compile(code, str(PAGE), "exec"), module)
    defined = [module[node.name] for node in ast.parse(code).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    for target in defined:
        if inspect.isclass(target) and not declarations.plugin_problem("optimizer", target):
            tuner = zotune.Tuner(torch.nn.Linear(8, 4), squares, target(), data=range(24), batch_size=6)
            tuner.fit(max_steps=12)
        elif target.__name__ in ("Words", "shortest"):
            goal = wrap(target() if inspect.isclass(target) else target, "page")
            inputs = {"prompts": ["p"], "completions": ["three short words"]}
            if goal.ordered:
                assert goal.compare(inputs, [("a longer text", "short")]) == [[-13.0, -5.0]]
            else:
                assert goal.score(1, inputs).value == 3.0


CONFIG = """
[mypy]
strict = True
follow_imports = silent
mypy_path = {path}
[mypy-torch.*,transformers.*,numpy.*,peft.*,safetensors.*,rich.*]
follow_imports = skip
[mypy-sklearn.*]
ignore_missing_imports = True
"""
"""Strict for the plugins; torch is skipped, for zotune's types need none of it and reading it takes a minute."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for what the type checker has read, of both tests."""
    return str(tmp_path_factory.mktemp("mypy"))


def test_plugins_pass_the_type_checker(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("mypy")
    folder = write(tmp_path)
    for k, code in enumerate(c for c in blocks("python") if not c.startswith("# ")):
        (folder / f"block_{k}.py").write_text(code)
    third = EXAMPLES / "third_party"
    path = os.pathsep.join(map(str, (PACKAGE.parent, folder, third)))
    (folder / "mypy.ini").write_text(CONFIG.format(path=path))
    checked = [
        *folder.glob("*.py"),
        folder / "zotune_heavy",
        *EXAMPLES.glob("*.py"),
        *third.glob("*.py"),
        third / "zotune_brisk",
    ]
    done = run(folder, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", cache, *map(str, checked))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_step_with_wrong_types_is_an_error(tmp_path: Path, cache: str) -> None:
    pytest.importorskip("mypy")
    source = files()["zotune_heavy/optimizer.py"] + "\n\nchecked: Optimizer[State] = HeavyBall()\n"
    for right, wrong in (
        ("g * z\n", "g * up.nothing\n"),
        ("state: State, at: At", "state: State, at: int"),
        ("import At, Oracle", "import At, Optimizer, Oracle"),
    ):
        assert right in source
        source = source.replace(right, wrong)
    (tmp_path / "wrong.py").write_text(source)
    (tmp_path / "mypy.ini").write_text(CONFIG.format(path=PACKAGE.parent))
    done = run(tmp_path, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", cache, "wrong.py")
    assert '"float" has no attribute "nothing"' in done.stdout
    assert 'Incompatible types in assignment (expression has type "HeavyBall"' in done.stdout


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_tables_are_complete() -> None:
    page = PAGE.read_text(encoding="utf-8")
    cells = set(re.findall(r"^\| `([a-z_A-Z.]+)", page, re.M))
    assert {f.name for f in dataclasses.fields(ObjectiveInfo)} <= cells
    assert {f.name for f in dataclasses.fields(OptimizerInfo)} | {"forwards", "cost", "describe"} <= cells
    assert {n for n in vars(hookspecs) if n.startswith(("register_", "on_"))} <= cells
    assert set(PUBLIC) <= cells
    members = {n for cls in (types.At, types.Oracle) for n in vars(cls) if not n.startswith("_")}
    assert not {n for n in members if not re.search(rf"\b(?:at|oracle)\.{n}\b", page)}
    functions = set(zotune.__all__) - {
        "Tuner",
        "__version__",
        "evaluate",
        "fit",
        "hookimpl",
        "objective",
        "report",
        "resume",
    }
    assert not {n for n in functions if not re.search(rf"\b{n}\(", page)}
