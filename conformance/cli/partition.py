"""`python -m conformance partition`: what a backend took of a program, what it left, why, and where that came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table

from conformance.core.cells import Cell
from conformance.matrix.delegation import baseline
from conformance.pipeline.lowering import Artifact
from conformance.pipeline.partition import LeftOut
from conformance.records.environment import versions

#: Lines of a model that are shown for one operator before "and N more".
_SHOWN = 2


def partition_page(cell: Cell, artifact: Artifact) -> RenderableType:
    """Everything about the partition of one program.

    Args:
        cell: Its architecture, subject, backend and mode; any clause.
        artifact: The program.
    """
    partition, emission = artifact.partition, artifact.emission
    taken, left = sum(partition.delegated.values()), len(partition.left)
    share = f" ({taken / (taken + left):.1%})" if taken + left else ""
    delegates = ", ".join(f"{count} × {name}" for name, count in partition.delegates.items()) or "none"
    facts = [
        f"{cell.architecture} · {cell.subject} · {cell.column}",
        f"  delegates  {delegates}; {taken} of {taken + left} operators{share}",
        f"  program    {len(artifact.program):,} bytes, of them {emission.constant_bytes:,} for constants",
        f"  memory     {emission.planned_bytes:,} bytes planned, of them {emission.cache_bytes:,} for caches",
        f"  lowering   {artifact.lower_s:.1f} s, emitting {artifact.emit_s:.1f} s when it was made",
        f"  baseline   {_against_baseline(cell, partition.undelegated)}",
        "",
    ]
    return Group("\n".join(facts), _delegated(partition.delegated), _left(partition.left))


def show(page: RenderableType) -> None:
    """Print it, as wide as the terminal is."""
    Console(highlight=False, markup=False).print(page)


def _against_baseline(cell: Cell, found: Mapping[str, int]) -> str:
    known = baseline(cell, versions())
    if known is None:
        return "none lists this program"
    names = sorted({*found, *known.left})
    told = [f"{name} {known.left.get(name, 0)} → {found.get(name, 0)}" for name in names]
    differing = [each for each, name in zip(told, names, strict=True) if known.left.get(name) != found.get(name)]
    return f"{known.source}: {', '.join(differing) or 'as listed'}"


def _delegated(operators: Mapping[str, int]) -> Table:
    table = Table("delegated", "count", title_justify="left", box=None, pad_edge=False)
    for name, count in sorted(operators.items(), key=lambda item: -item[1]):
        table.add_row(name, str(count))
    return table


def _left(operators: Iterable[LeftOut]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("\nleft out", no_wrap=True)
    for heading in ("\ncount", "\nwhy", "\nwhere from"):
        table.add_column(heading, overflow="fold")
    by_name: dict[str, list[LeftOut]] = {}
    for each in operators:
        by_name.setdefault(each.operator, []).append(each)
    for name, alike in sorted(by_name.items(), key=lambda item: -len(item[1])):
        why = dict.fromkeys(each.why for each in alike if each.why)
        table.add_row(name, str(len(alike)), "; ".join(why), "\n".join(_sources(alike)))
    return table


def _sources(alike: Iterable[LeftOut]) -> Iterator[str]:
    sources = list(dict.fromkeys(f"{each.values}  {each.source}" for each in alike))
    yield from sources[:_SHOWN]
    if len(sources) > _SHOWN:
        yield f"and {len(sources) - _SHOWN} more"
