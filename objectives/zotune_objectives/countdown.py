"""Countdown: an expression of given numbers that has a target value.

    score = 0.1 · format + answer

format: the completion has exactly one `<answer>…</answer>`; answer: what stands there is an expression of + - * / and
brackets, with each of the row's numbers at most once, whose value is the row's target. Values are exact fractions.
Expressions are parsed, never run. One score in [0, 1.1] for each row, which needs the columns `numbers` and `target`.

Source: TinyZero's task of this name, with its reward of 0.1 for the format.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from zotune.errors import OptionError
from zotune.text import texts
from zotune.types import ObjectiveInfo

ANSWER: Final = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
FORMAT: Final = 0.1
LONGEST: Final = 200
"""Characters of an expression at most: deeper brackets would exhaust the parser."""
SIGNS: Final = str.maketrans({"×": "*", "÷": "/", "−": "-", "·": "*"})


def value_of(expression: str, numbers: Sequence[int]) -> Fraction | None:
    """The value of an expression of whole numbers, each of which occurs in `numbers` at least as often; None for any
    other text, and where it divides by zero."""
    text = expression.strip().translate(SIGNS)
    if not text or len(text) > LONGEST:
        return None
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    used = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    if not all(type(n) is int for n in used) or Counter(used) - Counter(numbers):
        return None
    return _value(tree.body)


def _value(node: ast.expr) -> Fraction | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left), _value(node.right)
    if left is None or right is None:
        return None
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right if right else None
        case _:
            return None


@dataclass(frozen=True)
class Countdown:
    all_numbers: bool = False  # whether an answer must use every number

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="sample", check_row=self._check)

    def _check(self, row: Mapping[str, Any]) -> None:
        """Refuse a row without a list of whole numbers and a whole target."""
        numbers, target = row.get("numbers"), row.get("target")
        try:
            listed = isinstance(numbers, list | tuple) and all(int(n) == n for n in numbers)
            right = listed and target is not None and int(target) is not None
        except (TypeError, ValueError):
            right = False
        if not right:
            text = f"countdown: numbers {numbers!r:.40} and target {target!r:.40} must be whole numbers"
            raise OptionError(text, hint='such as {"numbers": [1, 2, 5], "target": 8}')

    def __call__(
        self, completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[int]
    ) -> list[float]:
        """0.1 for one answer in its tags, and 1 for a right one."""
        return [self._score(*row) for row in zip(texts(completions), numbers, target, strict=True)]

    def _score(self, completion: str, numbers: Sequence[int], target: int) -> float:
        answers = ANSWER.findall(completion)
        if len(answers) != 1:
            return 0.0
        expression = answers[0].partition("=")[0]
        numbers = [int(n) for n in numbers]
        right = value_of(expression, numbers) == Fraction(int(target))
        if right and self.all_numbers:
            right = Counter(map(int, re.findall(r"\d+", expression))) == Counter(numbers)
        return FORMAT + right
