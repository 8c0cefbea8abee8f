"""Skeletons of plugins: a package, or one file, with tests that pass as they stand. Works offline.

Knows names, files and what is installed; knows no model and no number.
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

_OBJECTIVE = '''"""$name: right completions, short ones first.

    1 where the completion is a right text, else 0;  less price · its words

Higher is better, one score a row. An empty completion has no words. A row without a right text has no score.
"""

from dataclasses import dataclass

import zotune
from zotune.text import texts


@zotune.objective(direction="maximize", level="sample")
@dataclass(frozen=True)
class $cls:
    price: float = 0.01  # what each word of a completion costs

    def __post_init__(self):
        if not self.price >= 0:
            raise ValueError(f"price must be 0 or more, got {self.price}")

    def __call__(self, completions, references):
        # Called by name with what it declares: predictions and labels, completions and references, completion_ids,
        # prompts, logits, losses, model, batch, any column of the data. Only that is computed. A float for all rows,
        # or a list with a float or None for each.
        return [self.one(said, right) for said, right in zip(texts(completions), references, strict=True)]

    def one(self, said, right):
        known = [right] if isinstance(right, str) else list(right or [])
        if not known:
            return None
        return float(said in known) - self.price * len(said.split())
'''

_OPTIMIZER = '''"""$name: steps along random directions, as far as two probes say (the paper, arXiv id).

    z ~ N(0, I);  g = (L(θ + εz) − L(θ − εz)) / 2ε;  θ ← θ − η g z

Forwards a step: 2. Extra memory: none. Differs from the paper: nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class $cls:
    lr: float = 1e-2  # η: step size
    eps: float = 1e-3  # ε: perturbation scale

    forwards = 2  # evaluations of a batch that a step costs
    fields = 0  # stored tensors, in multiples of the tuned weights

    def __post_init__(self):
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps}")

    def init(self, theta):
        return None  # what a step hands to the next: plain data; a recipe in it becomes a stored field

    def step(self, theta, oracle, state, at):
        z = at.normal()  # a recipe: nothing is drawn before the core writes θ
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        g = (up - down) / (2 * self.eps)
        return theta - self.lr * g * z, state
'''

_OBJECTIVE_TEST = '''"""$name keeps the contract of objectives, and gives the numbers worked out by hand."""

import pytest
from zotune.testing import ObjectiveContract

from $source import $cls


class Test$cls(ObjectiveContract):
    def objective(self):
        return $cls()


def test_worked_examples():
    said = ["yes", "yes it is", "no", "", [{"role": "assistant", "content": "yes"}]]
    right = ["yes", ["yes", "yes it is"], "yes", None, "yes"]
    scores = $cls(price=0.1)(completions=said, references=right)
    assert scores == [pytest.approx(0.9), pytest.approx(0.7), pytest.approx(-0.1), None, pytest.approx(0.9)]


def test_options_are_checked():
    with pytest.raises(ValueError, match="price must be 0 or more, got -1"):
        $cls(price=-1)
'''

_OPTIMIZER_TEST = '''"""$name keeps the contract of optimizers, and its first step is the paper's, in float64."""

import pytest
from zotune.testing import OptimizerContract

from $source import $cls


class Test$cls(OptimizerContract):
    def optimizer(self):
        return $cls()

    def reference(self, given):
        """The weights after one step, written again from the paper, in numpy."""
        lr, eps, z = 1e-2, 1e-3, given.noise()
        up = given.loss({n: w + eps * z[n] for n, w in given.weights.items()})
        down = given.loss({n: w - eps * z[n] for n, w in given.weights.items()})
        return {n: w - lr * (up - down) / (2 * eps) * z[n] for n, w in given.weights.items()}


def test_options_are_checked():
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        $cls(eps=0)
'''

_REGISTERED_TEST = """

def test_it_is_found_by_name():
    import $package
    from zotune.plugins import Host, Source

    found = Host([Source("$name", "$distribution", "0.1.0", lambda: $package)])
    assert found.names("$kind") == ["$name"]
    assert [*found.failures, *found.check()] == []
"""

_HOOKS = '''"""The hooks: light, nothing heavy is imported here."""

from zotune import hookimpl


@hookimpl
def register_${kind}s(register):
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
pytest                       # the whole contract of ${kind}s, and the worked examples
zotune plugins show $name
zotune fit $flag $name
```

`$package/$kind.py` is the $kind, `$package/__init__.py` registers it, `tests/` holds the contract.
"""

_PARTS: Mapping[str, tuple[str, str, str, str]] = {
    "objective": (_OBJECTIVE, _OBJECTIVE_TEST, "-o", "right completions, short ones first; higher is better"),
    "optimizer": (_OPTIMIZER, _OPTIMIZER_TEST, "--optimizer", "steps along random directions"),
}
_PREFIX = re.compile("^zotune[-_]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")


def write(kind: str, name: str, single_file: bool, folder: str | Path) -> list[Path]:
    """Write the skeleton of an objective or optimizer into `folder`: the package `zotune-<name>`, or one file and its
    test. Returns the files. Overwrites nothing. Raises OptionError."""
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
    """What the templates call things. Raises OptionError for names that cannot be."""
    plain = _PREFIX.sub("", name.strip())
    if not _NAME.fullmatch(plain):
        raise OptionError(f"{name!r} is no name; it takes letters, digits, - and _, a letter first", hint="my-metric")
    short = plain.lower().replace("_", "-")
    module = short.replace("-", "_")
    if keyword.iskeyword(module):
        raise OptionError(f"{name!r} is a word of Python's own", hint=f"my-{short}")
    if plugins.default().has(kind, short):
        owner = plugins.default().find(kind, short).distribution
        raise OptionError(f"{kind} {short!r} is {owner}'s already", hint=f"my-{short}")
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
            test + _REGISTERED_TEST, {**words, "source": f"{package}.{kind}"}
        ),
    }


def _filled(text: str, words: Mapping[str, str]) -> str:
    return Template(text).substitute(words)


__all__ = ["class_of", "write"]
