"""Processes of the comparisons, and their results as JSON lines that a later call reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_process(arguments: Sequence[str], python: str = sys.executable, threads: int = 1) -> None:
    """Run a script of this folder with so many threads. Raises RuntimeError with the end of its output if it fails."""
    paths = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "objectives"), str(ROOT / "benchmarks")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(
        [python, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])}: exit code {done.returncode}\n{done.stdout[-3000:]}")


def fit(flags: Sequence[str], folder: Path, threads: int = 1) -> dict[str, Any]:
    """`zotune fit` with these flags into folder/run. Returns its cost and its result.json."""
    cost = folder / "cost.json"
    script = str(Path(__file__).with_name("fit_process.py"))
    run_process([script, str(cost), *flags, "--output-dir", str(folder / "run"), "--quiet"], threads=threads)
    result = json.loads((folder / "run" / "result.json").read_text())
    return {**json.loads(cost.read_text()), "result": result}


class Lines:
    """A file of results, one JSON line a run, found by their keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines() if line]

    def find(self, key: Sequence[Any]) -> dict[str, Any] | None:
        return next((line for line in self.all() if line["key"] == list(key)), None)

    def add(self, key: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        line = {"key": list(key), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line


__all__ = ["ROOT", "Lines", "fit", "run_process"]
