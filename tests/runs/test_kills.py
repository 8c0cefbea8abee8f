"""The embedded encoder, tuned by the command line and killed at seeded random moments: the short form of
`benchmarks/kills.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"

pytestmark = pytest.mark.skipif(not KILLS.exists(), reason="the examples are not beside the tests")


@pytest.mark.parametrize("optimizer", ["auto", "zo-adamu"])
def test_killed_runs_have_the_bits_of_uninterrupted_ones(optimizer: str, minilm: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(KILLS), "--kills", "2", "--optimizers", optimizer, "--dtypes", "float32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert sum(len(x["kills"]) for x in runs) >= 2
    assert all(x["left"] == 0 and x["differs"] == [] for x in runs)
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, "it does not go on from what is known"
    assert len((tmp_path / "kills.jsonl").read_text().splitlines()) == len(runs)
