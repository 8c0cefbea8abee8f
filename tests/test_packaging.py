"""What the repository says about itself: extras, versions, workflows, templates and the site."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import zotune

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="the repository is not beside the tests")


def project() -> dict[str, Any]:
    values: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return values


def workflow(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())
    return values


def test_the_extra_all_holds_what_users_may_need() -> None:
    extras = project()["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.fullmatch(r"zotune\[(.*)\]", everything)[1].split(","))  # type: ignore[index]
    assert named <= extras.keys()
    # Not of users, bound to a version of torch, or of machines and accounts that few have.
    own = {"all", "dev", "docs", "examples", "gpu", "torchao", "vllm", "wandb"}
    assert extras.keys() - named == own, "name a new extra in `all`, or here"


def test_every_extra_that_a_text_names_exists() -> None:
    extras = project()["optional-dependencies"].keys()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("zotune/**/*.py"), *ROOT.glob("*/*/*.py")]:
        for group in re.findall(r"zotune\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            assert set(group.split(",")) <= extras, (path, group)


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == zotune.__version__
    assert citation["license"] == project()["license"]
    matrix = workflow("test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    declared = [c.rpartition(" ")[2] for c in project()["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert declared == matrix
    assert project()["requires-python"] == f">={matrix[0]}"


def test_workflows_run_commands_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in ("test.yml", "release.yml"):
        runs = [s["run"] for job in workflow(name)["jobs"].values() for s in job["steps"] if "run" in s]
        made = [run.split()[1] for run in runs if run.startswith("make ")]
        assert made
        assert set(made) <= targets
    release = workflow("release.yml")["jobs"]
    assert release["publish"]["permissions"] == {"id-token": "write"}  # no token is stored
    assert release["publish"]["needs"] == "build"
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_templates_and_hooks_are_yaml() -> None:
    for path in [*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(path.read_text()), path


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {p.name for p in (tmp_path / "site").glob("*.html")}
    assert {f"{p.stem}.html" for p in (ROOT / "docs").glob("*.md")} - {"README.html"} <= pages
    assert {"index.html", "plugin-list.html"} <= pages
    assert "--report-to" in (tmp_path / "site" / "command-line.html").read_text()
    assert "decoupled weight decay" in (tmp_path / "site" / "plugin-list.html").read_text()
