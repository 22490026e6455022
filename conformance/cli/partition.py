"""`conformance inspect partition`: a program's delegated and undelegated operators, with reasons and sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table

from conformance.core.cells import Program
from conformance.matrix.delegation import baseline
from conformance.pipeline.artifact import Artifact, UndelegatedNode
from conformance.records.environment import versions

#: Lines of a model that are shown for one operator before "and N more".
_SHOWN = 2
_LEFT = "not delegated"


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
    undelegated = "\n".join(["", *_undelegated(partition.undelegated_nodes)])
    return Group("\n".join(facts), _delegated(partition.delegated), undelegated)


def show(page: RenderableType) -> None:
    """Print it; the terminal breaks lines that are too long for it, and a pipe gets them whole."""
    Console(highlight=False, markup=False).print(page, soft_wrap=True)


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
    table = Table("delegated", box=None, pad_edge=False)
    table.add_column("count", justify="right")
    for name, count in sorted(operators.items(), key=lambda item: -item[1]):
        table.add_row(name, str(count))
    return table


def _undelegated(nodes: Iterable[UndelegatedNode]) -> Iterator[str]:
    """A line for each operator, and below it why and where it comes from: in a column, both would be cut to pieces."""
    by_name: dict[str, list[UndelegatedNode]] = {}
    for node in nodes:
        by_name.setdefault(node.operator, []).append(node)
    width = max(map(len, (*by_name, _LEFT)))
    yield f"{_LEFT:{width}}  count  bytes a token"
    for name, alike in sorted(by_name.items(), key=lambda item: -sum(node.moved for node in item[1])):
        yield f"{name:{width}}  {len(alike):5}  {sum(node.moved for node in alike):13,}"
        yield from (f"  reason  {reason}" for reason in dict.fromkeys(node.reason for node in alike if node.reason))
        yield from (f"  source  {source}" for source in _sources(alike))


def _sources(nodes: Iterable[UndelegatedNode]) -> Iterator[str]:
    sources = list(dict.fromkeys(f"{node.values}  {node.source}" for node in nodes))
    yield from sources[:_SHOWN]
    if len(sources) > _SHOWN:
        yield f"and {len(sources) - _SHOWN} more"
