"""What `zotune new` writes passes its own tests, installs, and is used by name; what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zotune import plugin_options, plugins
from zotune.cli import scaffold
from zotune.errors import OptionError
from zotune.scoring.objective import wrap

FLAGS = {"objective": "-o", "optimizer": "--optimizer"}


def run(*arguments: object, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path or ""), "HF_HUB_OFFLINE": "1", "PIP_NO_INPUT": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=300)


@pytest.mark.parametrize("kind", ["objective", "optimizer"])
def test_a_package_installs_passes_and_is_used_by_name(
    kind: str, tmp_path: Path, tiny_encoder: Path, toy: Path
) -> None:
    made = run("-m", "zotune", "new", kind, "My_own-idea", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    root = tmp_path / "zotune-my-own-idea"
    written = {str(p.relative_to(tmp_path)) for p in root.rglob("*") if p.is_file()}
    assert set(made.stdout.split()) == written
    assert written == {
        *(f"{root.name}/{name}" for name in ("pyproject.toml", "README.md", "tests/test_my_own_idea.py")),
        *(f"{root.name}/zotune_my_own_idea/{name}" for name in ("__init__.py", f"{kind}.py")),
    }
    assert "pytest zotune-my-own-idea" in made.stderr

    tests = run("-m", "pytest", "-p", "no:cacheprovider", root.name, cwd=tmp_path)
    assert tests.returncode == 0, tests.stdout
    assert "failed" not in tests.stdout.splitlines()[-1]

    site = tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    installed = run("-m", "pip", "install", *options, site, root, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    listing = json.loads(run("-m", "zotune", "plugins", "--json", "--check", cwd=tmp_path, path=site).stdout)
    ours = [p for p in listing["plugins"] if p["distribution"] == "zotune-my-own-idea"]
    assert [(p["kind"], p["name"], p["version"]) for p in ours] == [(kind, "my-own-idea", "0.1.0")]
    assert listing["failures"] == []
    done = run(
        *("-m", "zotune", "fit", "-m", tiny_encoder, "-d", toy, "--labels", "awful film,lovely film"),
        *(FLAGS[kind], "my-own-idea", "--max-steps", 2, "--output-dir", "out", "--json"),
        cwd=tmp_path,
        path=site,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2


@pytest.mark.parametrize("kind", ["objective", "optimizer"])
def test_a_single_file_passes_and_is_used_by_its_path(kind: str, tmp_path: Path) -> None:
    made = run("-m", "zotune", "new", kind, "terse", "--single-file", "--output-dir", "mine", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == ["mine/terse.py", "mine/test_terse.py"]
    assert f"zotune fit {FLAGS[kind]} mine/terse.py:Terse" in made.stderr
    some = "options or worked or finite or reference"  # the package's tests are the same, and all are run there
    tests = run("-m", "pytest", "-p", "no:cacheprovider", "-k", some, "mine", cwd=tmp_path)
    assert tests.returncode == 0, tests.stdout
    used = plugins.by_path(f"{tmp_path / 'mine' / 'terse.py'}:Terse", kind)
    if kind == "objective":
        goal = wrap(plugin_options.build(used, {"price": "0.5"}, "terse"), "terse")
        assert goal.score(2, {"completions": ["yes", "no"], "references": ["yes", "yes"]}).samples == (0.5, -0.5)
    else:
        assert plugin_options.build(used, {"lr": "0.25"}, "terse").lr == 0.25


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "failing"),
    [
        ("objective", "float(text in answers)", "-float(text in answers)", {"test_better_predictions", "test_worked"}),
        ("optimizer", "theta - self.lr", "theta + self.lr", {"test_one_step_equals_the_reference"}),
    ],
)
def test_the_tests_tell_a_wrong_sign(kind: str, right: str, wrong: str, failing: set[str], tmp_path: Path) -> None:
    source, tests = scaffold.write(kind, "askew", True, tmp_path)
    assert source.read_text().count(right) == 1
    source.write_text(source.read_text().replace(right, wrong))
    done = run("-m", "pytest", "-p", "no:cacheprovider", "-k", "better or worked or reference", tests, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert all("FAILED test_askew.py::" in done.stdout and name in done.stdout for name in failing)


@pytest.mark.parametrize("single", [False, True])
def test_what_is_written_is_formatted_and_nothing_is_left_to_fill_in(single: bool, tmp_path: Path) -> None:
    for kind in ("objective", "optimizer"):
        for path in scaffold.write(kind, "neat", single, tmp_path / kind):
            text = path.read_text()
            assert "$" not in text
            assert text.endswith("\n")
            assert max(map(len, text.splitlines())) <= 120
            if path.suffix == ".py":
                compile(text, str(path), "exec")


@pytest.mark.parametrize(("single", "file"), [(False, "zotune-mine"), (True, "mine.py"), (True, "test_mine.py")])
def test_nothing_is_overwritten(single: bool, file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("precious")
    with pytest.raises(OptionError, match=rf"{file} exists already; nothing is overwritten"):
        scaffold.write("objective", "mine", single, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == "precious"


@pytest.mark.parametrize(
    ("kind", "name", "single", "said"),
    [
        ("objectve", "mine", False, "not 'objectve' .did you mean 'objective'"),
        ("objective", "3d", False, "'3d' is not a name: use letters, digits"),
        ("objective", "a b", False, "'a b' is not a name"),
        ("objective", "../up", False, "'../up' is not a name"),
        ("objective", "a--b", False, "'a--b' is not a name"),
        ("objective", "", False, "'' is not a name"),
        ("objective", "größe", False, "'größe' is not a name"),
        ("objective", "class", True, "'class' is a keyword of Python .my-class"),
        ("objective", "f1", False, "objective 'f1' exists already, in zotune .my-f1"),
        ("optimizer", "MeZO", False, "optimizer 'mezo' exists already, in zotune"),
        ("objective", "random", True, "there is a module random already"),
        ("objective", "objectives", False, "there is a module zotune_objectives already"),
    ],
)
def test_names_that_are_refused(kind: str, name: str, single: bool, said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        scaffold.write(kind, name, single, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names(tmp_path: Path) -> None:
    files = scaffold.write("objective", "zotune-RougeLike_2", False, tmp_path)
    assert files[0].parent.name == "zotune-rougelike-2"
    assert scaffold.class_of("zotune-RougeLike_2") == "RougeLike2"
    assert "class RougeLike2:" in (files[0].parent / "zotune_rougelike_2" / "objective.py").read_text()


def test_a_refusal_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run("-m", "zotune", "new", "objective", "f1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "zotune: objective 'f1' exists already, in zotune (my-f1)\n"
