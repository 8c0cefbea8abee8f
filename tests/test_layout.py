"""The rules of the package's folders: what imports what, what is public, what is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import layout
import pytest

import zotune
from zotune.plugins import PUBLIC

PACKAGE = Path(zotune.__file__).parent
FOLDERS = ("core", "models", "data", "tasks", "scoring", "search", "humans", "pages", "runs", "bench", "cli")
"""The folders of the package from the bottom up: imports go down."""
BOTTOM = {
    *("errors", "types", "seeds", "text", "declarations", "hookspecs", "plugins", "lock", "distributed", "config"),
    *("events", "inference", "options", "version", "files", "palette"),
    *("plugin_options", "yaml_file", "scales", "fit_options", "attendance"),
}
"""Modules of the package's root that lie below all folders."""
ABOVE = {"tuner", "testing", "api", "__init__", "__main__"}
"""Modules of the package's root that lie above all folders."""
HEAVY = {"torch", "transformers", "sklearn", "peft", "numpy", "pyarrow", "datasets"}
LIGHT = {
    "options",
    "plugin_options",
    "yaml_file",
    "scales",
    "files",
    "events",
    "declarations",
    "scoring.objective_spec",
    "scoring.results",
    "scoring.functions",
    "scoring.calls",
    "seeds",
    "errors",
    "hookspecs",
    "inference",
    "plugins",
    "types",
    "text",
    "config",
    "models.heads",
    "data.presets",
    "humans.store",
    "humans.verdicts",
    "humans.raters",
    "humans.questions",
    "humans.taste_model",
    "humans.preferences",
    "humans.progress_report",
    "humans.ratings",
    "humans.page",
    "palette",
    "humans.console",
    "humans.local_server",
    *(f"pages.{name}" for name in ("class_panel", "curves", "detail_panels", "html_page", "line_chart", "markup")),
    *("pages.ratings_panel", "pages.run_record", "pages.sample_wall", "pages.verdict_panel", "pages.word_diff"),
    *(
        "runs.run_directory",
        "runs.run_list",
        "runs.journal_summary",
        "runs.ratings_reader",
        "runs.repeat_command",
        "runs.run_reader",
        "runs.run_report",
        "runs.sample_reader",
        "runs.watch",
    ),
    *(f"cli.{name}_command" for name in ("bench", "check", "compare", "env", "eval", "export", "fit", "ls", "new")),
    *(f"cli.{name}_command" for name in ("plugins", "rate", "replay", "report", "resume", "verify", "watch")),
    *(
        "cli.command",
        "cli.ls_runs",
        "cli.help_page",
        "cli.shared_flags",
        "cli.stop_signals",
        "cli.result_lines",
        "cli.bench_tables",
    ),
    "cli.scaffold",
    "cli.app",
    "scoring.objective",
    "search.optimizer_spec",
    "search.tracker_spec",
    "search.tracking",
    "data.splits",
    "data.readers",
    "runs.result",
    "runs.summary",
    "runs.history",
    "runs.hub_id",
    "cli.push_command",
    "cli.terminal",
}


def modules() -> set[str]:
    """Every module of the package, by its dotted name below zotune."""
    paths = (p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py") if p.stem != "__init__")
    return {".".join(p.parts) for p in paths}


def imports(name: str) -> tuple[set[str], set[str]]:
    """(modules of zotune, other top-level modules) that a module imports when it is imported itself."""
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
    ours: set[str] = set()
    others: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "zotune":
                inside = node.module[len("zotune.") :]
                ours |= {inside} if inside in modules() else {f"{inside}.{a.name}".strip(".") for a in node.names}
            else:
                others.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            others |= {a.name.split(".")[0] for a in node.names}
    return ours, others


def built_in(folder: str) -> Path:
    """Where a package of built-in plugins lies: beside zotune in a wheel, else in the repository."""
    beside = PACKAGE.parent / folder
    return beside if beside.is_dir() else next(PACKAGE.parent.glob(f"*/{folder}"))


def test_imports_go_down() -> None:
    assert not layout.upward(PACKAGE, FOLDERS, BOTTOM, ABOVE)


def test_no_modules_import_each_other() -> None:
    assert not layout.circles(PACKAGE)


def test_no_two_modules_have_one_name() -> None:
    assert not layout.same_names(PACKAGE)


def test_attributes_are_looked_up_by_name_in_declarations_alone() -> None:
    assert not layout.literal_attributes(PACKAGE, {"declarations"})


@pytest.mark.parametrize("kind", ["engines", "optimizers", "objectives", "trackers"])
def test_built_in_plugins_import_public_modules_alone(kind: str) -> None:
    folder = built_in(f"zotune_{kind}")
    assert not layout.private_imports(folder, "zotune", PUBLIC)
    assert not layout.literal_attributes(folder)


def plant(folder: Path, **files: str) -> Path:
    """A package of modules with these sources, by dotted name with __ for the dot."""
    package = folder / "house"
    for name, source in {"__init__": "", **files}.items():
        path = package / (name if name == "__init__" else name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.with_suffix(".py").write_text(source)
    return package


def found(violations: list[layout.Violation]) -> list[tuple[str, int]]:
    return [(v.module, v.line) for v in violations]


def test_a_planted_circle_under_type_checking_is_found(tmp_path: Path) -> None:
    later = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.core import space\n"
    planted = plant(tmp_path, core__space="from house.core.noise import z", core__noise=later, core__seeds="")
    assert found(layout.circles(planted)) == [("core.noise", 3), ("core.space", 1)]


def test_a_planted_upward_import_inside_a_function_is_found(tmp_path: Path) -> None:
    inside = "def f():\n    import house.cli.app\n"
    planted = plant(
        tmp_path, core__space=inside, cli__app="from ..core import space", errors="", tuner="import house.errors"
    )
    order = (("core", "cli"), {"errors"}, {"tuner", "__init__"})
    assert found(layout.upward(planted, *order)) == [("core.space", 2)]
    plant(tmp_path, errors="from . import tuner", stray="")
    assert found(layout.upward(planted, *order)) == [("stray", 1), ("core.space", 2), ("errors", 1)]


def test_planted_modules_of_one_name_are_found(tmp_path: Path) -> None:
    planted = plant(tmp_path, core__state="", runs__state="", runs__core="")
    assert found(layout.same_names(planted)) == [("runs.state", 1)]


def test_a_planted_private_import_of_a_plugin_is_found(tmp_path: Path) -> None:
    hidden = "def f():\n    from zotune.models import loading\n"
    planted = plant(
        tmp_path,
        good="import zotune\nfrom zotune.errors import OptionError",
        bad=hidden,
        worse="from zotune.text import _x",
    )
    assert found(layout.private_imports(planted, "zotune", PUBLIC)) == [("bad", 2), ("worse", 1)]


def test_a_planted_literal_attribute_is_found(tmp_path: Path) -> None:
    fine = "getattr(x, name)"
    planted = plant(
        tmp_path, a=f"x = 1\ngetattr(x, 'rows', 3)\n{fine}", b="hasattr(y, 'step')", declarations="hasattr(y, 'z')"
    )
    assert found(layout.literal_attributes(planted, {"declarations"})) == [("a", 2), ("b", 1)]


def test_light_modules_import_nothing_heavy() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(LIGHT)!r}:\n"
        "    importlib.import_module(f'zotune.{name}')\n"
        f"    assert not {HEAVY!r} & set(sys.modules), (name, {HEAVY!r} & set(sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_models_uses_transformers() -> None:
    for name in {m for m in modules() if not m.startswith("models.")}:
        tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
        found = {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert "transformers" not in found, name


def test_the_engine_knows_no_metric_and_no_model() -> None:
    ours, others = imports("search.engine")
    below = {
        "models.loading",
        "tasks.build",
        "data.splits",
        "scoring.objective",
        "runs.fit",
    }
    assert not ours & below
    assert "torch" not in others


def test_public_names() -> None:
    assert zotune.__all__ == sorted(zotune.__all__)
    for name in zotune.__all__:
        assert getattr(zotune, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        zotune.no_such  # noqa: B018


def test_plugins_are_short_and_cite() -> None:
    root = PACKAGE.parent if (PACKAGE.parent / "zotune_optimizers").is_dir() else PACKAGE.parent / "plugins"
    for path in (root / "zotune_optimizers").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 150, path
        if path.stem not in (
            "__init__",
            "option_checks",
            "spsa",
            "sparsity",
            "step_effect",
            "layer_ratios",
            "matrices",
            "row_populations",
            "auto_calibration",
            "auto_scales",
            "auto_population",
            "auto_member_scale",
            "auto_sharpness",
            "auto_spending",
            "auto_answers",
        ):
            assert "Differs from the paper:" in text, path
            assert "Evaluations a step" in text, path
            assert "Extra memory" in text, path


def test_the_shipped_contract_uses_public_names_alone() -> None:
    tree = ast.parse((PACKAGE / "testing.py").read_text())
    private = {
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }
    assert not private


def test_no_two_test_files_share_a_name() -> None:
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test files by their name"
