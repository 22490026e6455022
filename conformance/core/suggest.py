"""The error message for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from conformance.core.text import first_few

#: Known names that are listed where none is similar.
_LISTED = 30


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """`No such architecture 'lama'. Did you mean 'llama'?`, or the known names if none is similar."""
    folded = {each.casefold(): str(each) for each in sorted(known)}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    hint = f"Did you mean {folded[near[0]]!r}?" if near else f"Known: {first_few(sorted(known), _LISTED)}"
    return f"No such {kind} {name!r}. {hint}"


def unknown_architecture(name: str, known: Collection[str]) -> str:
    """As `unknown`; the name of a model on the Hub, or a path, gets the option for it."""
    if "/" in name or "\\" in name:
        return (
            f"{name!r} is not an architecture (a model_type of Transformers, such as 'llama'); for a model in a "
            "directory, use --checkpoint DIR"
        )
    return unknown("architecture", name, known)


def unknown_exporter(name: str, known: Collection[str]) -> str:
    """As `unknown`, with the way to write an exporter that has no name here."""
    return _with_others("exporter", name, known, "Others are written package.module:callable")


def unknown_backend(name: str, known: Collection[str]) -> str:
    """As `unknown`, with the ways to write a backend that has no name here."""
    others = "Others are written package.module:NAME, or recipe:NAME for a recipe of ExecuTorch's"
    return _with_others("backend", name, known, others)


def _with_others(kind: str, name: str, known: Collection[str], others: str) -> str:
    message = unknown(kind, name, known)
    return f"{message} {others}" if message.endswith("?") else f"{message}. {others}"
