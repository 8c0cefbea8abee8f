"""A journal made on one device gives the same weights on another, and a run on the GPU resumes to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zotune
from benchmarks.gpu_parts import Check, part
from benchmarks.gpu_parts.models import folder, messages, shapes
from zotune.errors import ZotuneError
from zotune.runs.replay import replay

OPTIMIZERS = (
    "mezo",
    "mezo-adam",
    "zo-adamu",
    "sparse-mezo",
    "mezo-svrg",
    "dizo",
    "hizoo",
    "es",
    "fzoo",
    "lozo",
    "auto",
)
"""Optimizers whose steps are the same on every device: all but those that multiply matrices (`each`)."""
STEPS = 8


class Interrupt:
    """Asks a run to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def tune(path: Path, output: Path, optimizer: str, device: str, dtype: str, **more: Any) -> zotune.Result:
    options: dict[str, Any] = {
        "model": str(path / "model"),
        "dataset": str(path / "rows.jsonl"),
        "template": "{text} it was {label}",
        "labels": "bad,good",
        "max_steps": STEPS,
        "batch_size": 8,
        "eval_steps": 4,
        "preflight": False,
        "guard": 0.0,
        "compile": "off",
    }
    options |= {"output_dir": str(output), "device": device, "dtype": dtype}
    return zotune.fit(objective="cross-entropy", optimizer=optimizer, **options, **more)


def _prepare(check: Check) -> Path:
    family, config = shapes(True)["llama"]
    folder(check.folder / "model", family, config, "LlamaForCausalLM")
    messages(check.folder / "rows.jsonl")
    return check.folder


@part("replay", "a CPU's journal replays here to the same bits; a run here resumes to the same bits", seconds=80)
def replays(check: Check) -> None:
    path = _prepare(check)
    names = OPTIMIZERS[:3] if check.tiny else OPTIMIZERS
    wrong: list[str] = []
    for name in names:
        tune(path, path / name, name, "cpu", "float32")
        try:
            found = replay(path / name, path / f"{name}-again", device=check.device)
            wrong += [] if found.confirmed else [f"{name}: the journal holds no weights to compare with"]
        except ZotuneError as error:
            wrong.append(f"{name}: {error}")
    claim = f"journals made on the CPU replay on {check.device}"
    check.exact(claim, len(names) - len(wrong), len(names), "; ".join(wrong))
    for dtype in ("float32", "bfloat16"):
        wrong = []
        some = names[:2] if check.tiny else ("mezo", "mezo-adam", "auto")
        for name in some:
            whole = path / f"{name}-{dtype}-whole"
            tune(path, whole, name, check.device, dtype)
            cut = path / f"{name}-{dtype}-cut"
            tune(path, cut, name, check.device, dtype, stop=Interrupt(3))
            tune(path, cut, name, check.device, dtype, resume="last")
            same = [(p / "model.safetensors").read_bytes() for p in (whole, cut)]
            wrong += [] if same[0] == same[1] else [name]
        claim = f"interrupted runs on {check.device} in {dtype} resume to the same bits"
        check.exact(claim, len(some) - len(wrong), len(some), ", ".join(wrong))
