"""Text from records in Markdown, such that it reads as itself and never becomes markup, not even on GitHub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from conformance.core.text import one_line

#: Everything that Markdown or HTML acts on, as character references: they never count as structure. An underscore
#: inside a word is left alone, since nearly every name has one.
_ACTIVE = re.compile(r"""[\\`*~|<>&\[\]!#"]|_(?![^\W_])|(?<![^\W_])_""")
#: GitHub looks for addresses, mentions and formulas in what is left after parsing. In elements of their own these are
#: found by nobody.
_FOUND_LATER = re.compile(r"[@$]|(?<=:)//|(?<=www)\.", re.IGNORECASE)


def code(text: str, most: int = 160) -> str:
    """`text` as code, in a line or in a table; an element and no backticks, which cannot hold every text in a table."""
    escaped = _ACTIVE.sub(lambda found: f"&#{ord(found[0])};", one_line(text, most))
    return f"<code>{_FOUND_LATER.sub(lambda found: f'<span>{found[0]}</span>', escaped) or '–'}</code>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are Markdown already."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
