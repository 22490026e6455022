"""The addresses of the site's pages, and of lists that are filtered."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from conformance.core.contract import CLAUSES
from conformance.core.text import sanitize

from .analysis.variants import Variant
from .names import slug

_CLAUSES = frozenset(clause.id for clause in CLAUSES)

#: Sections of an architecture's page that explain cells that are not failures.
NOT_RUN, NOT_APPLICABLE = "not-run", "not-applicable"


def architecture_page(name: str) -> str:
    """The address of an architecture's page."""
    return f"architectures/{slug(name)}.html"


def grid_page(variant: Variant) -> str:
    """The address of the stages of a variant."""
    return f"grid/{slug(variant.subject, variant.backend, variant.mode)}.html"


def versions_page(variant: Variant, first: Variant | None) -> str:
    """The address of a variant with other versions; `first` is the variant of the page that the navigation names."""
    return (
        "versions.html" if variant == first else f"versions/{slug(variant.subject, variant.backend, variant.mode)}.html"
    )


def clause_page(clause: str) -> str:
    """The address of a clause's page."""
    # No other id has the name of one in the contract: `slug` has only lower case, and marks what it changed.
    return f"clauses/{clause if clause in _CLAUSES else slug('', clause)}.html"


def chosen(**choices: str) -> str:
    """The fragment of an address that filters a list, such as ``#state=blocked``."""
    given = {name: sanitize(value) for name, value in choices.items() if value}
    return f"#{urlencode(given, quote_via=quote)}"
