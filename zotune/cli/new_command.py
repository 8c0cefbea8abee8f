"""`zotune new`: the skeleton of an objective or optimizer. Parses and prints; `scaffold` writes."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from zotune.cli import scaffold
from zotune.cli.command import command
from zotune.options import argument, option


@dataclass(frozen=True)
class NewFlags:
    """What `new` takes."""

    kind: str = argument("objective or optimizer.", "KIND")
    name: str = argument("The name that users type: letters, digits, - and _.", "NAME")
    single_file: bool = option(False, "Write one file and its test instead of a package.")
    output_dir: str = option(".", "Directory to write into.", shown="the current one")


def new(flags: NewFlags) -> None:
    """Write the skeleton of an objective or optimizer, with tests."""
    files = scaffold.write(flags.kind, flags.name, flags.single_file, flags.output_dir)
    for path in files:
        print(path)
    if flags.single_file:
        flag = "-o" if flags.kind == "objective" else "--optimizer"
        steps = [f"pytest {files[1]}", f"zotune fit {flag} {files[0]}:{scaffold.class_of(flags.name)}"]
    else:
        steps = [f"pytest {files[0].parent}", f"pip install -e {files[0].parent}", "zotune plugins"]
    for step in steps:
        print(f"zotune: next: {step}", file=sys.stderr)


COMMAND = command("new", new, NewFlags)

__all__ = ["COMMAND"]
