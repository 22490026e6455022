"""The status page: how far each architecture gets, read from the records of one or several runs.

Everything on it comes from the records, sorted, so that the same records always give the same page. Text from records
is escaped: a message may hold whatever torch or a stranger's exporter raised.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord
from report.pages import address, code, counted, gist, moment, prose, unfinished
from report.progress import LEGEND, QUIET, Column, Place, columns_of, places_of

_COMMAND = "python -m conformance status RUN.json [RUN.json ...] > docs/status.md"


def status_page(runs: Sequence[RunRecord]) -> str:
    """The page as `docs/status.md`; raises `ValueError` where `runs` cannot share one."""
    runs = sorted(runs, key=lambda run: (moment(run.run.started), run.run.id))
    _check_versions(runs)
    # By the order above, a later verdict on a cell replaces an earlier one.
    cells = sorted({cell.id: cell for run in runs for cell in run.cells}.values(), key=lambda cell: cell.id)
    places = places_of(cells)
    lines = [
        "# Status",
        "",
        "How far each architecture gets on the way from Transformers to a program that ExecuTorch runs. Generated from "
        f"the records of {counted(len(runs), 'run')} by `{_COMMAND}`; do not edit it. "
        "[Reading a run](reading-a-run.md) explains the words, [the contract](contract.md) the clauses.",
        *unfinished(runs),
        *("", "## Versions", "", "| what | version |", "| --- | --- |"),
        *(f"| {prose(name)} | {prose(version)} |" for name, version in _versions(runs)),
    ]
    fixtures = [cell for cell in cells if cell.subject is None]
    if fixtures:
        lines += ["", "## Fixtures", "", f"The models alone, shared by all subjects. {_verdicts(fixtures)}."]
    for subject in sorted({cell.subject for cell in cells if cell.subject is not None}):
        own = [cell for cell in cells if cell.subject == subject]
        lines += ["", f"## Subject {code(subject)}", "", f"{_verdicts(own)}.", *_how_far(subject, places)]
    lines += [*_grid(places), *_causes(cells), *_inapplicable(cells)]
    return "\n".join(lines) + "\n"


# What the records say


def _check_versions(runs: Sequence[RunRecord]) -> None:
    if not runs:
        raise ValueError("a status page needs the record of at least one run")
    first, *others = runs
    for run in others:
        differing = sorted(dict(first.environment.packages.items() ^ run.environment.packages.items()))
        if differing:
            told = " and ".join(
                f"run {each.run.id} has {differing[0]} {each.environment.packages.get(differing[0], 'not installed')}"
                for each in (first, run)
            )
            raise ValueError(f"a status page is about one set of versions, but {told}")


def _versions(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    python = ", ".join(sorted({run.environment.python for run in runs}))
    times = sorted(moment(time) for run in runs for time in (run.run.started, run.run.finished) if time)
    days = sorted({times[0].date().isoformat(), times[-1].date().isoformat()})
    return [*sorted(runs[0].environment.packages.items()), ("python", python), ("date", " to ".join(days))]


# The parts of the page


def _how_far(subject: str, places: Mapping[str, Mapping[Column, Place]]) -> list[str]:
    lines = [
        "",
        "| backend | mode | conform to every EXP and PAR clause judged | the others |",
        "| --- | --- | ---: | --- |",
    ]
    for column in columns_of(places.values()):
        if column.subject == subject:
            found = [row[column] for row in places.values() if column in row]
            others = Counter(place.reached for place in found if not place.conforms)
            # Missing an EXP clause is all that keeps a program that decodes from conforming.
            told = ", ".join(
                f"{count} × {'decodes but fails EXP' if reached == 'decodes' else reached}"
                for reached, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))
            )
            conforming = f"{len(found) - others.total()} of {len(found)}"
            lines.append(f"| {prose(column.backend)} | {prose(column.mode)} | {conforming} | {told} |")
    return lines


def _grid(places: Mapping[str, Mapping[Column, Place]]) -> list[str]:
    columns = columns_of(places.values())
    if not columns:
        return []
    heads = ["architecture", *("<br>".join(map(prose, column)) for column in columns)]
    rows = [
        [prose(architecture), *(str(places[architecture].get(column, "")) for column in columns)]
        for architecture in sorted(places)
    ]
    table = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return ["", "## Every architecture", "", *LEGEND.splitlines(), "", *table]


def _causes(cells: Iterable[CellRecord]) -> list[str]:
    """What fails, by root cause. Unlisted failures stay apart from listed ones that look alike, and come first."""
    causes: defaultdict[tuple[bool, str, str, str], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.verdict not in QUIET:
            reason = cell.expected.reason if cell.expected else ""
            causes[cell.verdict in ACCEPTABLE, cell.signature or "", reason, cell.verdict].append(cell)
    lines = ["", "## Where it falls short", ""]
    lines += [] if causes else ["Nowhere: every clause that was judged holds."]
    for (known, signature, reason, verdict), alike in sorted(
        causes.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1:])
    ):
        first = alike[0]
        columns = sorted({" ".join(filter(None, (cell.subject, cell.backend, cell.mode))) for cell in alike})
        links = sorted({cell.expected.link for cell in alike if cell.expected and cell.expected.link})
        errors = [error for cell in alike if (error := (cell.metrics or {}).get("max_relative_error")) is not None]
        lines += [
            f"### {'≈' if known else '✗'} {code(signature or verdict)}",
            "",
            f"- {verdict}: {counted(len(alike), 'cell')} of {', '.join(map(code, columns))}",
            f"- architectures: {', '.join(map(code, sorted({cell.architecture for cell in alike})))}",
        ]
        lines += [f"- largest error: {max(errors):.1e} of the logits' scale"] if errors else []
        lines += [f"- reason: {prose(reason)}"] if reason else []
        lines += [f"- link: {address(link)}" for link in links]
        lines += [] if known else [f"- for example: {code(gist(first.message or verdict))}"]
        lines += [f"- replay: {code(first.replay)}", ""] if first.replay else [""]
    return lines[:-1] if causes else lines


def _inapplicable(cells: Iterable[CellRecord]) -> list[str]:
    rows: defaultdict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        rows[cell.architecture].append(cell)
    whys: defaultdict[str, list[str]] = defaultdict(list)
    for architecture, row in sorted(rows.items()):
        if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in row):
            whys["; ".join(sorted({prose(cell.message or "no reason given") for cell in row}))].append(architecture)
    told = [f"- {', '.join(map(code, names))}: {why}" for why, names in sorted(whys.items(), key=lambda item: item[1])]
    return ["", "## Not applicable", "", "No clause says anything about these.", "", *told] if told else []


# Small things


def _verdicts(cells: Sequence[CellRecord]) -> str:
    counts = Counter(cell.verdict for cell in cells)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return f"{counted(len(cells), 'cell')}: {told}"
