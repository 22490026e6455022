"""`conformance inspect partition`: a program's delegated and undelegated operators, with reasons and sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table

from conformance.core.cells import Program
from conformance.matrix.delegation import baseline
from conformance.pipeline.lowering import Artifact
from conformance.pipeline.partition import UndelegatedNode
from conformance.records.environment import versions

#: Lines of a model that are shown for one operator before "and N more".
_SHOWN = 2


def partition_page(program: Program, artifact: Artifact) -> RenderableType:
    """Everything about the partition of `program`, which `artifact` holds."""
    partition, emission = artifact.partition, artifact.emission
    delegated = sum(partition.delegated.values())
    total = delegated + len(partition.undelegated_nodes)
    share = f" ({delegated / total:.1%})" if total else ""
    delegates = ", ".join(f"{count} × {name}" for name, count in partition.delegates.items()) or "none"
    facts = [
        f"{program.architecture} · {program.exporter} · {program.backend} {program.mode}",
        f"  delegates  {delegates}; {delegated} of {total} operators{share}",
        f"  program    {len(artifact.program):,} bytes, of them {emission.constant_bytes:,} for constants",
        f"  memory     {emission.planned_bytes:,} bytes planned, of them {emission.cache_bytes:,} for caches",
        f"  lowering   {artifact.lower_s:.1f} s, emitting {artifact.emit_s:.1f} s when it was made",
        f"  baseline   {_against_baseline(program, partition.undelegated)}",
        "",
    ]
    return Group("\n".join(facts), _delegated(partition.delegated), _undelegated(partition.undelegated_nodes))


def show(page: RenderableType) -> None:
    """Print it, as wide as the terminal is."""
    Console(highlight=False, markup=False).print(page)


def _against_baseline(program: Program, undelegated: Mapping[str, int]) -> str:
    known = baseline(program, versions())
    if known is None:
        return "none lists this program"
    changes = [
        f"{name} {known.left.get(name, 0)} → {undelegated.get(name, 0)}"
        for name in sorted({*undelegated, *known.left})
        if known.left.get(name) != undelegated.get(name)
    ]
    return f"{known.source}: {', '.join(changes) or 'as listed'}"


def _delegated(operators: Mapping[str, int]) -> Table:
    table = Table("delegated", "count", title_justify="left", box=None, pad_edge=False)
    for name, count in sorted(operators.items(), key=lambda item: -item[1]):
        table.add_row(name, str(count))
    return table


def _undelegated(nodes: Iterable[UndelegatedNode]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("\nnot delegated", no_wrap=True)
    for heading in ("\ncount", "bytes\na token", "\nreason", "\nsource"):
        table.add_column(heading, overflow="fold")
    by_name: dict[str, list[UndelegatedNode]] = {}
    for node in nodes:
        by_name.setdefault(node.operator, []).append(node)
    for name, alike in sorted(by_name.items(), key=lambda item: -sum(node.moved for node in item[1])):
        reasons = dict.fromkeys(node.reason for node in alike if node.reason)
        moved = f"{sum(node.moved for node in alike):,}"
        table.add_row(name, str(len(alike)), moved, "; ".join(reasons), "\n".join(_sources(alike)))
    return table


def _sources(nodes: Iterable[UndelegatedNode]) -> Iterator[str]:
    sources = list(dict.fromkeys(f"{node.values}  {node.source}" for node in nodes))
    yield from sources[:_SHOWN]
    if len(sources) > _SHOWN:
        yield f"and {len(sources) - _SHOWN} more"
