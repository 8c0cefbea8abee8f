"""Processes of the comparisons, what they cost, and their results as JSON lines that a later call reads.

A worker script imports what it needs once and forks a process for each job, so that the CPU seconds of a job are those
of its own work. A job's folder has cost.json when the job is finished, and is not run again.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = Path(__file__).resolve().parent


def cpu_seconds() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_mib() -> float:
    """The resident memory of this process at present, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run_jobs(path: str, job: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Run the jobs of a JSON file one after the other, each in a forked process.

    job: does the work of one job's settings and returns what it counted. FOLDER/cost.json gets that and the CPU seconds
    of the imports (start_seconds) and of the job (cpu_seconds), its peak memory, and the memory that it began with,
    after the imports, in MiB.
    """
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    start, imported = cpu_seconds(), memory_mib()
    for settings in json.loads(Path(path).read_text()):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                sys.exit(1)
            continue
        try:
            began = cpu_seconds()
            counts = job(settings)
            cost = {"start_seconds": start, "cpu_seconds": cpu_seconds() - began}
            cost |= {"peak_mib": peak_mib(), "import_mib": imported}
            Path(settings["folder"], "cost.json").write_text(json.dumps({**cost, **counts}))
        except BaseException:  # a forked process must not return into its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


def run_worker(script: str, jobs: Sequence[Mapping[str, Any]], python: str = sys.executable, threads: int = 1) -> None:
    """Run the jobs that are not finished by a script of this folder. Raises RuntimeError with the end of its output."""
    left = [job for job in jobs if not Path(job["folder"], "cost.json").exists()]
    if not left:
        return
    for job in left:
        Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    path = Path(left[0]["folder"], "jobs.json")
    path.write_text(json.dumps(left))
    paths = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "objectives"), str(ROOT / "benchmarks")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [python, str(PARTS / script), str(path)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{script}: exit code {done.returncode}\n{done.stdout[-3000:]}")


def cost_of(folder: Path) -> dict[str, Any]:
    """What a finished job cost."""
    return dict(json.loads((folder / "cost.json").read_text()))


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

    def drop(self, which: Callable[[list[Any]], bool]) -> None:
        """Remove the lines whose keys are meant."""
        kept = [line for line in self.all() if not which(line["key"])]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, key: Sequence[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        line = {"key": list(key), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line


__all__ = ["ROOT", "Lines", "cost_of", "cpu_seconds", "peak_mib", "run_jobs", "run_worker"]
