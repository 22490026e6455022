"""Names of the options of a run: current ones, former ones, and their keys in records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_T = TypeVar("_T")

#: Former names of options, which still work.
FORMER_OPTIONS = {
    "--bundles": "--failures-dir",
    "--examples": "--max-examples",
    "--record": "--output",
    "--store": "--cache-dir",
    "--store-limit": "--cache-limit",
    "--subject": "--exporter",
    "--trust-subject": "--allow-import",
}


#: What else a record has among its options.
_NO_OPTIONS = {"matrix": "matrix", "division": "division into shards"}


def option_of(key: str) -> str:
    """The option whose value a record has under `key`, which may be its former name; words for other keys."""
    return _NO_OPTIONS.get(key) or FORMER_OPTIONS.get(f"--{key}", f"--{key}")


def by_option(recorded: Mapping[str, _T]) -> dict[str, _T]:
    """The options of a run from its record, by their current names."""
    return {option_of(key): value for key, value in recorded.items()}
