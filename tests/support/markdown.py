"""Markdown pages as a reader's program takes them, for tests of the pages that are made of records."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.token import Token


def tokens(page: str) -> list[Token]:
    """What a parser of GitHub's kind makes of `page`."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)


def shape(page: str) -> list[tuple[str, str]]:
    """All of its markup, and none of its text: no text of a record may add to it.

    Code is code, whether it stands between backticks or, where these cannot hold it, in an element.
    """
    flat = [child for token in tokens(page) for child in (token, *(token.children or ()))]
    quiet = {"text", "inline", "text_special"}
    return [
        ("code_inline", "") if token.content == "<code>" else (token.type, _html(token))
        for token in flat
        if token.type not in quiet and token.content not in {"<span>", "</span>", "</code>"}
    ]


def _html(token: Token) -> str:
    return token.content if token.type == "html_inline" else ""


def text(page: str) -> str:
    """What a reader reads of a page that is one paragraph or one table's cell."""
    inline = [token.children or [] for token in tokens(page) if token.type == "inline"]
    return "".join(child.content for child in inline[-1] if child.type != "html_inline")
