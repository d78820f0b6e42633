"""Text from elsewhere stays text in Markdown."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from transformers_lighttoken.hub import optional
from transformers_lighttoken.hub.markup import card_environment, code_span, escape, one_line

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TRICKY = st.text(alphabet="ab1 \\`*_{}[]()<>#+-.!|~$:@^&;\"'=/\n\t\r\u202e\u00e9\u732b", max_size=60)


def rendered(markdown: str) -> str:
    return MARKDOWN.render(markdown)


@given(TRICKY)
def test_escaped_text_is_read_as_it_is(text: str):
    shown = rendered(f"x {escape(text)} x")
    assert html.unescape(shown) == f"<p>x {one_line(text)} x</p>\n"


@given(TRICKY)
def test_a_cell_of_a_table_stays_one_cell(text: str):
    shown = rendered(f"| a | b |\n|---|---|\n| {escape(text)} | {code_span(text)} |\n")
    assert shown.count("<td") == 2
    assert shown.count("<tr") == 2
    assert set(re.findall(r"<(\w+)", shown)) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}


@given(TRICKY)
def test_code_spans_show_the_text(text: str):
    shown = rendered(f"x {code_span(text)} x")
    inside = one_line(text).replace("`", "'").replace("|", "¦")
    assert html.unescape(shown) == (f"<p>x <code>{inside}</code> x</p>\n" if inside else "<p>x  x</p>\n")


def test_one_line_is_printable_and_bounded():
    assert one_line("a\u202eb\x1b[31m\r\n\u2028c") == "a b [31m c"
    assert len(one_line("x" * 1000)) == 200
    assert one_line(None) == "None"


def test_bare_addresses_do_not_become_links():
    assert escape("http://a.b www.c.d e@f.g") == r"http\://a.b www\.c.d e\@f.g"


def test_environment_escapes_everything_but_what_is_ours():
    template = card_environment().from_string("{{ a }} {{ a | ours }} {{ a | code }} {{ 3 }}")
    assert template.render(a="*b*") == r"\*b\* *b* `*b*` 3"
    with pytest.raises(Exception, match="'absent' is undefined"):
        card_environment().from_string("{{ absent }}").render()


def test_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ImportError, match=r"needs no_such_library.*pip install 'transformers-lighttoken\[card\]'"):
        optional.import_for_card("no_such_library.part")
