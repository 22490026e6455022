"""The compatibility page: how far each architecture gets with which versions, and what differs between them and why.

The same records always give the same page: everything on it is sorted and comes from them.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from conformance.core.cells import EXPORTED
from conformance.core.console import FORMER_OPTIONS
from conformance.core.text import format_counts, plural
from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord, RunRecord

from .analysis import analyse
from .analysis.causes import Cause, causes
from .analysis.status import clause_order
from .loading import when
from .markdown import code, incomplete, legend, link, prose, table

#: Longest command or message on the page, in characters.
_LONGEST = 1000
#: Options that a user types. The others, such as the hash of the matrix, are only recorded.
_TYPED = ("arch", "subject", "backend", "mode", "clause", "tier", "shard", "examples", "since")


class _Versions(NamedTuple):
    """The versions of one column."""

    transformers: str
    executorch: str
    torch: str

    @property
    def order(self) -> tuple[tuple[bool, Version, str], ...]:
        """The order of versions; one that is not a version number, as of a checkout, counts as newer than any."""
        return tuple(map(_order, self))

    def before(self, other: _Versions) -> bool:
        """Whether one of them is older than in `other`, and none is newer."""
        return self != other and all(mine <= theirs for mine, theirs in zip(self.order, other.order, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class _Change:
    """Cells with an outcome that they have with some versions only."""

    cause: Cause
    versions: tuple[_Versions, ...]

    @property
    def rank(self) -> int:
        """Unexpected failures come first, and not-applicable comes last."""
        if self.cause.outcome.verdict is Verdict.NOT_APPLICABLE:
            return 2
        return 1 if self.cause.known else 0


#: The runs with each set of versions, as one; older versions first.
_Judged = Mapping[_Versions, RunRecord]
#: The name of each set of versions, in parts; the first is that of Transformers.
_Names = Mapping[_Versions, tuple[str, ...]]


def compatibility_page(runs: Sequence[RunRecord]) -> str:
    """The page as `docs/compatibility.md`.

    Raises:
        ValueError: There are no runs, or one does not record its versions.
    """
    if not runs:
        raise ValueError("a compatibility page needs the record of at least one run")
    runs = sorted(runs, key=lambda run: (_versions(run).order, when(run.run.started), run.run.id))
    judged = _judged(runs)
    names = _names(judged)
    lines = [
        "# Compatibility",
        "",
        "How far each architecture gets with which versions. Generated from the records of "
        f"{plural(len(runs), 'run')}; do not edit it. [Reading a run](reading-a-run.md) explains the "
        "words, [the contract](contract.md) the clauses, [versions](versions.md) how to put others under test.",
        *(line for run in runs for line in incomplete(run, f"Run {code(run.run.id)}")),
        *("", "## What was run", "", *map(_run_line, runs)),
        *("", "## Results", "", *legend(), ""),
        "Clauses that a run did not select do not count in its column.",
        "An entry is also empty if that Transformers does not have the architecture.",
        *_grids(judged, names),
        *_differences(judged, names),
    ]
    return "\n".join(lines) + "\n"


# What the records say


def _versions(run: RunRecord) -> _Versions:
    packages = run.environment.packages
    missing = [name for name in _Versions._fields if name not in packages]
    if missing:
        raise ValueError(f"run {run.run.id} does not record the version of {missing[0]}")
    return _Versions(*(packages[name] for name in _Versions._fields))


def _order(text: str) -> tuple[bool, Version, str]:
    try:
        return False, Version(text), text
    except InvalidVersion:
        return True, Version("0"), text


def _judged(runs: Iterable[RunRecord]) -> _Judged:
    """The cells of `runs`, in their order: a later verdict on a cell replaces an earlier one."""
    judged: dict[_Versions, RunRecord] = {}
    for run in runs:
        versions = _versions(run)
        cells = {cell.id: cell for each in (judged.get(versions), run) if each for cell in each.cells}
        judged[versions] = dataclasses.replace(run, cells=tuple(cells.values()))
    return judged


def _names(judged: Iterable[_Versions]) -> _Names:
    """The names of versions; torch is left out if it is the same everywhere."""
    known = list(judged)
    several = len({versions.torch for versions in known}) > 1
    return {
        versions: (
            prose(f"Transformers {versions.transformers}"),
            prose(f"ExecuTorch {versions.executorch}"),
            *([prose(f"torch {versions.torch}")] if several else []),
        )
        for versions in known
    }


def _run_line(run: RunRecord) -> str:
    """The versions, the command, the date and the verdicts of a run."""
    info, packages = run.run, run.environment.packages
    typed = {name: FORMER_OPTIONS.get(f"--{name}", f"--{name}") for name in _TYPED}
    given = [
        f"{typed[name]} {shlex.quote(str(info.options[name]))}" for name in typed if info.options.get(name) is not None
    ]
    given += [f"--hypothesis-seed {info.seed}"] if info.seed is not None else []
    command = code(" ".join(["conformance run", *given]), _LONGEST)
    versions = ", ".join(f"{name} {packages[name]}" for name in _Versions._fields)
    counts = Counter(cell.verdict for cell in run.cells)
    verdicts = format_counts((verdict, counts[verdict]) for verdict in Verdict)
    commit = f", commit {code(info.commit[:12])}" if info.commit else ""
    day = when(info.started).date().isoformat()
    return f"- {prose(versions)}: {command}, {day}{commit}. {plural(len(run.cells), 'cell')}: {verdicts}."


# The parts of the page


def _grids(judged: _Judged, names: _Names) -> Iterator[str]:
    """A table for each exporter and backend: a row for each architecture and mode, a column for each versions."""
    statuses = {
        (versions, each.name, state.variant): str(state.status)
        for versions, run in judged.items()
        for each in analyse([run]).architectures
        for state in each.covered
        if state.variant.subject
    }
    variants = sorted(
        {variant for _, _, variant in statuses}, key=lambda each: (each.subject, each.backend != EXPORTED, each)
    )
    subject = None
    for first in dict.fromkeys(dataclasses.replace(variant, mode="") for variant in variants):
        if first.subject != subject:
            subject = first.subject
            yield from ("", f"## Exporter {code(subject)}")
        yield from ("", f"### On {code(first.backend)}", "")
        rows = sorted(
            {(name, variant) for _, name, variant in statuses if dataclasses.replace(variant, mode="") == first}
        )
        lines = (
            [
                prose(name),
                prose(variant.mode),
                *(prose(statuses.get((versions, name, variant), "")) for versions in judged),
            ]
            for name, variant in rows
        )
        yield from table(["architecture", "mode", *("<br>".join(names[versions]) for versions in judged)], lines)


def _differences(judged: _Judged, names: _Names) -> Iterator[str]:
    yield from ("", "## What differs", "")
    if len(judged) < 2:
        yield "Nothing to compare: all runs have the same versions."
        return
    yield from (
        "Each set of versions against the next older ones. Only cells that both have judged are counted.",
        "",
        "| from | to | cells | pass only in the first | pass only in the second | fail differently |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(_step(old, new, judged, names) for old, new in _steps(judged)),
        "",
        "Failures that are the same with all versions are not listed here but in [the status page](status.md).",
        *_causes(judged, names),
    )


def _steps(judged: _Judged) -> Iterator[tuple[_Versions, _Versions]]:
    """Pairs with no other versions in between: in a full grid, those where one package changes by one release."""
    for new in judged:
        for old in judged:
            if old.before(new) and not any(old.before(between) and between.before(new) for between in judged):
                yield old, new


def _step(old: _Versions, new: _Versions, judged: _Judged, names: _Names) -> str:
    after = {cell.id: cell for cell in judged[new].cells}
    both = [(cell, after[cell.id]) for cell in judged[old].cells if cell.id in after]
    kept = [pair for pair in both if all(cell.verdict is not Verdict.NOT_RUN for cell in pair)]
    changed = [pair for pair in kept if _outcome(pair[0]) != _outcome(pair[1])]
    first, second = ([pair[side].verdict is Verdict.PASS for pair in changed].count(True) for side in (0, 1))
    numbers = (len(kept), first, second, len(changed) - first - second)
    return f"| {', '.join(names[old])} | {', '.join(names[new])} | {' | '.join(map(str, numbers))} |"


def _outcome(cell: CellRecord) -> tuple[Verdict, str]:
    """The outcome of a cell. Outcomes that differ only in their messages are equal."""
    return cell.verdict, cell.signature or ""


def _causes(judged: _Judged, names: _Names) -> Iterator[str]:
    """The outcomes that differ between versions, by cause and versions."""
    by_cell: defaultdict[str, dict[_Versions, CellRecord]] = defaultdict(dict)
    for versions, run in judged.items():
        for cell in run.cells:
            if cell.verdict is not Verdict.NOT_RUN:
                by_cell[cell.id][versions] = cell
    differing: defaultdict[tuple[_Versions, ...], list[CellRecord]] = defaultdict(list)
    for _, by_versions in sorted(by_cell.items()):
        outcomes = {versions: _outcome(cell) for versions, cell in by_versions.items()}
        for outcome in dict.fromkeys(outcomes.values()) if len(set(outcomes.values())) > 1 else ():
            equal = tuple(versions for versions in outcomes if outcomes[versions] == outcome)
            differing[equal].append(by_versions[equal[0]])
    changes = [_Change(cause, equal) for equal, cells in differing.items() for cause in (*causes(cells), *_na(cells))]
    if not changes:
        yield from ("", "No differences: every cell has the same outcome with all versions that it was judged with.")

    def order(change: _Change) -> tuple[object, ...]:
        cause = change.cause
        return change.rank, -len(cause.cells), cause.title, cause.page, [each.order for each in change.versions]

    for change in sorted(changes, key=order):
        yield from _paragraph(change, by_cell, names)


def _na(cells: Iterable[CellRecord]) -> Iterator[Cause]:
    """The cells that no clause applies to, by the fact that makes it so."""
    alike: defaultdict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.verdict is Verdict.NOT_APPLICABLE:
            alike[cell.message or ""].append(cell)
    for message, found in alike.items():
        yield Cause(Verdict.NOT_APPLICABLE, message, "", tuple(found))


def _paragraph(change: _Change, by_cell: Mapping[str, Mapping[_Versions, CellRecord]], names: _Names) -> Iterator[str]:
    cause = change.cause
    elsewhere = Counter(
        cell.verdict
        for each in cause.cells
        for versions, cell in by_cell[each.id].items()
        if versions not in change.versions
    )
    columns = sorted({" ".join(filter(None, (cell.subject, cell.backend, cell.mode))) for cell in cause.cells})
    clauses = sorted({cell.clause for cell in cause.cells}, key=clause_order)
    yield from (
        "",
        f"### {cause.outcome.glyph} {prose(cause.title)}",
        "",
        f"- signature: {code(cause.signature)}",
        f"- {cause.outcome.verdict} with {'; '.join(_together(names[versions] for versions in change.versions))}",
        f"- other versions: {format_counts((each, elsewhere[each]) for each in Verdict)}",
        f"- {plural(len(cause.cells), 'cell')} of {', '.join(map(code, columns))}",
        f"- architectures: {', '.join(map(code, sorted(cause.architectures)))}",
        f"- clauses: {', '.join(map(code, clauses))}",
        f"- reason: {prose(cause.reason) if cause.reason else '**unexplained**'}",
        *(f"- link: {link(url)}" for url in sorted(cause.links)),
    )
    if change.rank == 0:
        yield f"- example: {code(cause.example, _LONGEST)}"
        if cause.first.replay:
            yield f"- replay: {code(cause.first.replay, _LONGEST)}"


def _together(names: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Names of versions, with those of the same Transformers together."""
    by_transformers: defaultdict[str, list[str]] = defaultdict(list)
    for transformers, *others in names:
        by_transformers[transformers].append(", ".join(others))
    for transformers, others in by_transformers.items():
        yield f"{transformers} ({'; '.join(others)})"
