"""Markdown of run records: their text reads as itself and never becomes markup, not even on GitHub.

Such text may be whatever torch or an exporter raised.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from conformance.core.text import one_line, plural
from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord

from .analysis.report import Headline, Missed
from .analysis.result import unchanged
from .analysis.status import MEANINGS, SIGNS
from .names import plain_link

#: What Markdown acts on inside a line or a table. An underscore inside a word is left alone: nearly every name has one.
_ACTIVE = re.compile(r"[\\`*~|\[\]]|_(?![^\W_])|(?<![^\W_])_")
#: GitHub looks for addresses, mentions and formulas after parsing, escaped or not, but not across elements.
_GITHUB = re.compile(r"[@$]|(?<=:)//|(?<=www)\.", re.IGNORECASE)


def prose(text: str, max_chars: int = 2000) -> str:
    """`text` as it is, for inside a line or a table."""
    escaped = _ACTIVE.sub(r"\\\g<0>", html.escape(one_line(text, max_chars), quote=False))
    return _GITHUB.sub(r"<span>\g<0></span>", escaped)


def code(text: str, max_chars: int = 160) -> str:
    """`text` as code, for inside a line or a table; a dash if there is none."""
    flat = one_line(text, max_chars) or "–"
    # A table's row is cut at pipes even in code, and a backtick ends it: neither can be escaped inside backticks.
    return f"<code>{prose(flat, max_chars)}</code>" if set("`|") & set(flat) else f"`{flat}`"


def link(text: str) -> str:
    """A link, if `text` is an address on the web and nothing else; otherwise prose."""
    return f"<{text}>" if plain_link(text) else prose(text)


def page_link(text: str, site: str, address: str) -> str:
    """`text`, which is Markdown already, as a link to a page of the site at `site`; as it is, without either."""
    return f"[{text}]({site}/{quote(address, safe='/#~')})" if site and address else text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are Markdown already."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def headlines(found: Iterable[Headline]) -> list[str]:
    """A table of how many architectures decode correctly in each variant, how many do not, and what they miss."""
    heads = ("exporter", "backend", "mode", "decode correctly", "the others", "violate a should clause")
    rows = (
        [
            *map(prose, (each.variant.subject, each.variant.backend, each.variant.mode)),
            f"**{each.decoding} of {each.of}**"
            + (f" (variations: {each.varied_decoding} of {each.varied})" * bool(each.varied)),
            each.others,
            ", ".join(map(_missed, each.missed)),
        ]
        for each in found
    )
    return table(heads, rows)


def _missed(each: Missed) -> str:
    numbers = ((each.known, "≈"), (each.unexpected, "✗"))
    return f"{prose(each.clause)} {' '.join(f'{glyph}{number}' for number, glyph in numbers if number)}"


def legend() -> list[str]:
    """What the signs and words of statuses mean."""
    rows = (
        (f"{' '.join(glyph for glyph, _ in SIGNS[reached])} {reached}", meaning)
        for reached, meaning in MEANINGS.items()
    )
    return [
        "≈ is expected, exactly as listed in the known failures; ✗ is unexpected. Behind a status are the clauses that "
        "are violated though the program gets so far; those without a sign are known. A status covers all clauses of "
        "that architecture, exporter, backend and mode, and also those of its fixture and of the exported program.",
        "",
        *table(("status", "meaning"), rows),
    ]


def not_judged(run: RunRecord, name: str) -> list[str]:
    """A warning that `run`, which the text calls `name`, is not complete, or which cells it did not run again."""
    if run.nothing_missing:
        return ["", unchanged(run)] if run.left_out else []
    missing = plural(sum(cell.verdict is Verdict.NOT_RUN for cell in run.cells), "cell")
    ended = "It was stopped early" if run.run.finished else "It did not finish"
    return [
        *("", "> [!WARNING]"),
        f"> **{name} is not complete.** {ended}: {missing} of its record were not run, and others may be missing. "
        "Missing results are not passes.",
    ]
