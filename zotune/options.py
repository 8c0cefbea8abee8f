"""Options as records, and the conversion of strings and YAML values to the type of an option.

`option` declares a field of a dataclass with its help, range and names; `options_of` reads the records back. The
command line, configuration files and the documentation are generated from these records. Knows no particular option
and imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from typing import Any

from zotune.errors import OptionError

_KEY = "zotune.option"
"""Key of a record in the metadata of a dataclass field."""


@dataclass(frozen=True)
class Option:
    """One option of a command or of a configuration file.

    name: field of the dataclass and key in a configuration file. type: annotation of the field. flags: names on the
    command line, the long one first. aliases: hidden flags, and hidden keys with - as _. old_values: former values, and
    what replaces them. group: title of the panel in the help. first: place among the main options, 0 outside of them.
    choices, above, least, most: what a value must be one of, above, at least and at most. zero: what 0 means. shown:
    the default in words. metavar: what stands for the value in the help. positional: an argument instead of a flag;
    required: whether it must be given. time: the value is a time, in seconds or such as 90s, 10m and 1h30m.
    """

    name: str
    type: Any
    default: Any
    help: str
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    old_values: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    first: int = 0
    choices: tuple[str, ...] = ()
    above: float | None = None
    least: float | None = None
    most: float | None = None
    zero: str = ""
    shown: str = ""
    metavar: str = ""
    positional: bool = False
    required: bool = True
    time: bool = False

    @property
    def flag(self) -> str:
        """The name in messages: the long flag, or the argument."""
        return self.flags[0]

    @property
    def many(self) -> bool:
        """Whether the flag can be repeated: lists of texts, and mappings."""
        types = (self.type, *typing.get_args(self.type))
        return any(
            typing.get_origin(t) is dict or (typing.get_origin(t) is tuple and str in typing.get_args(t)) for t in types
        )

    @property
    def switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.type is bool or bool in typing.get_args(self.type)

    @property
    def default_text(self) -> str:
        """The default as the help shows it; empty where there is nothing to show."""
        if self.shown or self.default is None or self.default in ((), {}, ""):
            return self.shown
        if isinstance(self.default, bool):
            return "yes" if self.default else ""
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys in a configuration file, the hidden ones included."""
        return (self.name, *(a.lstrip("-").replace("-", "_") for a in self.aliases))

    def convert(self, value: Any, what: str) -> Any:
        """A value, a string or a list of strings, as the option's type. Raises OptionError."""
        if isinstance(value, str) and value in self.old_values:
            value = self.old_values[value]
        if self.time and isinstance(value, str):
            value = _in_seconds(value)
        return convert(value, self.type, what)

    def check(self, value: Any) -> None:
        """Raises OptionError for a value that is out of range or no choice."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            listed = " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
            raise OptionError(f"{self.flag} must be {listed}, got {value!r:.80}")
        if self.above is None and self.least is None and self.most is None:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        low = number and (self.above is None or value > self.above) and (self.least is None or value >= self.least)
        if not (low and (self.most is None or value <= self.most)):
            raise OptionError(f"{self.flag} must be {self._range()}, got {value!r:.80}")

    def _range(self) -> str:
        if self.most is not None:
            opening = f"({self.above:g}" if self.above is not None else f"[{self.least or 0:g}"
            return f"in {opening}, {self.most:g}]"
        if self.above == 0:
            return "positive"
        if self.least:
            return f"at least {self.least:g}"
        return f"0 ({self.zero}) or more" if self.zero else "0 or more"


def option(
    default: Any,
    help: str,
    *flags: str,
    aliases: Sequence[str] = (),
    old_values: Mapping[str, str] | None = None,
    first: int = 0,
    choices: Sequence[str] = (),
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    zero: str = "",
    shown: str = "",
    metavar: str = "",
    group: str = "",
    time: bool = False,
) -> Any:
    """A dataclass field that is an option; see `Option`. flags: the field's name as a long flag by default."""
    record = Option(
        "",
        Any,
        default,
        help,
        flags,
        tuple(aliases),
        old_values or {},
        group,
        first,
        tuple(choices),
        above,
        least,
        most,
        zero,
        shown,
        metavar,
        time=time,
    )
    return _field(record)


def argument(help: str, metavar: str, default: Any = MISSING, shown: str = "") -> Any:
    """A dataclass field that is a positional argument, or several where the field is a tuple of texts. default: the
    value where it is left out, `shown` in the help; without one it is required."""
    required = default is MISSING
    record = Option("", str, None, help, (metavar,), shown=shown, metavar=metavar, positional=True, required=required)
    return field(default=default, metadata={_KEY: record})


def like(record: Option, **changes: Any) -> Any:
    """A dataclass field with the record of another option. changes: fields of `Option` that differ."""
    return _field(replace(record, **changes))


def _field(record: Option) -> Any:
    metadata = {_KEY: record}
    if isinstance(record.default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=record.default, metadata=metadata)


def options_of(cls: type, group: str = "") -> dict[str, Option]:
    """The option records of a dataclass, by name and in order. group: the panel of those that name none."""
    hints = typing.get_type_hints(cls)
    records: dict[str, Option] = {}
    for f in dataclasses.fields(cls):
        record: Option | None = f.metadata.get(_KEY)
        if record is not None:
            flags = record.flags or ("--" + f.name.replace("_", "-"),)
            records[f.name] = replace(record, name=f.name, type=hints[f.name], flags=flags, group=record.group or group)
    return records


def convert(value: Any, hint: Any, what: str) -> Any:
    """A string (or a YAML value) as the annotated type. what: names the option in messages. Raises OptionError."""
    got = f"got {value!r:.80}"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return _guess(value)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args, what)
    if origin is typing.Literal:
        for choice in args:
            if value == choice or str(value) == str(choice):
                return choice
        raise OptionError(f"{what} must be one of {', '.join(map(str, args))}, {got}")
    if origin is dict:
        if not isinstance(value, dict):
            raise OptionError(f"{what} must map names to values, {got}")
        return {str(k): v if args[1] is Any else convert(v, args[1], f"{what}: {k!r:.40}") for k, v in value.items()}
    if origin in (tuple, list, Sequence) or hint in (tuple, list):
        if not isinstance(value, str | list | tuple):
            raise OptionError(f"{what} must be a list, {got}")
        items = [s for s in value.split(",") if s] if isinstance(value, str) else list(value)
        inner = args[0] if args else Any
        items = [convert(i, inner, what) for i in items]
        return items if (origin or hint) is list else tuple(items)
    if hint is bool:
        return _convert_bool(value, what)
    if hint in (int, float):
        return _convert_number(value, hint, what)
    if hint is str:
        if value is None or isinstance(value, dict | list | tuple | set | bytes):
            raise OptionError(f"{what} must be text, {got}")
        return str(value)
    return value


def _convert_union(value: Any, args: Sequence[Any], what: str) -> Any:
    """A value as the first type of a union that takes it; str is tried last."""
    if type(None) in args and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    possible = [a for a in args if a is not type(None)]
    if str in possible and isinstance(value, str):  # a text is not a list of its parts
        possible = [a for a in possible if typing.get_origin(a) not in (tuple, list, Sequence)]
    elif str in possible and len(possible) > 1 and isinstance(value, list | tuple):
        possible.remove(str)
    problems = []
    for hint in sorted(possible, key=lambda a: a is str):
        try:
            return convert(value, hint, what)
        except OptionError as error:
            problems.append(str(error))
    words = [a for hint in possible if typing.get_origin(hint) is typing.Literal for a in typing.get_args(hint)]
    if float in possible and words:
        raise OptionError(f"{what} must be a finite number or {' or '.join(words)}, got {value!r:.80}")
    raise OptionError(problems[0])


def _in_seconds(text: str) -> str | float:
    """A time such as 90s, 10m or 1h30m in seconds; any other text as it is."""
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", text.replace(" ", "")
    )
    if match is None or not any(match.groups()):
        return text
    return sum(float(n) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True) if n)


def _convert_bool(value: Any, what: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "yes", "on", "1"):
        return True
    if str(value).lower() in ("false", "no", "off", "0"):
        return False
    raise OptionError(f"{what} must be true or false, got {value!r:.80}")


def _convert_number(value: Any, hint: type, what: str) -> int | float:
    """An int or a float. Whole numbers are exact, those beyond the precision of a float included."""
    got = f"got {value!r:.80}"
    if isinstance(value, bool):
        raise OptionError(f"{what} must be a number, {got}")
    try:
        number = float(value)
        if math.isnan(number) or (hint is int and number != int(number)):
            raise ValueError
        if hint is float:
            return number
        exact = isinstance(value, int) or (isinstance(value, str) and value.lstrip("+-").isdecimal())
        return int(value) if exact else int(number)
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if hint is int else "a number"
        raise OptionError(f"{what} must be {kind}, {got}") from None


def _guess(value: Any) -> Any:
    """A value of an option without annotation: a string is read as JSON where it is JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    """`["name=value", …]`, options of a plugin, as a dict by Python name. Raises OptionError without a name or =."""
    out = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"{flag} takes name=value, got {item!r:.80}")
        out[key.strip().replace("-", "_")] = value
    return out


def mapping(items: Sequence[str], flag: str, form: str) -> dict[str, str]:
    """`["key=value", …]` as a dict. form: how an item looks, for messages. Raises OptionError where a part is
    missing."""
    out = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise OptionError(f"{flag} takes {form}, got {item!r:.80}")
        out[key] = value
    return out


__all__ = ["Option", "argument", "convert", "like", "mapping", "option", "options_of", "pairs"]
