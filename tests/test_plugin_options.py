"""Options of plugins: converted by annotation, refused with the nearest name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from zotune import plugin_options
from zotune.errors import OptionError


@dataclass(frozen=True)
class Demo:
    lr: float = 1e-3  # η: learning rate
    n: int = 1
    fast: bool = False
    mode: Literal["a", "b"] = "a"  # which
    maybe: int | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")


def test_strings_are_converted_by_annotation() -> None:
    strings = {"lr": "1e-5", "n": "3", "fast": "yes", "mode": "b", "maybe": "none", "names": "x,y"}
    assert plugin_options.build(Demo, strings, "demo") == Demo(1e-5, 3, True, "b", None, ("x", "y"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrr": 1}, "no option 'lrr' .*did you mean 'lr'"),
        ({"lr": "fast"}, "must be a number, got 'fast'"),
        ({"n": "1.5"}, "whole number, got '1.5'"),
        ({"fast": "maybe"}, "true or false"),
        ({"mode": "c"}, "one of a, b, got 'c'"),
        ({"n": "0"}, "n must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plugin_options.build(Demo, options, "demo")


def test_the_comment_beside_an_option_is_its_help() -> None:
    assert plugin_options.comments(Demo)["lr"] == "η: learning rate"
    assert plugin_options.comments(Demo)["mode"] == "which"


def test_whole_numbers_are_exact() -> None:
    """Numbers that no float holds, too."""
    assert plugin_options.build(Demo, {"n": str(2**60 + 1)}, "demo").n == 2**60 + 1
