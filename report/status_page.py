"""The status page: how far each architecture gets, from the records of one or several runs.

The same records always give the same page: everything on it is sorted and comes from them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from conformance.core.cells import EXPORTED
from conformance.core.text import format_counts, plural
from conformance.core.verdicts import Verdict
from conformance.records.run import CellRecord, RunRecord

from .analysis import Report, analyse
from .analysis.causes import Cause, Unrun
from .analysis.report import Architecture
from .analysis.variants import Variant
from .analysis.verdicts import GLYPHS
from .loading import when
from .markdown import code, headlines, incomplete, legend, link, prose, table

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
    report = analyse([dataclasses.replace(runs[-1], cells=tuple(cells))])
    lines = [
        "# Status",
        "",
        "How far each architecture gets on the way from Transformers to a program that ExecuTorch runs. Generated from "
        f"the records of {plural(len(runs), 'run')}; do not edit it. "
        "[Reading a run](reading-a-run.md) explains the words, [the contract](contract.md) the clauses.",
        *(line for run in runs for line in incomplete(run, f"Run {code(run.run.id)}")),
        *("", "## Versions", ""),
        *table(["what", "version"], ([prose(name), prose(version)] for name, version in _versions(runs))),
        *("", "## Statuses", "", *legend()),
    ]
    fixtures = [cell for cell in cells if cell.subject is None]
    if fixtures:
        lines += ["", "## Fixtures", "", f"The eager models, shared by all exporters. {_verdicts(fixtures)}."]
    shown = sorted(report.variants, key=lambda variant: (variant.subject, variant.backend != EXPORTED, variant))
    for subject in filter(None, dict.fromkeys(variant.subject for variant in shown)):
        verdicts = _verdicts([cell for cell in cells if cell.subject == subject])
        found = {each.variant: each for each in report.headlines}
        of_subject = [found[variant] for variant in shown if variant.subject == subject]
        lines += ["", f"## Exporter {code(subject)}", "", f"{verdicts}.", "", *headlines(of_subject)]
    lines += [
        *_grid("Every architecture", shown, [each for each in report.architectures if not each.is_variation]),
        *_grid("Variations of fixtures", shown, [each for each in report.architectures if each.is_variation]),
        *_causes(report),
        *_inapplicable(report),
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


def _grid(title: str, variants: Iterable[Variant], architectures: Iterable[Architecture]) -> list[str]:
    rows = [(each.name, {state.variant: state.status for state in each.covered}) for each in architectures]
    columns = [variant for variant in variants if variant.subject and any(variant in found for _, found in rows)]
    if not columns:
        return []
    heads = ["architecture", *("<br>".join(map(prose, filter(None, dataclasses.astuple(each)))) for each in columns)]
    texts = (
        [prose(name), *(prose(str(found[each])) if each in found else "" for each in columns)] for name, found in rows
    )
    return ["", f"## {title}", "", *table(heads, texts)]


def _causes(report: Report) -> list[str]:
    """The failures by cause, unexpected ones first, and what was not run."""
    lines = ["", "## Failures by cause", ""]
    if not report.causes and not report.unrun:
        return [*lines, "None: every clause that was judged passes."]
    for cause in report.causes:
        lines += [*_cause(cause), ""]
    for group in report.unrun:
        lines += [*_unrun(group), ""]
    return lines[:-1]


def _cause(cause: Cause) -> list[str]:
    first = cause.first
    counts = Counter(cell.verdict for cell in cause.cells)
    errors = [error for cell in cause.cells if (error := (cell.metrics or {}).get("max_relative_error")) is not None]
    lines = [
        f"### {cause.outcome.glyph} {prose(cause.title)}",
        "",
        f"- signature: {code(cause.signature)}",
        *_where(cause.cells, format_counts(counts.items())),
    ]
    lines += [f"- place: {code(cause.place)}"] if cause.place else []
    lines += [f"- largest error: {max(errors):.1e} of the logits' scale"] if errors else []
    lines += [f"- reason: {prose(cause.reason)}"] if cause.reason else []
    lines += [f"- link: {link(url)}" for url in sorted(cause.links)]
    lines += [] if cause.known else [f"- example: {code(cause.example, _LONGEST)}"]
    return lines + ([f"- replay: {code(first.replay, _LONGEST)}"] if first.replay else [])


def _unrun(group: Unrun) -> list[str]:
    counts = f"{len(group.cells)} {Verdict.NOT_RUN}"
    return [f"### {GLYPHS[Verdict.NOT_RUN]} not run: {prose(group.reason)}", "", *_where(group.cells, counts)]


def _where(cells: Iterable[CellRecord], counts: str) -> list[str]:
    columns = sorted({" ".join(filter(None, (cell.subject, cell.backend, cell.mode))) for cell in cells})
    return [
        f"- cells: {counts}, of {', '.join(map(code, columns))}",
        f"- architectures: {', '.join(map(code, sorted({cell.architecture for cell in cells})))}",
    ]


def _inapplicable(report: Report) -> list[str]:
    lines = [f"- {', '.join(map(code, each.architectures))}: {prose(each.reason)}" for each in report.inapplicable]
    return ["", "## Not applicable", "", "No clause applies to these.", "", *lines] if lines else []


def _verdicts(cells: Sequence[CellRecord]) -> str:
    counts = Counter(cell.verdict for cell in cells)
    return f"{plural(len(cells), 'cell')}: {format_counts((verdict, counts[verdict]) for verdict in Verdict)}"
