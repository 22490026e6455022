"""Markdown pages as a reader's program takes them, for tests of the pages that are made of records."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.token import Token


def tokens(page: str) -> list[Token]:
    """What a parser of GitHub's kind makes of `page`."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)


def shape(page: str) -> list[tuple[str, str]]:
    """All of its markup, and none of its text: no text of a record may add to it."""
    flat = [child for token in tokens(page) for child in (token, *(token.children or ()))]
    quiet = {"text", "inline", "text_special"}
    return [
        (token.type, token.content if token.type == "html_inline" else "")
        for token in flat
        if token.type not in quiet and token.content not in {"<span>", "</span>"}
    ]
