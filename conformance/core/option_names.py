"""Names of the options of a run: today's, former ones, and the keys that records have for them."""

from __future__ import annotations

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


def option_of(key: str) -> str:
    """The option whose value a record has under `key`, which may be its former name; other keys are themselves."""
    return key if key == "matrix" else FORMER_OPTIONS.get(f"--{key}", f"--{key}")
