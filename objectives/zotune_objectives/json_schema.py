"""The share of completions that are JSON of a schema: `-o json`, `-o json:schema.json`.

A row's schema stands in its column `schema` (a JSON object or its text), or one file holds it for all rows. Without
either, any JSON value is right. 1 or 0 for each row. A completion may have blanks around it, and nothing else.

Of JSON Schema these keywords are read: type, properties, required, additionalProperties (true or false), items, enum,
const, minimum, maximum, minLength, maxLength, minItems, maxItems. Others are refused by name, except descriptions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zotune.errors import OptionError, nearest
from zotune.text import texts
from zotune.types import ObjectiveInfo

TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
LIMITS: Final = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
KEYWORDS: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "const", *LIMITS}
)
ANNOTATIONS: Final = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples"})


def check_schema(schema: Any, place: str = "the schema") -> None:
    """Raise OptionError where a value is no schema that this module reads. place: names it in messages."""
    if not isinstance(schema, dict):
        raise OptionError(f"{place} must be a JSON object, got {schema!r:.60}", hint='such as {"type": "object"}')
    for key in schema:
        if key not in KEYWORDS | ANNOTATIONS:
            raise OptionError(f"{place}: the keyword {key!r:.40} is not read", hint=nearest(str(key), KEYWORDS))
    for name in _types(schema):
        if name not in TYPES:
            raise OptionError(f"{place}: no type {name!r:.40}", hint=nearest(str(name), TYPES))
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise OptionError(f"{place}: properties must map names to schemas, got {properties!r:.60}")
    for name, inner in properties.items():
        check_schema(inner, f"{place}, property {name!r:.40}")
    if "items" in schema:
        check_schema(schema["items"], f"{place}, items")
    for key, kind in (("required", list), ("enum", list), ("additionalProperties", bool)):
        if key in schema and not isinstance(schema[key], kind):
            raise OptionError(f"{place}: {key} must be {'true or false' if kind is bool else 'a list'}")
    for key in LIMITS:
        if key in schema and (isinstance(schema[key], bool) or not isinstance(schema[key], int | float)):
            raise OptionError(f"{place}: {key} must be a number, got {schema[key]!r:.40}")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value fits a checked schema."""
    if "type" in schema and not any(_has_type(value, name) for name in _types(schema)):
        return False
    if ("const" in schema and not _equal(value, schema["const"])) or (
        "enum" in schema and not any(_equal(value, item) for item in schema["enum"])
    ):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if any(name not in value for name in schema.get("required", ())):
            return False
        if schema.get("additionalProperties") is False and value.keys() - properties.keys():
            return False
        return all(fits(value[name], inner) for name, inner in properties.items() if name in value)
    if isinstance(value, list):
        inner = schema.get("items", {})
        return _within(len(value), schema, "minItems", "maxItems") and all(fits(item, inner) for item in value)
    if isinstance(value, str):
        return _within(len(value), schema, "minLength", "maxLength")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _within(value, schema, "minimum", "maximum")
    return True


def _types(schema: Mapping[str, Any]) -> list[Any]:
    names = schema.get("type", [])
    return names if isinstance(names, list) else [names]


def _has_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    whole = name == "integer" and isinstance(value, float) and value.is_integer()
    return whole or isinstance(value, TYPES[name])


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _within(number: float, schema: Mapping[str, Any], least: str, most: str) -> bool:
    return bool(schema.get(least, number) <= number <= schema.get(most, number))


@functools.lru_cache(4096)
def read_schema(text: str, place: str) -> Mapping[str, Any]:
    """A checked schema from its text. Raises OptionError."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{place} is no JSON: {error}") from None
    check_schema(schema, place)
    checked: Mapping[str, Any] = schema
    return checked


@dataclass(frozen=True)
class JsonSchema:
    file: str | None = None  # a JSON file with the schema of every row, instead of the column `schema`

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo("maximize", level="sample", check_row=self._check)

    def _check(self, row: Mapping[str, Any]) -> None:
        """Refuse a row whose schema is none."""
        if self.file is None:
            _schema_of(row.get("schema"))

    def __post_init__(self) -> None:
        self._of_file()

    def _of_file(self) -> Mapping[str, Any] | None:
        if self.file is None:
            return None
        try:
            text = Path(self.file).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "not a text"
            raise OptionError(f"json: the schema {self.file!r} cannot be read: {why}") from None
        return read_schema(text, f"json: the schema {self.file!r}")

    def __call__(self, completions: Sequence[Any], schema: Sequence[Any] | None = None) -> list[float]:
        """1.0 for each completion that is JSON of its schema, else 0.0."""
        common = self._of_file()
        return [self._score(c, common, schema[i] if schema else None) for i, c in enumerate(texts(completions))]

    def _score(self, completion: str, common: Mapping[str, Any] | None, own: Any) -> float:
        common = _schema_of(own) if common is None else common
        try:
            value = json.loads(completion, parse_constant=_no_number)
        except (ValueError, RecursionError):
            return 0.0
        return float(fits(value, common))


def _schema_of(column: Any) -> Mapping[str, Any]:
    """The checked schema of a row. Raises OptionError."""
    text = column if isinstance(column, str) else json.dumps({} if column is None else column)
    return read_schema(text, "json: the column schema")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
