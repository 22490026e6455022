"""The status page: how far each architecture gets, from the records of one or several runs.

The same records always give the same page: everything on it is sorted and comes from them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from conformance.core.cells import split_row
from conformance.core.text import format_counts, plural
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord, RunRecord

from .causes import example_line
from .loading import when
from .markdown import code, incomplete, link, prose, table
from .model import QUIET
from .progress import LEGEND, Column, Progress, columns_of, progress_of

_COMMAND = "conformance docs --status RUN.json [RUN.json ...]"
#: Longest command or message on the page, in characters.
_LONGEST = 1000


def status_page(runs: Sequence[RunRecord]) -> str:
    """The page as `docs/status.md`.

    Raises:
        ValueError: There are no runs, or they have different versions.
    """
    runs = sorted(runs, key=lambda run: (when(run.run.started), run.run.id))
    _check_versions(runs)
    # By the order above, a later verdict on a cell replaces an earlier one.
    cells = sorted({cell.id: cell for run in runs for cell in run.cells}.values(), key=lambda cell: cell.id)
    progress = progress_of(cells)
    architectures = {name: columns for name, columns in progress.items() if split_row(name)[1] is None}
    varied = {name: columns for name, columns in progress.items() if name not in architectures}
    lines = [
        "# Status",
        "",
        "How far each architecture gets on the way from Transformers to a program that ExecuTorch runs. Generated from "
        f"the records of {plural(len(runs), 'run')} by `{_COMMAND}`; do not edit it. "
        "[Reading a run](reading-a-run.md) explains the words, [the contract](contract.md) the clauses.",
        *(line for run in runs for line in incomplete(run, f"Run {code(run.run.id)}")),
        *("", "## Versions", ""),
        *table(["what", "version"], ([prose(name), prose(version)] for name, version in _versions(runs))),
    ]
    fixtures = [cell for cell in cells if cell.subject is None]
    if fixtures:
        lines += ["", "## Fixtures", "", f"The eager models, shared by all subjects. {_verdicts(fixtures)}."]
    for subject in sorted({cell.subject for cell in cells if cell.subject is not None}):
        verdicts = _verdicts([cell for cell in cells if cell.subject == subject])
        lines += ["", f"## Subject {code(subject)}", "", f"{verdicts}.", *_how_far(subject, architectures)]
    lines += [
        *_grid("Every architecture", architectures),
        *_grid("Variations of fixtures", varied),
        *_causes(cells),
        *_inapplicable(cells),
    ]
    return "\n".join(lines) + "\n"


# What the records say


def _check_versions(runs: Sequence[RunRecord]) -> None:
    if not runs:
        raise ValueError("a status page needs the record of at least one run")
    first, *others = runs
    for run in others:
        differing = sorted(dict(first.environment.packages.items() ^ run.environment.packages.items()))
        if differing:
            package = differing[0]
            both = " and ".join(
                f"{each.environment.packages.get(package, 'not installed')} in run {each.run.id}"
                for each in (first, run)
            )
            raise ValueError(f"a status page needs runs with the same versions: {package} is {both}")


def _versions(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    python = ", ".join(sorted({run.environment.python for run in runs}))
    times = sorted(when(time) for run in runs for time in (run.run.started, run.run.finished) if time)
    days = sorted({times[0].date().isoformat(), times[-1].date().isoformat()})
    return [*sorted(runs[0].environment.packages.items()), ("python", python), ("date", " to ".join(days))]


# The parts of the page


def _how_far(subject: str, progress: Mapping[str, Mapping[Column, Progress]]) -> list[str]:
    lines = [
        "",
        "| backend | mode | conform to every EXP and PAR clause judged | the others |",
        "| --- | --- | ---: | --- |",
    ]
    for column in columns_of(progress.values()):
        if column.subject == subject:
            entries = [row[column] for row in progress.values() if column in row]
            others = Counter(entry.reached for entry in entries if not entry.conforms)
            # A program that decodes but does not conform fails an EXP clause: there is no other reason.
            stops = ", ".join(
                f"{count} × {'decodes but fails EXP' if reached == 'decodes' else reached}"
                for reached, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))
            )
            conforming = f"{len(entries) - others.total()} of {len(entries)}"
            lines.append(f"| {prose(column.backend)} | {prose(column.mode)} | {conforming} | {stops} |")
    return lines


def _grid(title: str, progress: Mapping[str, Mapping[Column, Progress]]) -> list[str]:
    columns = columns_of(progress.values())
    if not columns:
        return []
    heads = ["architecture", *("<br>".join(map(prose, column)) for column in columns)]
    rows = [
        [prose(architecture), *(str(progress[architecture].get(column, "")) for column in columns)]
        for architecture in sorted(progress)
    ]
    return ["", f"## {title}", "", *LEGEND.splitlines(), "", *table(heads, rows)]


def _causes(cells: Iterable[CellRecord]) -> list[str]:
    """The failures by root cause, unexpected ones first, and apart from known ones with the same signature."""
    causes: defaultdict[tuple[bool, str, str, str], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.verdict not in QUIET:
            reason = cell.expected.reason if cell.expected else ""
            causes[cell.verdict in ACCEPTABLE, cell.signature or "", reason, cell.verdict].append(cell)
    lines = ["", "## Where it falls short", ""]
    lines += [] if causes else ["Nowhere: every clause that was judged passes."]
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
            f"- {verdict}: {plural(len(alike), 'cell')} of {', '.join(map(code, columns))}",
            f"- architectures: {', '.join(map(code, sorted({cell.architecture for cell in alike})))}",
        ]
        lines += [f"- largest error: {max(errors):.1e} of the logits' scale"] if errors else []
        lines += [f"- reason: {prose(reason)}"] if reason else []
        lines += [f"- link: {link(url)}" for url in links]
        lines += [] if known else [f"- example: {code(example_line(first.message or verdict), _LONGEST)}"]
        lines += [f"- replay: {code(first.replay, _LONGEST)}", ""] if first.replay else [""]
    return lines[:-1] if causes else lines


def _inapplicable(cells: Iterable[CellRecord]) -> list[str]:
    by_name: defaultdict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        by_name[cell.architecture].append(cell)
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for architecture, row in sorted(by_name.items()):
        if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in row):
            reason = "; ".join(sorted({prose(cell.message or "no reason given") for cell in row}))
            by_reason[reason].append(architecture)
    lines = [
        f"- {', '.join(map(code, names))}: {reason}"
        for reason, names in sorted(by_reason.items(), key=lambda item: item[1])
    ]
    return ["", "## Not applicable", "", "No clause applies to these.", "", *lines] if lines else []


def _verdicts(cells: Sequence[CellRecord]) -> str:
    counts = Counter(cell.verdict for cell in cells)
    return f"{plural(len(cells), 'cell')}: {format_counts((verdict, counts[verdict]) for verdict in Verdict)}"
