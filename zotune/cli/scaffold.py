"""Skeletons of plugins: a package, or one file, with tests that pass as they are. Works offline.

Knows names, files and the installed plugins; runs nothing.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from zotune import plugins
from zotune.errors import OptionError, nearest

_OBJECTIVE = '''"""$name: exact answers, short ones first.

The score of a row is 1 if the completion equals a reference, else 0, minus `price` for each word of the completion.
Higher is better. A row without a reference has no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zotune
from zotune.text import texts


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class $cls:
    price: float = 0.01  # subtracted for each word of a completion

    def __post_init__(self) -> None:
        if not self.price >= 0:
            raise ValueError(f"price must be 0 or more, got {self.price}")

    def __call__(self, completions: Sequence[Any], references: Sequence[Any]) -> list[float | None]:
        # The parameters declare the inputs: predictions and labels, completions and references, completion_ids,
        # prompts, logits, losses, model, batch, or any column of the data. Nothing else is computed. Return one float
        # for all rows, or a list with a float or None (not applicable) for each row.
        return [self.score(text, answer) for text, answer in zip(texts(completions), references, strict=True)]

    def score(self, text: str, answer: str | Sequence[str] | None) -> float | None:
        answers = [answer] if isinstance(answer, str) else list(answer or [])
        if not answers:
            return None
        return float(text in answers) - self.price * len(text.split())
'''

_OPTIMIZER = '''"""$name: descent along random directions (cite the paper here, with its arXiv id).

    z ~ N(0, I);  g = (L(θ + εz) − L(θ − εz)) / 2ε;  θ ← θ − η g z

Evaluations a step: 2. Extra memory: none. Differs from the paper: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from zotune.types import At, Oracle, Recipe, Theta


@dataclass(frozen=True)
class $cls:
    lr: float = 1e-2  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale

    forwards = 2  # evaluations of one batch at one point that a step costs
    fields = 0  # stored tensors, in multiples of the tuned weights

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps}")

    def init(self, theta: Theta) -> None:
        return None  # the first state: plain data; a recipe in it becomes a stored field

    def step(self, theta: Theta, oracle: Oracle, state: None, at: At) -> tuple[Recipe, None]:
        z = at.normal()  # ~ N(0, I): a recipe, drawn when the core writes θ
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        g = (up - down) / (2 * self.eps)
        return theta - self.lr * g * z, state
'''

_OBJECTIVE_TEST = '''"""$name keeps the contract of objectives and gives the scores that were computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
from zotune.testing import ObjectiveContract

from $source import $cls


class Test$cls(ObjectiveContract):
    def objective(self) -> $cls:
        return $cls()


def test_worked_examples() -> None:
    completions: list[Any] = ["yes", "yes it is", "no", "", [{"role": "assistant", "content": "yes"}]]
    references = ["yes", ["yes", "yes it is"], "yes", None, "yes"]
    scores = $cls(price=0.1)(completions=completions, references=references)
    assert scores == [pytest.approx(0.9), pytest.approx(0.7), pytest.approx(-0.1), None, pytest.approx(0.9)]


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="price must be 0 or more, got -1"):
        $cls(price=-1)
'''

_OPTIMIZER_TEST = '''"""$name keeps the contract of optimizers, and its first step is the paper's, in float64."""

from __future__ import annotations

from typing import Any

import pytest
from zotune.testing import OptimizerContract

from $source import $cls


class Test$cls(OptimizerContract):
    def optimizer(self) -> $cls:
        return $cls()

    def reference(self, given: Any) -> dict[str, Any]:
        """The weights after the first step, written again from the paper, in numpy."""
        lr, eps, z = 1e-2, 1e-3, given.noise()
        up = given.loss({n: w + eps * z[n] for n, w in given.weights.items()})
        down = given.loss({n: w - eps * z[n] for n, w in given.weights.items()})
        return {n: w - lr * (up - down) / (2 * eps) * z[n] for n, w in given.weights.items()}


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        $cls(eps=0)
'''

_REGISTRATION_TEST = """

def test_the_package_registers_it() -> None:
    import importlib

    import $package

    targets: dict[str, str] = {}
    $package.register_${kind}s(lambda name, target, **details: targets.update({name: target}))
    module, _, cls = targets["$name"].partition(":")
    assert getattr(importlib.import_module(module), cls) is $cls
"""

_HOOKS = '''"""The hook by which zotune finds the $kind. Every command loads this module: import nothing heavy here."""

from __future__ import annotations

from typing import Any

from zotune import hookimpl


@hookimpl
def register_${kind}s(register: Any) -> None:
    register(
        "$name",
        "$package.$kind:$cls",
        summary="$summary",
    )
'''

_PROJECT = """[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "$cls: an $kind for zotune"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["zotune"]

[project.optional-dependencies]
dev = ["pytest>=8.3"]

[project.entry-points.zotune]
$name = "$package"

[tool.hatch.build.targets.wheel]
packages = ["$package"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
"""

_README = """# $distribution

An $kind for zotune.

```sh
pip install -e '.[dev]'      # zotune finds it by its entry point
pytest                       # the contract of ${kind}s and the tests of this one
zotune plugins show $name
zotune fit $flag $name
```

`$package/$kind.py` is the $kind, `$package/__init__.py` registers it, `tests/` tests both.
"""

_PARTS: Mapping[str, tuple[str, str, str, str]] = {
    "objective": (_OBJECTIVE, _OBJECTIVE_TEST, "-o", "exact answers, short ones first; higher is better"),
    "optimizer": (_OPTIMIZER, _OPTIMIZER_TEST, "--optimizer", "descent along random directions"),
}
_PREFIX = re.compile("^zotune[-_]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")


def write(kind: str, name: str, single_file: bool, folder: str | Path) -> list[Path]:
    """Write the skeleton of an objective or optimizer into `folder`: the package `zotune-<name>`, or one file and its
    test. Returns the paths of the files. Overwrites nothing. Raises OptionError for a name that cannot be used."""
    if kind not in _PARTS:
        raise OptionError(f"zotune new writes an objective or an optimizer, not {kind!r}", hint=nearest(kind, _PARTS))
    words = _words(kind, name)
    files = _single(kind, words) if single_file else _package(kind, words)
    paths = {Path(folder) / path: text for path, text in files.items()}
    root = Path(folder) / (next(iter(files)).parts[0])
    if existing := [p for p in ([*paths] if single_file else [root]) if p.exists()]:
        raise OptionError(f"{existing[0]} exists already; nothing is overwritten", hint="another name or --output-dir")
    module = words["module" if single_file else "package"]
    if importlib.util.find_spec(module) is not None:
        raise OptionError(f"there is a module {module} already, which the new one would hide", hint="another name")
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(paths)


def class_of(name: str) -> str:
    """The class that `write` writes for a name: my-metric gives MyMetric."""
    plain = _PREFIX.sub("", name.strip())
    return "".join(part[0].upper() + part[1:] for part in re.split("[-_]", plain))


def _words(kind: str, name: str) -> dict[str, str]:
    """The names that fill the templates. Raises OptionError for a name that cannot be used."""
    plain = _PREFIX.sub("", name.strip())
    if not _NAME.fullmatch(plain):
        raise OptionError(f"{name!r} is not a name: use letters, digits, - and _, a letter first", hint="my-metric")
    short = plain.lower().replace("_", "-")
    module = short.replace("-", "_")
    if keyword.iskeyword(module):
        raise OptionError(f"{name!r} is a keyword of Python", hint=f"my-{short}")
    if plugins.default().has(kind, short):
        owner = plugins.default().find(kind, short).distribution
        raise OptionError(f"{kind} {short!r} exists already, in {owner}", hint=f"my-{short}")
    _, _, flag, summary = _PARTS[kind]
    names = {"kind": kind, "name": short, "module": module, "package": f"zotune_{module}", "cls": class_of(plain)}
    return {**names, "distribution": f"zotune-{short}", "flag": flag, "summary": summary}


def _single(kind: str, words: Mapping[str, str]) -> dict[Path, str]:
    source, test, _, _ = _PARTS[kind]
    module = words["module"]
    return {
        Path(f"{module}.py"): _filled(source, words),
        Path(f"test_{module}.py"): _filled(test, {**words, "source": module}),
    }


def _package(kind: str, words: Mapping[str, str]) -> dict[Path, str]:
    source, test, _, _ = _PARTS[kind]
    root, package = Path(words["distribution"]), words["package"]
    return {
        root / "pyproject.toml": _filled(_PROJECT, words),
        root / "README.md": _filled(_README, words),
        root / package / "__init__.py": _filled(_HOOKS, words),
        root / package / f"{kind}.py": _filled(source, words),
        root / "tests" / f"test_{words['module']}.py": _filled(
            test + _REGISTRATION_TEST, {**words, "source": f"{package}.{kind}"}
        ),
    }


def _filled(text: str, words: Mapping[str, str]) -> str:
    return Template(text).substitute(words)


__all__ = ["class_of", "write"]
