"""Write zotune/fit_options.py, the types of the options of a run, from the records of zotune/config.py:
python scripts/fit_options.py [--print]."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

from zotune import config

FILE = Path(__file__).resolve().parents[1] / "zotune" / "fit_options.py"
PARAMETERS = ("model", "dataset", "objective", "optimizer", "stop")
"""Options that are parameters of `zotune.fit` of their own; `stop` is a function there."""
BEGINNING = '''"""The options of a run with their types, for editors and type checkers.

Generated from zotune/config.py by `python scripts/fit_options.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

Number = float | Literal["auto"] | None


'''
PATHS = {"output_dir": "str | Path | None"}
RESUMED = ("max_evals", "max_steps", "max_time", "max_score_calls", "device", "threads")


def page() -> str:
    """The whole file."""
    types = annotations()
    run = {name: types[name] for name in config.run_options() if name not in PARAMETERS}
    return (
        BEGINNING
        + _class("FitOptions", "Options of `zotune.fit`: the flags of `zotune fit` with _ for -.", run)
        + "\n\n"
        + _class("ResumeOptions", "Options of `zotune.resume`.", {name: types[name] for name in RESUMED})
        + '\n\n__all__ = ["FitOptions", "ResumeOptions"]\n'
    )


def annotations() -> dict[str, str]:
    """The annotation of each option, widened to what is converted to it."""
    out = {}
    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    text = ast.unparse(field.annotation)
                    text = re.sub(r"tuple\[(\w+), \.\.\.\]", r"Sequence[\1]", text).replace("dict[", "Mapping[")
                    out[field.target.id] = PATHS.get(field.target.id, text)
    return out


def _class(name: str, about: str, types: dict[str, str]) -> str:
    fields = "".join(f"    {option}: {annotation}\n" for option, annotation in types.items())
    return f'class {name}(TypedDict, total=False):\n    """{about}"""\n\n{fields}'


if __name__ == "__main__":
    if "--print" in sys.argv[1:]:
        print(page(), end="")
    else:
        FILE.write_text(page(), encoding="utf-8")
