"""`zotune plugins show`: meanings of options, and their places in the paper."""

from __future__ import annotations

import json
import re

import pytest

from zotune import plugins
from zotune.cli.plugins_command import described, lines, split_source

PAPERS = (
    *("mezo", "mezo-modified", "mezo-momentum", "mezo-adam", "zo-adamu", "zo-adamm", "mezo-svrg", "zo-svrg"),
    *("sparse-mezo", "dizo"),
)
"""The optimizers of the five papers."""
PLACE = re.compile(
    r"(Alg\.|Table|Tables|Figure|Figures|Appendix|Section|Definition|Definitions|Proposition|Remark) [A-Z\d]|\(\d\)|"
    r"not in the paper|authors' code|Zhang et al\. 2020"
)


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("η: learning rate [Table 6]", ("η: learning rate", "Table 6")),
        ("of η over the budget [ours]", ("of η over the budget", "not in the paper")),
        ("one z or two [ours; authors' code]", ("one z or two", "not in the paper; authors' code")),
        ("a share in [0, 1) of the rows", ("a share in [0, 1) of the rows", "")),
        ("in [0, 1)", ("in [0, 1)", "")),
        ("", ("", "")),
    ],
)
def test_a_comment_is_a_meaning_and_a_place_in_brackets(comment: str, expected: tuple[str, str]) -> None:
    assert split_source(comment) == expected


@pytest.mark.parametrize("name", PAPERS)
def test_every_option_of_the_five_papers_names_its_place(name: str) -> None:
    entry = described(plugins.default().find("optimizer", name))
    assert entry["options"]
    for option in entry["options"]:
        assert PLACE.search(option["source"]), option
        assert option["meaning"], option
        assert "[" not in option["meaning"], option
    assert json.loads(json.dumps(entry)) == entry
    shown = lines(entry)
    for option in entry["options"]:
        (line,) = [text for text in shown if text.startswith(f"    {option['name']} = ")]
        assert line.endswith(option["source"])
