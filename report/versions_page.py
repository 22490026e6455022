"""The compatibility page: how far each architecture gets with which versions, and what differs between them and why.

Everything on it comes from the records of runs with different versions, as on the status page: sorted, so that the same
records always give the same page, and escaped. Imports no torch.
"""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord
from report.pages import address, code, counted, gist, moment, prose, unfinished
from report.progress import LEGEND, Place, clauses_of, columns_of, places_of

_COMMAND = "python -m conformance compatibility RUN.json [RUN.json ...] > docs/compatibility.md"
#: Clauses named in a place that stops somewhere, before "and N more".
_SHOWN = 2
#: Options that name what is judged. The others, such as the hash of the matrix, nobody types.
_TYPED = ("arch", "subject", "backend", "mode", "clause", "tier", "shard", "examples", "since")


class _Versions(NamedTuple):
    """What a column of the page is about; these decide what a program comes to."""

    transformers: str
    executorch: str
    torch: str

    @property
    def order(self) -> tuple[tuple[bool, Version, str], ...]:
        """By what the numbers mean; a version that is none, as of a checkout, counts as newer than any."""
        return tuple(map(_order, self))

    def before(self, other: _Versions) -> bool:
        """Whether something is older than in `other`, and nothing newer."""
        return self != other and all(mine <= theirs for mine, theirs in zip(self.order, other.order, strict=True))


class _Outcome(NamedTuple):
    """How a cell ended. Two are the same where nothing but the wording of a message differs."""

    verdict: Verdict
    signature: str

    @classmethod
    def of(cls, cell: CellRecord) -> _Outcome:
        """That of `cell`."""
        return cls(cell.verdict, cell.signature or "")


class _Cause(NamedTuple):
    """What goes wrong, why as far as that is known, and with which versions; cells that share one are told together."""

    outcome: _Outcome
    why: str
    where: tuple[_Versions, ...]

    @property
    def rank(self) -> int:
        """What nobody has explained comes first, and what is no failure last."""
        verdict = self.outcome.verdict
        return 2 if verdict is Verdict.NOT_APPLICABLE else 1 if verdict in ACCEPTABLE else 0


#: The cells judged with each set of versions, by their id; older versions first.
_Judged = Mapping[_Versions, Mapping[str, CellRecord]]
#: How each set of versions is called, in parts, of which the first names Transformers.
_Names = Mapping[_Versions, tuple[str, ...]]


def compatibility_page(runs: Sequence[RunRecord]) -> str:
    """The page as `docs/compatibility.md`; raises `ValueError` where a run does not say what it is about."""
    if not runs:
        raise ValueError("a compatibility page needs the record of at least one run")
    runs = sorted(runs, key=lambda run: (_versions(run).order, moment(run.run.started), run.run.id))
    judged = _judged(runs)
    names = _names(judged)
    lines = [
        "# Compatibility",
        "",
        "How far each architecture gets with which versions. Generated from the records of "
        f"{counted(len(runs), 'run')} by `{_COMMAND}`; do not edit it. [Reading a run](reading-a-run.md) explains the "
        "words, [the contract](contract.md) the clauses, [versions](versions.md) how to put others under test.",
        *unfinished(runs),
        *("", "## What was run", "", *map(_told, runs)),
        *("", "## Places", "", *LEGEND.splitlines(), ""),
        "In brackets stand the first clauses that fail. Clauses that a run was not asked to judge do not count in its",
        "column. A place is also empty where that Transformers has no such architecture.",
        *_grids(judged, names),
        *_differences(judged, names),
    ]
    return "\n".join(lines) + "\n"


# What the records say


def _versions(run: RunRecord) -> _Versions:
    packages = run.environment.packages
    missing = [name for name in _Versions._fields if name not in packages]
    if missing:
        raise ValueError(f"run {run.run.id} does not say which version of {missing[0]} it was made with")
    return _Versions(*(packages[name] for name in _Versions._fields))


def _order(text: str) -> tuple[bool, Version, str]:
    try:
        return False, Version(text), text
    except InvalidVersion:
        return True, Version("0"), text


def _judged(runs: Iterable[RunRecord]) -> _Judged:
    """Of `runs` in their order, so that a later verdict on a cell replaces an earlier one."""
    found: dict[_Versions, dict[str, CellRecord]] = {}
    for run in runs:
        found.setdefault(_versions(run), {}).update({cell.id: cell for cell in run.cells})
    return found


def _names(judged: Iterable[_Versions]) -> _Names:
    """Without torch where it is the same everywhere; the list of what was run has it all the same."""
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


def _told(run: RunRecord) -> str:
    """What was run with which versions, as it would be typed."""
    info, packages = run.run, run.environment.packages
    given = [f"--{name} {shlex.quote(str(value))}" for name in _TYPED if (value := info.options.get(name)) is not None]
    given += [f"--hypothesis-seed {info.seed}"] if info.seed is not None else []
    command = code(" ".join(["python -m pytest conformance", *given]))
    versions = ", ".join(f"{name} {packages[name]}" for name in _Versions._fields)
    counts = Counter(cell.verdict for cell in run.cells)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    commit = f", commit {code(info.commit[:12])}" if info.commit else ""
    day = moment(info.started).date().isoformat()
    return f"- {prose(versions)}: {command}, {day}{commit}. {counted(len(run.cells), 'cell')}: {verdicts}."


# The parts of the page


def _grids(judged: _Judged, names: _Names) -> Iterator[str]:
    """For each subject and backend a table: an architecture in a mode to a row, a set of versions to a column."""
    places = {versions: places_of(cells.values()) for versions, cells in judged.items()}
    columns = columns_of(row for found in places.values() for row in found.values())
    subject = None
    for first in dict.fromkeys(column._replace(mode="") for column in columns):
        if first.subject != subject:
            subject = first.subject
            yield from ("", f"## Subject {code(subject)}")
        yield from ("", f"### On {code(first.backend)}", "")
        heads = ["<br>".join(names[versions]) for versions in judged]
        yield f"| architecture | mode | {' | '.join(heads)} |"
        yield f"| --- | --- |{' --- |' * len(heads)}"
        modes = [column for column in columns if column._replace(mode="") == first]
        for architecture in sorted({name for found in places.values() for name in found}):
            for column in modes:
                row = [found.get(architecture, {}).get(column) for found in places.values()]
                if any(row):
                    cells = " | ".join(_shown(place) if place else "" for place in row)
                    yield f"| {prose(architecture)} | {prose(column.mode)} | {cells} |"


def _shown(place: Place) -> str:
    more = len(place.stopping) - _SHOWN
    told = [*map(prose, place.stopping[:_SHOWN]), *([f"{more} more"] if more > 0 else [])]
    return f"{place} ({', '.join(told)})" if told else str(place)


def _differences(judged: _Judged, names: _Names) -> Iterator[str]:
    yield from ("", "## What differs", "")
    if len(judged) < 2:
        yield "Nothing to compare: there is one set of versions."
        return
    yield from (
        "Each set of versions against the next older ones. Cells are counted that both have judged.",
        "",
        "| from | to | cells | pass in the first alone | pass in the second alone | fail otherwise |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(_step(old, new, judged, names) for old, new in _steps(judged)),
        "",
        "What fails alike with all versions is not told here: [the status page](status.md) has such failures.",
        *_causes(judged, names),
    )


def _steps(judged: _Judged) -> Iterator[tuple[_Versions, _Versions]]:
    """Pairs that nothing stands between: in a full grid, those where one package moves by one release."""
    for new in judged:
        for old in judged:
            if old.before(new) and not any(old.before(each) and each.before(new) for each in judged):
                yield old, new


def _step(old: _Versions, new: _Versions, judged: _Judged, names: _Names) -> str:
    both = [(cell, judged[new][key]) for key, cell in judged[old].items() if key in judged[new]]
    kept = [pair for pair in both if all(cell.verdict is not Verdict.NOT_RUN for cell in pair)]
    changed = [pair for pair in kept if _Outcome.of(pair[0]) != _Outcome.of(pair[1])]
    first, second = ([pair[side].verdict is Verdict.PASS for pair in changed].count(True) for side in (0, 1))
    numbers = (len(kept), first, second, len(changed) - first - second)
    return f"| {', '.join(names[old])} | {', '.join(names[new])} | {' | '.join(map(str, numbers))} |"


def _causes(judged: _Judged, names: _Names) -> Iterator[str]:
    """What ends otherwise with other versions, by how it ends, why, and where."""
    by_cell: defaultdict[str, dict[_Versions, CellRecord]] = defaultdict(dict)
    for versions, cells in judged.items():
        for key, cell in cells.items():
            if cell.verdict is not Verdict.NOT_RUN:
                by_cell[key][versions] = cell
    causes: defaultdict[_Cause, list[dict[_Versions, CellRecord]]] = defaultdict(list)
    for _, ends in sorted(by_cell.items()):
        outcomes = {versions: _Outcome.of(cell) for versions, cell in ends.items()}
        differing = set(outcomes.values())
        for outcome in differing if len(differing) > 1 else ():
            where = tuple(versions for versions in outcomes if outcomes[versions] == outcome)
            if outcome.verdict is not Verdict.PASS:
                causes[_Cause(outcome, _why(ends[where[0]]), where)].append(ends)
    if not causes:
        yield from ("", "Nothing does: every cell ends alike with all versions that it was judged with.")

    def order(item: tuple[_Cause, list[dict[_Versions, CellRecord]]]) -> tuple[object, ...]:
        cause, alike = item
        return cause.rank, -len(alike), cause.outcome, cause.why, [versions.order for versions in cause.where]

    for cause, alike in sorted(causes.items(), key=order):
        yield from _paragraph(cause, alike, names)


def _why(cell: CellRecord) -> str:
    """The reason on record; empty if there is none, as for what is listed and failed otherwise."""
    if cell.verdict is Verdict.NOT_APPLICABLE:
        return cell.message or ""
    return cell.expected.reason if cell.expected and cell.verdict in ACCEPTABLE else ""


def _paragraph(cause: _Cause, alike: Sequence[Mapping[_Versions, CellRecord]], names: _Names) -> Iterator[str]:
    cells = [ends[versions] for ends in alike for versions in cause.where]
    first = cells[0]
    elsewhere = Counter(
        cell.verdict for ends in alike for versions, cell in ends.items() if versions not in cause.where
    )
    columns = sorted({" ".join(filter(None, (cell.subject, cell.backend, cell.mode))) for cell in cells})
    links = sorted({cell.expected.link for cell in cells if cell.expected and cell.expected.link}) if cause.why else []
    verdict, signature = cause.outcome
    yield from (
        "",
        f"### {'✗≈–'[cause.rank]} {code(signature or verdict)}",
        "",
        f"- {verdict} with {'; '.join(_together(names[versions] for versions in cause.where))}",
        f"- elsewhere: {', '.join(f'{elsewhere[each]} {each}' for each in Verdict if elsewhere[each])}",
        f"- {counted(len(alike), 'cell')} of {', '.join(map(code, columns))}",
        f"- architectures: {', '.join(map(code, sorted({cell.architecture for cell in cells})))}",
        f"- clauses: {', '.join(map(code, clauses_of(cells)))}",
        f"- reason: {prose(cause.why) if cause.why else '**unexplained**'}",
        *(f"- link: {address(link)}" for link in links),
    )
    if cause.rank == 0:
        yield f"- for example: {code(gist(first.message or verdict))}"
        if first.replay:
            yield f"- replay: {code(first.replay)}"


def _together(where: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Names in few words: what stands with one Transformers is put behind it."""
    stacks: defaultdict[str, list[str]] = defaultdict(list)
    for transformers, *rest in where:
        stacks[transformers].append(", ".join(rest))
    for transformers, those in stacks.items():
        yield f"{transformers} ({'; '.join(those)})"
