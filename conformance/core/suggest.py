"""The error message for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """`no architecture 'lama'; did you mean 'llama'?`, or the known names if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {str(near[0])!r}?" if near else f"known: {', '.join(sorted(known))}"
    return f"no {kind} {name!r}; {hint}"
