"""The external plugin in examples/third_party, installed as a package, works by name and passes its own contract."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PLUGIN = EXAMPLES / "third_party"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip would leave it: the package and its metadata with the entry point."""
    folder = tmp_path / "site"
    wheel = tmp_path / "zotune_brisk-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in (PLUGIN / "zotune_brisk").glob("*.py"):
            archive.write(path, f"zotune_brisk/{path.name}")
        info = "zotune_brisk-0.3.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: zotune-brisk\nVersion: 0.3.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", "[zotune]\nbrisk = zotune_brisk\n")
        archive.writestr(f"{info}/RECORD", "")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([*command, str(folder), str(wheel)], check=True, env={**os.environ, "PIP_NO_INPUT": "1"})
    return folder


def run(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=site.parent, timeout=300)


def test_it_is_found_and_used_by_name(site: Path, tiny_encoder: Path, toy: Path) -> None:
    listing = json.loads(run(site, "-m", "zotune", "plugins", "--json", "--check").stdout)
    assert {(p["kind"], p["name"]) for p in listing["plugins"] if p["distribution"] == "zotune-brisk"} == {
        ("optimizer", "brisk"),
        ("objective", "recall"),
    }
    assert listing["failures"] == []
    done = run(
        *(site, "-m", "zotune", "fit", "-m", tiny_encoder, "-d", toy, "--labels", "awful film,lovely film"),
        *("-o", "recall", "--optimizer", "brisk", "--max-steps", 3, "--output-dir", "out", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["forwards"] == 6
    shown = run(site, "-m", "zotune", "plugins", "show", "zotune-brisk/brisk").stdout
    assert re.search("lr = 0.003 +η: learning rate of the first step", shown)


def test_it_passes_the_contract_that_it_subclasses(site: Path) -> None:
    done = run(site, "-m", "pytest", "-p", "no:cacheprovider", PLUGIN / "test_brisk.py")
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout.splitlines()[-1]


def test_single_files_need_no_package(site: Path, tiny_encoder: Path, toy: Path) -> None:
    done = run(
        *(site, "-m", "zotune", "fit", "-m", tiny_encoder, "-d", toy, "--labels", "awful film,lovely film"),
        *("-o", f"{EXAMPLES / 'brevity.py'}:brevity", "--optimizer", f"{EXAMPLES / 'sign_sgd.py'}:SignSGD"),
        *("--lr", "1e-3", "--max-steps", 3, "--output-dir", "single"),
    )
    assert done.returncode == 0, done.stderr


def test_disabled_by_name(site: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(site), "ZOTUNE_DISABLE_PLUGINS": "zotune-brisk"}
    done = subprocess.run([sys.executable, "-m", "zotune", "plugins"], capture_output=True, text=True, env=env)
    assert "brisk" not in done.stdout
    assert "mezo" in done.stdout
