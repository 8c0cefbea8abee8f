"""`zotune replay`: weights from a base model and a journal."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag, run_argument
from zotune.options import like, option

if TYPE_CHECKING:
    from zotune.runs.replay import Replayed

OPTIONS = config.run_options()


@dataclass(frozen=True)
class ReplayFlags:
    """What `replay` takes."""

    run: str = run_argument()
    output_dir: str = option(
        "", "Directory to write; it must not exist or must be empty.", "--output-dir", "-o", first=1
    )
    base: str | None = option(None, "Base model of the run.", first=2, shown="where it was then")
    step: int | None = option(None, "Step whose weights to rebuild.", first=3, shown="the kept weights, or the last")
    optimizer: str | None = option(None, "file.py:Class, where the run's optimizer came from a file.")
    device: str = like(OPTIONS["device"])
    threads: int | None = like(OPTIONS["threads"])
    compile: str = like(OPTIONS["compile"], help="Compile updates: auto (where there are many steps), on or off.")
    trust_remote_code: bool = like(OPTIONS["trust_remote_code"])
    allow_pickle: bool = like(OPTIONS["allow_pickle"])
    as_json: bool = json_flag()


def replay(flags: ReplayFlags) -> None:
    """Rebuild a run's weights from its base model and its journal, without calling the objective."""
    from zotune.cli.terminal import Terminal
    from zotune.errors import UsageError
    from zotune.runs import replay as runs
    from zotune.runs.run_directory import check_files
    from zotune.runs.working_directory import working_directory

    if not flags.output_dir:
        raise UsageError("zotune replay: --output-dir is missing", hint="zotune replay RUN -o DIRECTORY")
    check_files(Path(flags.run))
    run, output, base, optimizer = flags.run, flags.output_dir, flags.base, flags.optimizer
    directory = working_directory(Path(run))
    if directory != Path.cwd():
        run, output = str(Path(run).resolve()), str(Path(output).absolute())
        base = base and _absolute(base)
        optimizer = optimizer and _absolute(optimizer)
    with contextlib.chdir(directory), Terminal() as terminal:  # relative paths of the run lead where they led then
        rebuilt = runs.replay(
            run,
            output,
            base=base,
            step=flags.step,
            optimizer=optimizer,
            device=flags.device,
            threads=flags.threads,
            compile=flags.compile,
            trust_remote_code=flags.trust_remote_code,
            allow_pickle=flags.allow_pickle,
            emit=terminal,
        )
    if flags.as_json:
        print(json.dumps({**asdict(rebuilt), "folder": str(rebuilt.folder)}, indent=1))
        return
    for line in lines(rebuilt):
        print(line)


def _absolute(name: str) -> str:
    """A path, or `file.py:Class`, with an absolute path; other names as they are."""
    path, colon, attribute = name.rpartition(":") if ":" in name else (name, "", "")
    return f"{Path(path).absolute()}{colon}{attribute}" if Path(path).exists() else name


def lines(rebuilt: Replayed) -> list[str]:
    """The result as text."""
    checked = "equal to the journal's checksum" if rebuilt.confirmed else "the journal has no checksum of this step"
    portable = (
        "yes, any machine computes the same bits"
        if rebuilt.portable
        else "no, the optimizer multiplies matrices, which other machines may round differently"
    )
    return [
        f"step        {rebuilt.step}",
        f"weights     {rebuilt.weights}: {checked}",
        f"portable    {portable}",
        f"written to  {rebuilt.folder}",
    ]


COMMAND = command("replay", replay, ReplayFlags)

__all__ = ["COMMAND", "lines"]
