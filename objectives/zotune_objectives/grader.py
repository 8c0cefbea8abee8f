"""A grader file of the OpenAI API: `-o grader:grader.json`. One score for each row, in the grader's own range.

    string_check      1 or 0: input equals the reference (eq), differs (ne), contains it (like), or without case (ilike)
    text_similarity   input and reference by rouge_1, rouge_2, rouge_3, rouge_4, rouge_5 or rouge_l
    python            the function `grade(sample, item)` of its source; the file runs with your rights
    multi             the formula `calculate_output` of the scores of several graders

Texts have places `{{ item.column }}`, `{{ sample.output_text }}` and, for completions that are JSON,
`{{ sample.output_json.key }}`; keys are joined by dots. Other types, metrics and fields of the sample are refused by
name before anything runs: models that grade need a server, for which there is `-o http`.

Source: the OpenAI API reference, graders.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import zotune
from zotune.errors import ObjectiveError, OptionError, nearest
from zotune.text import texts
from zotune_objectives.rouge import words

Grade = Callable[[Mapping[str, Any], Mapping[str, Any]], float | None]
"""The score of (sample, item); None where it does not count."""

PLACE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
SAMPLE: Final = ("output_text", "output_json")
FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
SERVER: Final = "grade by a server: -o http://…"


def build(grader: Any, place: str) -> Grade:
    """A function from a grader's JSON. place: names it in messages. Raises OptionError."""
    if not isinstance(grader, dict) or not isinstance(grader.get("type"), str):
        raise OptionError(f"{place} must be a JSON object with a type, got {grader!r:.60}")
    kind = grader["type"]
    if kind in ("score_model", "label_model", "endpoint"):
        raise OptionError(f"{place}: graders of type {kind} call a hosted model and are not supported", hint=SERVER)
    if kind not in BUILDERS:
        raise OptionError(f"{place}: no grader of type {kind!r:.40}", hint=nearest(kind, BUILDERS))
    return BUILDERS[kind](grader, place)


def _string_check(grader: Mapping[str, Any], place: str) -> Grade:
    left, right = _text(grader, "input", place), _text(grader, "reference", place)
    checks: Mapping[str, Callable[[str, str], bool]] = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "like": lambda a, b: b in a,
        "ilike": lambda a, b: b.casefold() in a.casefold(),
    }
    operation = str(grader.get("operation"))
    if operation not in checks:
        raise OptionError(f"{place}: no operation {operation!r:.40}", hint=nearest(operation, checks))
    return lambda sample, item: float(checks[operation](left(sample, item), right(sample, item)))


def _text_similarity(grader: Mapping[str, Any], place: str) -> Grade:
    left, right = _text(grader, "input", place), _text(grader, "reference", place)
    metric = grader.get("evaluation_metric")
    sizes = {f"rouge_{n}": n for n in range(1, 6)}
    if metric not in (*sizes, "rouge_l"):
        raise OptionError(
            f"{place}: the metric {metric!r:.40} is not supported", hint=nearest(str(metric), [*sizes, "rouge_l"])
        )

    def grade(sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        a, b = words(left(sample, item)), words(right(sample, item))
        return _common_sequence(a, b) if metric == "rouge_l" else _common_grams(a, b, sizes[metric])

    return grade


def _common_grams(a: Sequence[str], b: Sequence[str], n: int) -> float:
    """F-measure of the n-grams that two texts have in common."""
    first, second = (Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (a, b))
    total = sum(first.values()) + sum(second.values())
    return 2 * sum((first & second).values()) / total if total else 0.0


def _common_sequence(a: Sequence[str], b: Sequence[str]) -> float:
    """F-measure of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b)) if a and b else 0.0


def _python(grader: Mapping[str, Any], place: str) -> Grade:
    source = grader.get("source")
    if not isinstance(source, str):
        raise OptionError(f"{place}: source must be text with a function grade(sample, item)")
    names: dict[str, Any] = {"__name__": "grader"}
    try:
        exec(compile(source, f"<{place}>", "exec"), names)
    except Exception as error:  # the source may raise anything
        raise OptionError(f"{place}: source cannot be run: {type(error).__name__}: {error}") from None
    function = names.get("grade")
    if not callable(function):
        raise OptionError(f"{place}: source defines no function grade(sample, item)")
    return lambda sample, item: _number(function(dict(sample), dict(item)), place)


def _multi(grader: Mapping[str, Any], place: str) -> Grade:
    inner, text = grader.get("graders"), grader.get("calculate_output")
    if isinstance(inner, list):
        inner = {x.get("name"): x for x in inner if isinstance(x, dict)}
    if not isinstance(inner, dict) or not inner or not isinstance(text, str):
        raise OptionError(f"{place}: a multi grader has graders by name and calculate_output, a formula of their names")
    if nested := next((name for name, x in inner.items() if isinstance(x, dict) and x.get("type") == "multi"), None):
        raise OptionError(f"{place}: the grader {nested!r:.40} is a multi grader inside another one")
    grades = {name: build(x, f"{place}, grader {name!r:.40}") for name, x in inner.items()}
    formula = _formula(text, grades, f"{place}: calculate_output")

    def grade(sample: Mapping[str, Any], item: Mapping[str, Any]) -> float | None:
        scores = {name: g(sample, item) for name, g in grades.items()}
        known = {name: score for name, score in scores.items() if score is not None}
        return formula(known) if len(known) == len(scores) else None

    return grade


def _formula(text: str, names: Mapping[str, Any], place: str) -> Callable[[Mapping[str, float]], float]:
    """A formula of + - * / ^, brackets, numbers, names and FUNCTIONS as a function of the names' values."""
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise OptionError(f"{place}: {text!r:.80} is no formula") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in (*names, *FUNCTIONS):
            raise OptionError(f"{place}: no grader {node.id!r:.40}", hint=nearest(node.id, [*names, *FUNCTIONS]))
    operators: Mapping[type, Callable[[float, float], float]] = {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.Div: lambda a, b: a / b,
        ast.Pow: lambda a, b: float(a) ** float(b),
    }

    def value(node: ast.AST, scores: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in names:
                return scores[name]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner, scores)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in operators:
                return operators[type(op)](value(left, scores), value(right, scores))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
                return float(FUNCTIONS[name](*(value(x, scores) for x in args)))
        raise OptionError(f"{place}: {ast.unparse(node)!r:.60} is not allowed in a formula")

    def compute(scores: Mapping[str, float]) -> float:
        try:
            return _number(value(tree, scores), place) or 0.0
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ObjectiveError(f"{place}: {error}") from None

    with contextlib.suppress(ArithmeticError, ValueError, TypeError):  # it may have no value at these scores
        value(tree, dict.fromkeys(names, 1.0))  # refuses what is not allowed before anything runs
    return compute


def _number(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ObjectiveError(f"{place} gave {value!r:.40}, which is no finite number")
    return float(value)


def _text(grader: Mapping[str, Any], key: str, place: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], str]:
    """A text with its places as a function of (sample, item)."""
    text = grader.get(key)
    if not isinstance(text, str):
        raise OptionError(f"{place}: {key} must be text, got {text!r:.40}")
    for path in PLACE.findall(text):
        space, _, name = path.partition(".")
        if space not in ("item", "sample") or not name:
            raise OptionError(f"{place}: {{{{ {path} }}}} must begin with item. or sample.")
        if space == "sample" and name.partition(".")[0] not in SAMPLE:
            raise OptionError(f"{place}: a sample has no {name!r:.40} here", hint=nearest(name, SAMPLE))

    def fill(sample: Mapping[str, Any], item: Mapping[str, Any]) -> str:
        return PLACE.sub(lambda match: _look_up({"sample": sample, "item": item}, match[1], place), text)

    return fill


def _look_up(value: Any, path: str, place: str) -> str:
    """The value at a path of keys as text; the empty text where a sample has none. Raises ObjectiveError where an item
    has none."""
    for key in path.split("."):
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping) and key in value:
            value = value[key]
        elif path.startswith("sample."):
            return ""
        else:
            raise ObjectiveError(f"{place}: a row has no {path!r:.60}")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


BUILDERS: Final[Mapping[str, Callable[[Mapping[str, Any], str], Grade]]] = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "python": _python,
    "multi": _multi,
}


def sample_of(completion: str) -> dict[str, Any]:
    """A completion as graders see it."""
    try:
        parsed = json.loads(completion)
    except (ValueError, RecursionError):
        parsed = None
    return {"output_text": completion, "output_json": parsed}


@zotune.objective(direction="maximize", level="sample")
class Grader:
    """A grader file. Raises OptionError for one that cannot be read or is not supported."""

    def __init__(self, file: str) -> None:
        path = Path(file).expanduser()
        try:
            self._grader = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionError(f"grader: {file!r} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise OptionError(f"grader: {file!r} is no JSON: {error}") from None
        self._grade = build(self._grader, f"grader {path.name}")

    def __call__(self, completions: Sequence[Any], batch: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """The score of each completion; the columns of its row are the item."""
        return [self._grade(sample_of(c), item) for c, item in zip(texts(completions), batch, strict=True)]
