"""Text in Markdown: a parser reads back what was written, in a line and in a table, and finds no markup in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conformance.core.text import one_line
from report.markdown import code, link, prose
from tests.report.samples import HOSTILE
from tests.support.markdown import shape, text

pytestmark = pytest.mark.unit

_PLACES = ("before {} after", "| a | b |\n| --- | --- |\n| c | {} |", "| a |\n| --- |\n| {} |")
_MARKUP = (
    *HOSTILE,
    *("", "a | b", r"a \| b \\| c\\", "|", "`", "a`", "``a", r"a\`", "\\", "_a_|b", "gpt_neo", "* a", "a\n\n# b"),
    "`a` ``b`` **c** _d_ ~~e~~ [f](https://example.org) ![g](h) <i>j</i> &lt; <https://example.org> $k$ @l",
)
_text = st.one_of(st.sampled_from(_MARKUP), st.text(), st.text(alphabet="`|\\*_<>[]()!&;#$@~ab "))


@pytest.mark.parametrize("write", [code, prose])
@pytest.mark.parametrize("place", _PLACES)
@settings(max_examples=200, deadline=None)
@given(_text)
@example("\\|")
@example("`|`")
def test_a_parser_reads_back_what_was_written(write: Callable[[str], str], place: str, written: str) -> None:
    line = one_line(written)
    shown = line or ("–" if write is code else "")
    before, after = ("before ", " after") if place.startswith("before") else ("", "")
    assert text(place.format(write(line))).strip() == f"{before}{shown}{after}".strip()
    if line:
        assert shape(place.format(write(line))) == shape(place.format(write("tame")))


def test_code_is_written_as_people_do_where_it_can_be() -> None:
    assert code("gpt_neo") == "`gpt_neo`"
    assert code("") == "`–`"
    assert code("a|b`") == "<code>a\\|b\\`</code>"


def test_github_finds_nothing_to_link() -> None:
    found = prose("https://example.org www.example.org a@example.org $x$")
    assert found == (
        "https:<span>//</span>example.org www<span>.</span>example.org a<span>@</span>example.org "
        "<span>$</span>x<span>$</span>"
    )


def test_only_an_address_becomes_a_link() -> None:
    assert link("https://example.org/issues/1") == "<https://example.org/issues/1>"
    for other in ("javascript:alert(1)", "https://example.org/ x", "a"):
        assert link(other) == prose(other)
