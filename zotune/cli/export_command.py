"""`zotune export`: the model of a run in a directory of its own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import run_argument
from zotune.errors import UsageError
from zotune.options import like, option


@dataclass(frozen=True)
class ExportFlags:
    """What `export` takes."""

    run: str = run_argument("Run directory or adapter directory.")
    output_dir: str = option(
        "", "Directory to write, or GGUF file; it must not exist or must be empty.", "--output-dir", "-o"
    )
    step: int | None = option(
        None, "Step whose weights to write, kept or not; the best one as it was scored.", shown="the kept weights"
    )
    merge: bool = option(False, "Merge LoRA into the base model's weights.")
    gguf: str | None = option(
        None, "Write a GGUF file of this type, and compare its logits with the run's.", choices=["f32", "f16", "q8_0"]
    )
    dtype: str = like(config.run_options()["dtype"], group="Options")


def export(flags: ExportFlags) -> None:
    """Copy the model of a run without the run: weights, tokenizer and configuration."""
    from zotune.runs import export as runs

    if not flags.output_dir:
        raise UsageError("zotune export: --output-dir is missing", hint="zotune export RUN -o DIRECTORY")
    if flags.gguf is not None:
        print(_export_gguf(flags))
        return
    if flags.step is not None:
        print(_export_step(flags, flags.step))
        return
    print(runs.export(flags.run, flags.output_dir, merge=flags.merge, dtype=flags.dtype))


def _export_gguf(flags: ExportFlags) -> str:
    from zotune.models.gguf_export import GgufType
    from zotune.options import convert
    from zotune.runs.export_gguf import export_gguf

    if flags.step is not None or flags.dtype != "auto":
        raise UsageError("--gguf writes the kept weights in its own type", hint="leave out --step and --dtype")
    return export_gguf(flags.run, flags.output_dir, convert(flags.gguf, GgufType, "--gguf")).text


def _export_step(flags: ExportFlags, step: int) -> Path:
    from zotune.cli.terminal import Terminal
    from zotune.runs.export_step import export_step
    from zotune.runs.run_directory import check_files
    from zotune.runs.working_directory import working_directory

    if flags.dtype != "auto":
        raise UsageError("--step writes the run's own dtype", hint=f"leave out --dtype {flags.dtype}")
    run, output = Path(flags.run), Path(flags.output_dir)
    check_files(run)
    directory = working_directory(run)
    if directory != Path.cwd():
        run, output = run.resolve(), output.absolute()
    with (
        contextlib.chdir(directory),
        Terminal() as terminal,
    ):  # the base model's relative path leads where it led in the run
        return export_step(run, output, step, merge=flags.merge, emit=terminal)


COMMAND = command("export", export, ExportFlags)

__all__ = ["COMMAND"]
