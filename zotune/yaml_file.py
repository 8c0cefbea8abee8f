"""YAML files of plain values: read with limits, and written.

Knows no keys: what a file must hold is checked by who reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from zotune.errors import OptionError

LARGEST_BITS: Final = 1024
"""Bits of a whole number that is read."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A mapping from a YAML file. `1e-5` is read as a number, which YAML 1.1 reads as text.

    Tags create no objects. Aliases are refused: a few lines of them can stand for gigabytes or contain themselves.
    Raises OptionError.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read: write the value out")
            return super().compose_node(parent, index)

        def construct_number(self, node: Any) -> int:
            number: int = super().construct_yaml_int(node)
            if number.bit_length() > LARGEST_BITS:
                raise yaml.YAMLError("a whole number of that many digits is not read")
            return number

    exponent = re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_number)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except RecursionError:
        raise OptionError(f"{path} cannot be read: nested too deeply") from None
    except Exception as error:  # constructors raise anything for impossible values (day 99 of a month, !!bool x)
        reason = " ".join(str(error).split())[:300] if isinstance(error, OSError | ValueError | yaml.YAMLError) else ""
        raise OptionError(f"{path} cannot be read: {reason or 'a value does not fit its tag'}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise OptionError(f"{path} must hold a mapping of options, got a {type(data).__name__}")
    return data


def as_yaml(values: Mapping[str, Any]) -> str:
    """The values as YAML, in their order."""
    import yaml

    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text


def yaml_value(text: Any) -> Any:
    """A text as the YAML value that it is: `false` is False and `3` is 3; what is no YAML stays text."""
    import yaml

    if not isinstance(text, str):
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | str | list | dict | None) else text


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write the values to a YAML file."""
    path.write_text(as_yaml(values), encoding="utf-8")


__all__ = ["as_yaml", "read_yaml", "write_yaml", "yaml_value"]
