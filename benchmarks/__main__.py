"""Print the ratios that benchmarks measured, with their bounds; or docs/performance/programs.md from results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pairs import Ratio, ratios
from benchmarks.programs.page import absences, all_met, bound_table, figure_table, performance_page
from benchmarks.programs.results import Results, load, merged, write
from conformance.core.paths import ROOT

PAGE = ROOT / "docs" / "performance" / "programs.md"
#: The results that the page is printed from.
RECORDS = ROOT / "docs" / "records" / "performance"
_WIDTH = 160


def main(arguments: Sequence[str]) -> int:
    """Print them; exits with 1 where a bound does not hold, with 2 where a file is not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="RESULTS.json",
        help="what pytest-benchmark or benchmarks/programs wrote; one that is missing or empty is passed over",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="print docs/performance/programs.md from these results of benchmarks/programs and keep them in "
        "docs/records/performance; without results, from those that are kept there",
    )
    given = parser.parse_args(arguments)
    try:
        if given.publish:
            return _publish(given.results)
        found = [path for path in given.results if path.is_file() and path.stat().st_size]
        if not found:
            raise ValueError(f"nothing was measured: {', '.join(map(str, given.results)) or 'no results'}")
        held = [_print_programs([load(path)]) if _of_programs(path) else _print_suite(path) for path in found]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if all(held) else 1


def _publish(paths: Sequence[Path]) -> int:
    results = [load(path) for path in paths or sorted(RECORDS.glob("*.json"))]
    PAGE.write_text(performance_page(results), encoding="utf-8")
    if paths:
        for old in RECORDS.glob("*.json"):
            old.unlink()
        for number, each in enumerate(results, 1):
            write(RECORDS / f"{number:02}.json", each)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def _of_programs(path: Path) -> bool:
    values = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(values, dict) and "rows" in values


def _print_suite(path: Path) -> bool:
    """The worst against its bound first."""
    try:
        found = ratios(json.loads(path.read_text(encoding="utf-8"))["benchmarks"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    heads = ("", "ours / base", "bound", "ours", "base")
    _print_table(heads, (_ratio(each) for each in sorted(found, key=lambda ratio: -ratio.value / ratio.bound)))
    return all(each.holds for each in found)


def _ratio(each: Ratio) -> list[str]:
    mark = "✓" if each.holds else "✗"
    return [f"{mark} {each.name}", f"{each.value:.3f}", f"{each.bound:g}", f"{each.ours:.4g}", f"{each.base:.4g}"]


def _print_programs(several: Sequence[Results]) -> bool:
    rows = merged(several)
    for row in rows:
        print(f"\n{row.shape}, {row.dtype}, cache {row.cache}, {row.mode}; {row.bandwidth / 1e9:.1f} GB/s")
        _print_table(*figure_table(row))
        for name, why in absences(row):
            print(f"{name}: {why}")
    print()
    _print_table(*bound_table(rows))
    return all_met(rows)


def _print_table(heads: Sequence[str], body: Iterable[Sequence[str]]) -> None:
    table = Table(*heads, box=None, pad_edge=False)
    for cells in body:
        table.add_row(*cells)
    Console(highlight=False, width=_WIDTH).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
