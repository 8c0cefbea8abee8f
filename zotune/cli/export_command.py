"""`zotune export`: the model of a run in a directory of its own."""

from __future__ import annotations

from dataclasses import dataclass

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import run_argument
from zotune.errors import UsageError
from zotune.options import like, option


@dataclass(frozen=True)
class ExportFlags:
    """What `export` takes."""

    run: str = run_argument("Run directory or adapter directory.")
    output_dir: str = option("", "Directory to write; it must not exist or must be empty.", "--output-dir", "-o")
    merge: bool = option(False, "Merge LoRA into the base model's weights.")
    dtype: str = like(config.run_options()["dtype"], group="Options")


def export(flags: ExportFlags) -> None:
    """Copy the model of a run without the run: weights, tokenizer and configuration."""
    from zotune.runs import export as runs

    if not flags.output_dir:
        raise UsageError("zotune export: --output-dir is missing", hint="zotune export RUN -o DIRECTORY")
    print(runs.export(flags.run, flags.output_dir, merge=flags.merge, dtype=flags.dtype))


COMMAND = command("export", export, ExportFlags)

__all__ = ["COMMAND"]
