"""`zotune new`: the skeleton of an objective or optimizer of one's own. Parses and prints; `scaffold` writes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from zotune.cli import scaffold


def new(
    kind: Annotated[str, typer.Argument(help="objective or optimizer.")],
    name: Annotated[str, typer.Argument(help="What users will type: letters, digits, - and _.")],
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One file and its test instead of a package.")
    ] = False,
    output_dir: Annotated[str, typer.Option("--output-dir", help="The folder to write into. [this one]")] = ".",
) -> None:
    """Write the skeleton of an objective or optimizer, with tests."""
    files = scaffold.write(kind, name, single_file, output_dir)
    for path in files:
        print(path)
    if single_file:
        flag = "-o" if kind == "objective" else "--optimizer"
        steps = [f"pytest {files[1]}", f"zotune fit {flag} {files[0]}:{scaffold.class_of(name)}"]
    else:
        steps = [f"pytest {files[0].parent}", f"pip install -e {files[0].parent}", "zotune plugins"]
    for step in steps:
        print(f"zotune: next: {step}", file=sys.stderr)


__all__ = ["new"]
