"""The compatibility page: how far each architecture gets with which versions, and what differs between them and why.

The same records always give the same page: everything on it is sorted and comes from them.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from conformance.core.console import FORMER_OPTIONS
from conformance.core.text import format_counts, plural
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord

from .causes import example_line
from .loading import when
from .markdown import code, incomplete, link, prose, table
from .progress import LEGEND, Progress, clauses_of, columns_of, progress_of

_COMMAND = "conformance docs --compatibility RUN.json [RUN.json ...]"
#: Failing clauses named in an entry before "N more".
_SHOWN = 2
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


class _Outcome(NamedTuple):
    """The outcome of a cell. Outcomes that differ only in their messages are equal."""

    verdict: Verdict
    signature: str

    @classmethod
    def of(cls, cell: CellRecord) -> _Outcome:
        """The outcome of `cell`."""
        return cls(cell.verdict, cell.signature or "")


class _Cause(NamedTuple):
    """An outcome, its reason if that is known, and the versions that have it."""

    outcome: _Outcome
    reason: str
    versions: tuple[_Versions, ...]

    @property
    def rank(self) -> int:
        """Unexplained failures come first, and not-applicable comes last."""
        verdict = self.outcome.verdict
        return 2 if verdict is Verdict.NOT_APPLICABLE else 1 if verdict in ACCEPTABLE else 0


#: The cells judged with each set of versions, by their ids; older versions first.
_Judged = Mapping[_Versions, Mapping[str, CellRecord]]
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
        f"{plural(len(runs), 'run')} by `{_COMMAND}`; do not edit it. [Reading a run](reading-a-run.md) explains the "
        "words, [the contract](contract.md) the clauses, [versions](versions.md) how to put others under test.",
        *(line for run in runs for line in incomplete(run, f"Run {code(run.run.id)}")),
        *("", "## What was run", "", *map(_run_line, runs)),
        *("", "## Results", "", *LEGEND.splitlines(), ""),
        "The first failing clauses are in parentheses. Clauses that a run did not select do not count in its column.",
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
    judged: dict[_Versions, dict[str, CellRecord]] = {}
    for run in runs:
        judged.setdefault(_versions(run), {}).update({cell.id: cell for cell in run.cells})
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
    """A table for each subject and backend: a row for each architecture and mode, a column for each set of versions."""
    progress = {versions: progress_of(cells.values()) for versions, cells in judged.items()}
    columns = columns_of(row for rows in progress.values() for row in rows.values())
    subject = None
    for first in dict.fromkeys(column._replace(mode="") for column in columns):
        if first.subject != subject:
            subject = first.subject
            yield from ("", f"## Subject {code(subject)}")
        yield from ("", f"### On {code(first.backend)}", "")
        modes = [column for column in columns if column._replace(mode="") == first]
        lines = []
        for architecture in sorted({name for rows in progress.values() for name in rows}):
            for column in modes:
                entries = [rows.get(architecture, {}).get(column) for rows in progress.values()]
                if any(entries):
                    texts = (_entry(entry) if entry else "" for entry in entries)
                    lines.append([prose(architecture), prose(column.mode), *texts])
        yield from table(["architecture", "mode", *("<br>".join(names[versions]) for versions in judged)], lines)


def _entry(progress: Progress) -> str:
    more = len(progress.stopping) - _SHOWN
    clauses = [*map(prose, progress.stopping[:_SHOWN]), *([f"{more} more"] if more > 0 else [])]
    return f"{progress} ({', '.join(clauses)})" if clauses else str(progress)


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
    both = [(cell, judged[new][key]) for key, cell in judged[old].items() if key in judged[new]]
    kept = [pair for pair in both if all(cell.verdict is not Verdict.NOT_RUN for cell in pair)]
    changed = [pair for pair in kept if _Outcome.of(pair[0]) != _Outcome.of(pair[1])]
    first, second = ([pair[side].verdict is Verdict.PASS for pair in changed].count(True) for side in (0, 1))
    numbers = (len(kept), first, second, len(changed) - first - second)
    return f"| {', '.join(names[old])} | {', '.join(names[new])} | {' | '.join(map(str, numbers))} |"


def _causes(judged: _Judged, names: _Names) -> Iterator[str]:
    """The outcomes that differ between versions, by outcome, reason and versions."""
    by_cell: defaultdict[str, dict[_Versions, CellRecord]] = defaultdict(dict)
    for versions, cells in judged.items():
        for key, cell in cells.items():
            if cell.verdict is not Verdict.NOT_RUN:
                by_cell[key][versions] = cell
    causes: defaultdict[_Cause, list[dict[_Versions, CellRecord]]] = defaultdict(list)
    for _, by_versions in sorted(by_cell.items()):
        outcomes = {versions: _Outcome.of(cell) for versions, cell in by_versions.items()}
        differing = set(outcomes.values())
        for outcome in differing if len(differing) > 1 else ():
            equal = tuple(versions for versions in outcomes if outcomes[versions] == outcome)
            if outcome.verdict is not Verdict.PASS:
                causes[_Cause(outcome, _reason(by_versions[equal[0]]), equal)].append(by_versions)
    if not causes:
        yield from ("", "No differences: every cell has the same outcome with all versions that it was judged with.")

    def order(item: tuple[_Cause, list[dict[_Versions, CellRecord]]]) -> tuple[object, ...]:
        cause, alike = item
        return cause.rank, -len(alike), cause.outcome, cause.reason, [versions.order for versions in cause.versions]

    for cause, alike in sorted(causes.items(), key=order):
        yield from _paragraph(cause, alike, names)


def _reason(cell: CellRecord) -> str:
    """The recorded reason; empty if there is none, or if the cell fails differently from its known failure."""
    if cell.verdict is Verdict.NOT_APPLICABLE:
        return cell.message or ""
    return cell.expected.reason if cell.expected and cell.verdict in ACCEPTABLE else ""


def _paragraph(cause: _Cause, alike: Sequence[Mapping[_Versions, CellRecord]], names: _Names) -> Iterator[str]:
    cells = [by_versions[versions] for by_versions in alike for versions in cause.versions]
    first = cells[0]
    elsewhere = Counter(
        cell.verdict
        for by_versions in alike
        for versions, cell in by_versions.items()
        if versions not in cause.versions
    )
    columns = sorted({" ".join(filter(None, (cell.subject, cell.backend, cell.mode))) for cell in cells})
    links = (
        sorted({cell.expected.link for cell in cells if cell.expected and cell.expected.link}) if cause.reason else []
    )
    verdict, signature = cause.outcome
    yield from (
        "",
        f"### {'✗≈–'[cause.rank]} {code(signature or verdict)}",
        "",
        f"- {verdict} with {'; '.join(_together(names[versions] for versions in cause.versions))}",
        f"- other versions: {format_counts((each, elsewhere[each]) for each in Verdict)}",
        f"- {plural(len(alike), 'cell')} of {', '.join(map(code, columns))}",
        f"- architectures: {', '.join(map(code, sorted({cell.architecture for cell in cells})))}",
        f"- clauses: {', '.join(map(code, clauses_of(cells)))}",
        f"- reason: {prose(cause.reason) if cause.reason else '**unexplained**'}",
        *(f"- link: {link(url)}" for url in links),
    )
    if cause.rank == 0:
        yield f"- example: {code(example_line(first.message or verdict), _LONGEST)}"
        if first.replay:
            yield f"- replay: {code(first.replay, _LONGEST)}"


def _together(names: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Names of versions, with those of the same Transformers together."""
    by_transformers: defaultdict[str, list[str]] = defaultdict(list)
    for transformers, *others in names:
        by_transformers[transformers].append(", ".join(others))
    for transformers, others in by_transformers.items():
        yield f"{transformers} ({'; '.join(others)})"
