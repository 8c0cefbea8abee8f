"""Several processes that share the passes of a population, each with the GPU of its local rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import zotune
from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.models import folder, prompts, shapes

STEPS = 2
FILES = ("journal.jsonl", "model.safetensors")
MOST = 8
"""Processes at most."""


def options(path: Path, device: str) -> dict[str, Any]:
    """A run of few steps, each of four passes of four rows."""
    return {
        "model": str(path / "model"),
        "dataset": str(path / "prompts.jsonl"),
        "objective": f"{path / 'letters.py'}:letters",
        "optimizer": "eggroll",
        "optimizer_args": {"rows": 16},
        "eps": 1.0,
        "pass_rows": 4,
        "max_steps": STEPS,
        "eval_steps": STEPS,
        "max_new_tokens": 6,
        "device": device,
        "process_timeout": 60.0,
    }


def run(path: Path, output: str, device: str) -> None:
    """What each process runs. Where there are GPUs, a group of NCCL is open before zotune opens its own."""
    local, cuda = int(os.environ["LOCAL_RANK"]), device == "cuda"
    if cuda:
        torch.cuda.set_device(local % torch.cuda.device_count())
        torch.distributed.init_process_group("nccl")
        if torch.cuda.device_count() >= torch.distributed.get_world_size():  # NCCL wants a GPU for each rank
            total = torch.ones(1, device="cuda")
            torch.distributed.all_reduce(total)
            assert int(total) == torch.distributed.get_world_size()
    tuned = zotune.fit(output_dir=str(path / output), **options(path, device))
    used = str(torch.cuda.current_device()) if cuda else "cpu"
    (path / f"{output}-{os.environ['RANK']}.json").write_text(json.dumps([used, tuned.reason]))


@part("processes", "populations of several processes have the bits of one; a GPU for each local rank", seconds=90)
def processes(check: Check) -> None:
    path = check.folder
    family, config = shapes(True)["llama"]
    folder(path / "model", family, config, "LlamaForCausalLM")
    prompts(path / "prompts.jsonl", 24, 4)
    (path / "letters.py").write_text(
        "def letters(completions, **_):\n    return [float(len(set(c))) for c in completions]\n"
    )
    gpus = torch.cuda.device_count() if check.device == "cuda" else 0
    count = min(max(gpus, 2), MOST)
    zotune.fit(output_dir=str(path / "one"), **options(path, check.device))
    code = "import sys; from pathlib import Path; from benchmarks.gpu_parts.processes import run; "
    code += "run(Path(sys.argv[1]), sys.argv[2], sys.argv[3])"
    (path / "process.py").write_text(code + "\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run([*command, str(path / "process.py"), str(path), "many", check.device], capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        error = next((line for line in lines if line.startswith(("zotune", "[rank")) and "Error" in line), lines[-1])
        check.row(f"{count} processes run to their end", error[:200], holds=False)
        return
    same = [(path / "one" / n).read_bytes() == (path / "many" / n).read_bytes() for n in FILES]
    claim = f"journal and weights of {count} processes on {gpus or 'no'} GPUs: as of one process"
    check.exact(claim, sum(same), len(same), ", ".join(n for n, equal in zip(FILES, same, strict=True) if not equal))
    ends = [json.loads((path / f"many-{rank}.json").read_text()) for rank in range(count)]
    wanted = [str(rank % gpus) if gpus else "cpu" for rank in range(count)]
    check.exact(
        "processes that use the device of their local rank",
        sum(a[0] == w for a, w in zip(ends, wanted, strict=True)),
        count,
    )
