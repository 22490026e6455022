"""`python -m benchmarks RESULTS.json`: the ratios in what pytest-benchmark wrote; exits with 1 if one is too large."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pairs import ratios


def main(arguments: list[str]) -> int:
    """Print them, the worst against its bound first."""
    if len(arguments) != 1:
        print("error: python -m benchmarks RESULTS.json", file=sys.stderr)
        return 2
    try:
        found = ratios(json.loads(Path(arguments[0]).read_text(encoding="utf-8"))["benchmarks"])
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {arguments[0]}: {error}", file=sys.stderr)
        return 2
    table = Table("", "ours / base", "bound", "ours", "base", box=None, pad_edge=False)
    for each in sorted(found, key=lambda ratio: -ratio.value / ratio.bound):
        measured = (f"{value:.4g}" for value in (each.ours, each.base))
        table.add_row(f"{'✓' if each.holds else '✗'} {each.name}", f"{each.value:.3f}", f"{each.bound:g}", *measured)
    Console(highlight=False, width=140).print(table)
    return 0 if all(each.holds for each in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
