"""Each sentence of the design's tree that can be held by a machine: who may import whom, and what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zotune

PACKAGE = Path(zotune.__file__).parent
LAYERS = [
    {"errors", "events", "hookspecs", "seeds", "bench.shapes", "text", "models.configuration"},
    {"files", "plugins", "core.noise", "data.readers", "scoring.score_budget", "bench.textbook", "types"},
    {"config", "data.presets", "humans.store", "core.recipe", "cli.scaffold"},
    {"scoring.calls", "core.state_codec", "core.codegen", "humans.preferences"},
    {"scoring.objective", "humans.ratings"},
    {"humans.page", "humans.console"},
    {"core.kernels", "search.optimizer_spec", "core.in_forward"},
    {"core.evaluation"},
    {"core.space"},
    {"core.joint_forward"},
    {"search.journal", "lock", "distributed"},
    {"search.checkpoint"},
    {"search.schedule", "search.batches"},
    {"search.context"},
    {"search.oracle"},
    {"search.optimizer_call"},
    {"search.calibration", "search.preflight"},
    {"search.engine", "data.splits", "models.loading", "tasks.frozen_prefix"},
    {"models.adapters", "data.templates", "tuner", "bench.workbench"},
    {"runs.export", "models.trainable", "data.tokenization"},
    {"tasks.forward"},
    {"tasks.prompt_cache"},
    {"tasks.classification"},
    {"tasks.generation"},
    {"tasks.build"},
    {"tasks.task_spec", "tasks.kl", "search.perturb_mode", "tasks.linear_probe"},
    {"runs.heldout", "runs.plan"},
    {"runs.model_card", "runs.session"},
    {"runs.provenance"},
    {"runs.evaluate", "runs.replay"},
    {"runs.fit"},
    {"bench.instruments"},
    {"bench.bench", "runs.check", "runs.compare", "cli.terminal", "testing"},
    {
        "cli.bench_command",
        "cli.check_command",
        "cli.compare_command",
        "cli.new_command",
        "cli.rate_command",
        "cli.run_commands",
    },
    {"cli.app"},
    {"__main__"},
]
HEAVY = {"torch", "transformers", "sklearn", "peft", "numpy", "pyarrow", "datasets"}
LIGHT = {
    "files",
    "events",
    "scoring.calls",
    "seeds",
    "errors",
    "hookspecs",
    "plugins",
    "types",
    "text",
    "config",
    "data.presets",
    "humans.store",
    "humans.preferences",
    "humans.ratings",
    "humans.page",
    "humans.console",
    "cli.bench_command",
    "cli.compare_command",
    "cli.rate_command",
    "cli.run_commands",
    "cli.new_command",
    "cli.scaffold",
    "cli.app",
    "scoring.objective",
    "search.optimizer_spec",
    "data.splits",
    "data.readers",
    "runs.model_card",
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


def test_every_module_has_its_layer() -> None:
    assert modules() == set().union(*LAYERS)


@pytest.mark.parametrize("name", sorted(set().union(*LAYERS)))
def test_imports_run_downward_only(name: str) -> None:
    level = next(i for i, layer in enumerate(LAYERS) if name in layer)
    below = set().union(*LAYERS[: level + 1]) - {name}
    assert imports(name)[0] & modules() <= below


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_modules_import_nothing_heavy(name: str) -> None:
    code = f"import sys, zotune.{name}; bad = {HEAVY!r} & set(sys.modules); assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_models_uses_transformers() -> None:
    for name in modules() - {"models.loading"}:
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
        if path.stem not in ("__init__", "parts"):
            assert "Differs from the paper:" in text, path
            assert "Forwards a step" in text, path
            assert "Extra memory" in text, path
