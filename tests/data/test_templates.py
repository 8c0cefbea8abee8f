"""Templates: places, filters, spans, and checks against the records."""

from __future__ import annotations

import pytest

from zotune.data.task import check_template
from zotune.data.templates import Template
from zotune.errors import DataError, OptionError


@pytest.mark.parametrize(
    "text", ["{text.__class__}", "{0[x]}", "{text!r}", "{text:>10}", "{", "}", "{text", "{}", "{a b}", "{text[0]}"]
)
def test_templates_reach_nothing_but_columns(text: str) -> None:
    with pytest.raises(OptionError):
        template = Template(text)
        check_template(template, {"train": [{"text": "x", "label": 0}]}, "embedding")


def test_template_columns_are_checked() -> None:
    with pytest.raises(DataError, match=r"train record 2 has no column 'premise'; columns found: premise, text"):
        check_template(Template("{premise}"), {"train": [{"premise": "a", "text": "b"}, {"text": "c"}]}, "embedding")
    with pytest.raises(OptionError, match=r"no \{label\}"):
        check_template(Template("{text}"), {"train": [{"text": "x"}]}, "causal")
    assert Template("{{x}} {text}").render({"text": "{y}"}) == "{x} {y}"


@pytest.mark.parametrize(("value", "what"), [({"a": 1}, "an object"), (["a", "b"], "a list")])
def test_a_column_that_holds_no_text_is_refused(value: object, what: str) -> None:
    with pytest.raises(DataError, match=f"the column 'text' holds {what} where a text belongs"):
        Template("{text}").fill({"text": value})
