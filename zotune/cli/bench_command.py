"""`zotune bench`: the cost of a tuning step on this machine, beside the forward passes in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag
from zotune.options import like, option

OPTIONS = config.run_options()


@dataclass(frozen=True)
class BenchFlags:
    """What `bench` takes."""

    model: str | None = like(OPTIONS["model"], first=0, group="Model", help="Directory, adapter or hub id.")
    shape: str | None = option(
        None,
        "Random weights of a known shape instead: opt-1.3b, opt-6.7b or llama-8b.",
        "--config",
        group="Model",
        metavar="SHAPE",
    )
    head: str = like(OPTIONS["head"])
    peft: str = like(OPTIONS["peft"], first=0)
    tune: str = like(OPTIONS["tune"], default="all")
    optimizer: tuple[str, ...] = like(
        OPTIONS["optimizer"],
        first=0,
        default=(),
        help="Name, file.py:Class, or all for every installed optimizer. Repeatable.",
        shown="mezo",
    )
    optimizer_args: dict[str, Any] = like(OPTIONS["optimizer_args"], help="Option of a single optimizer. Repeatable.")
    perturb: str = like(
        OPTIONS["perturb"],
        choices=("auto", "forward", "copy"),
        help="How weights are perturbed: forward (without a copy of them), copy or auto.",
    )
    rows: int = option(16, "Rows per batch.", least=1, group="Measurement")
    tokens: int = option(64, "Tokens per row.", least=2, group="Measurement")
    rounds: int = option(9, "Rounds; medians over them are shown. At least 5.", least=5, group="Measurement")
    warmup: int = option(
        1,
        "Rounds before the measured ones; with an optimizer that recomputes moments, the length of its window.",
        least=0,
        group="Measurement",
    )
    seed: int = like(OPTIONS["seed"], first=0, help="Random seed of tokens, noise and random weights.")
    compile: bool = option(True, "Compile perturbations and updates.", group="Runtime")
    device: str = like(OPTIONS["device"])
    dtype: str = like(OPTIONS["dtype"])
    threads: int | None = like(OPTIONS["threads"], above=None, least=1)
    trust_remote_code: bool = like(OPTIONS["trust_remote_code"])
    as_json: bool = json_flag()


def bench(flags: BenchFlags) -> None:
    """Measure a tuning step beside its forward passes, a textbook MeZO loop and a copy of the weights."""
    from zotune.cli.terminal import Terminal

    with Terminal() as terminal:
        report = measured(flags, terminal)
    if flags.as_json:
        print(json.dumps(report, indent=1))
        return
    from rich.console import Console

    from zotune.cli.bench_tables import WIDTH, show

    console = Console(highlight=False)
    show(report, console if console.is_terminal else Console(highlight=False, width=WIDTH))


def measured(flags: BenchFlags, emit: Any) -> dict[str, Any]:
    """The measurement as JSON. Options and names are checked before a model is loaded."""
    import torch

    from zotune.bench import bench as benches
    from zotune.events import Phase
    from zotune.runs.plan import EMBEDDED

    options = benches.Options(
        rows=flags.rows,
        tokens=flags.tokens,
        rounds=flags.rounds,
        warmup=flags.warmup,
        tune=flags.tune,
        perturb=flags.perturb,
        compile=flags.compile,
        seed=flags.seed,
    )
    names = flags.optimizer or ("mezo",)
    optimizers, failed = benches.resolve(names, flags.optimizer_args)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    emit(Phase(f"loading {flags.model or flags.shape or EMBEDDED}"))
    loaded = benches.load(
        flags.model,
        flags.shape,
        device=flags.device,
        dtype=flags.dtype,
        peft=flags.peft,
        head=flags.head,
        seed=flags.seed,
        trust_remote_code=flags.trust_remote_code,
    )
    return benches.measure(loaded, optimizers, options, strict=benches.ALL not in names, failed=failed, emit=emit)


COMMAND = command("bench", bench, BenchFlags)

__all__ = ["COMMAND"]
