"""Text from elsewhere inside Markdown: whatever it says, it stays text."""

import re
from typing import Any

from .optional import import_for_card

_LONGEST = 200  # characters of a text from elsewhere
_MEANS_SOMETHING = re.compile(r"([\\`*_{}\[\]()!|~$:@^]|(?<=www)\.)", re.IGNORECASE)  # inside a line of Markdown


def one_line(text: Any) -> str:
    """A text in one printable line of bounded length."""
    spaced = "".join(letter if letter.isprintable() else " " for letter in str(text))
    line = " ".join(spaced.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def escape(text: Any) -> str:
    """A text that Markdown and HTML show as it is: no link, no tag, no table cell comes of it."""
    escaped = _MEANS_SOMETHING.sub(r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code_span(text: Any) -> str:
    """A text as inline code, also in a cell of a table."""
    inside = one_line(text).replace("`", "'").replace("|", "¦")
    return f"`{inside}`" if inside else ""


def card_environment() -> Any:
    """A Jinja environment in which every value is escaped, unless it is marked as Markdown of our own.

    Raises:
        ImportError: if Jinja is not installed.
    """
    jinja2, markupsafe = import_for_card("jinja2"), import_for_card("markupsafe")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # escapes for HTML; `finalize` escapes for Markdown too
        finalize=lambda value: value if isinstance(value, markupsafe.Markup) else escape(value),
    )
    environment.filters["code"] = lambda value: markupsafe.Markup(code_span(value))
    environment.filters["ours"] = lambda value: markupsafe.Markup(value)
    return environment
