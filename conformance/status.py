"""The status page: how far each architecture gets, read from the records of one or several runs.

Everything on it comes from the records, sorted, so that the same records always give the same page. Text from records
is escaped: a message may hold whatever torch or a stranger's exporter raised.
"""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from conformance.cells import EAGER, EXPORTED
from conformance.contract import Chapter
from conformance.records import CellRecord, RunRecord
from conformance.verdicts import ACCEPTABLE, Stage, Verdict

#: The clause that asks for a program at the end of lowering.
_LOWERS = "LOW-1"
#: The verdicts that leave nothing to tell: the clause holds, or says nothing here.
_QUIET = frozenset({Verdict.PASS, Verdict.NOT_APPLICABLE})
#: An expected failure with this signature has run to the end, and is off by no more than the matrix allows.
_DIFFERS = f"{Stage.EXECUTE}:logits-differ"
_COMMAND = "python -m conformance status RUN.json [RUN.json ...] > docs/status.md"

_LEGEND = """\
A place stands for all clauses of that architecture, subject, backend and mode. The clauses of the `exported` program
of the same subject and mode count in it too, and so do those of the architecture's fixture.

| place | meaning |
| --- | --- |
| ✓, ≈, ✗ | nothing failed; only known failures, each of them listed with its reason; something else |
| decodes | every parity clause holds: it decodes as the oracle does |
| decodes, not EXP-9 | the same, but this other clause of the contract does not hold |
| differs | it decodes to the end, but its logits differ from the oracle's, as is known |
| build, eager, export, lower, emit, load, execute | the stage at which it stops, or gives wrong results |
| export: fail | the same, and it is not a known failure; the verdict follows the stage |
| a verdict alone, such as crash | it failed, and the stage is not known |
| lowered | a program came out at the end, and nothing executed it, as where a backend cannot run here |
| passes | nothing failed, but no parity clause was judged |
| – n/a | no clause says anything about it |
| an empty place | no run covers it |"""


class _Column(NamedTuple):
    """A column of the grid."""

    subject: str
    backend: str
    mode: str


class _Place(NamedTuple):
    """What one architecture comes to in one column; `conforms` says that each export and parity clause holds."""

    glyph: str
    reached: str
    missed: tuple[str, ...] = ()
    conforms: bool = False

    def __str__(self) -> str:
        return f"{self.glyph} {self.reached}" + (f", not {', '.join(map(_prose, self.missed))}" if self.missed else "")


def status_page(runs: Sequence[RunRecord]) -> str:
    """The page as `docs/status.md`; raises `ValueError` where `runs` cannot share one."""
    runs = sorted(runs, key=lambda run: (_time(run.run.started), run.run.id))
    _check_versions(runs)
    # By the order above, a later verdict on a cell replaces an earlier one.
    cells = sorted({cell.id: cell for run in runs for cell in run.cells}.values(), key=lambda cell: cell.id)
    places = _places(cells)
    lines = [
        "# Status",
        "",
        "How far each architecture gets on the way from Transformers to a program that ExecuTorch runs. Generated from "
        f"the records of {_count(len(runs), 'run')} by `{_COMMAND}`; do not edit it. "
        "[Reading a run](reading-a-run.md) explains the words, [the contract](contract.md) the clauses.",
        *_warnings(runs),
        *("", "## Versions", "", "| what | version |", "| --- | --- |"),
        *(f"| {_prose(name)} | {_prose(version)} |" for name, version in _versions(runs)),
    ]
    fixtures = [cell for cell in cells if cell.subject is None]
    if fixtures:
        lines += ["", "## Fixtures", "", f"The models alone, shared by all subjects. {_verdicts(fixtures)}."]
    for subject in sorted({cell.subject for cell in cells if cell.subject is not None}):
        own = [cell for cell in cells if cell.subject == subject]
        lines += ["", f"## Subject {_code(subject)}", "", f"{_verdicts(own)}.", *_how_far(subject, places)]
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
    times = sorted(_time(time) for run in runs for time in (run.run.started, run.run.finished) if time)
    days = sorted({times[0].date().isoformat(), times[-1].date().isoformat()})
    return [*sorted(runs[0].environment.packages.items()), ("python", python), ("date", " to ".join(days))]


def _places(cells: Iterable[CellRecord]) -> dict[str, dict[_Column, _Place]]:
    """Each architecture's places. A program that was lowered had to be exported first, and both need the fixture."""
    own: defaultdict[tuple[str, _Column], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        own[cell.architecture, _Column(cell.subject or "", cell.backend, cell.mode or "")].append(cell)
    places: defaultdict[str, dict[_Column, _Place]] = defaultdict(dict)
    for (architecture, column), mine in own.items():
        shared = own.get((architecture, _Column("", EAGER, "")), [])
        exported = own.get((architecture, column._replace(backend=EXPORTED)), [])
        if column.subject:
            places[architecture][column] = _place(mine, shared + (exported if column.backend != EXPORTED else []))
    return places


def _place(own: Sequence[CellRecord], shared: Sequence[CellRecord]) -> _Place:
    if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in own):
        return _Place("–", "n/a")
    cells = [*own, *shared]
    trouble = [cell for cell in cells if cell.verdict not in _QUIET]
    glyph = "✗" if any(cell.verdict not in ACCEPTABLE for cell in trouble) else "≈" if trouble else "✓"
    if not any(_chapter(cell) is Chapter.PAR and cell.verdict is not Verdict.NOT_APPLICABLE for cell in own):
        if any(cell.clause == _LOWERS and cell.verdict is Verdict.PASS for cell in own):
            return _Place(glyph, "lowered", tuple(sorted({cell.clause for cell in trouble})))
        return _Place(glyph, _stop(trouble) if trouble else "passes")
    # How far a program gets shows in its parity. Another clause can fail without stopping it, such as EXP-9, which is
    # about misconfigured models. Sensitivity comes along: parity says nothing of a fixture that shows no fault.
    stopped = [cell for cell in trouble if _chapter(cell) in {Chapter.PAR, Chapter.SEN}]
    missed = sorted({cell.clause for cell in trouble} - {cell.clause for cell in stopped})
    if not stopped:
        conforms = not any(_chapter(cell) is Chapter.EXP for cell in trouble)
        return _Place(glyph, "decodes", tuple(missed), conforms)
    if all(cell.verdict in ACCEPTABLE and cell.signature == _DIFFERS for cell in stopped):
        return _Place(glyph, "differs", tuple(missed))
    return _Place(glyph, _stop(stopped))


def _stop(trouble: Iterable[CellRecord]) -> str:
    """The earliest stage of what was not expected, or else of what was."""

    def order(cell: CellRecord) -> tuple[bool, int, str]:
        stage = list(Stage).index(cell.stage) if cell.stage else len(Stage)
        return cell.verdict in ACCEPTABLE, stage, cell.verdict

    first = min(trouble, key=order)
    parts = [first.stage, None if first.stage and first.verdict in ACCEPTABLE else first.verdict]
    return ": ".join(part.value for part in parts if part)


# The parts of the page


def _warnings(runs: Iterable[RunRecord]) -> list[str]:
    lines = []
    for run in runs:
        if not run.run.complete:
            missing = sum(cell.verdict is Verdict.NOT_RUN for cell in run.cells)
            ended = "was stopped early" if run.run.finished else "never finished"
            lines += [
                *("", "> [!WARNING]"),
                f"> **Run {_code(run.run.id)} is not complete:** it {ended}. {_count(missing, 'cell')} in its record "
                "had not been run; others may be missing altogether.",
            ]
    return lines


def _how_far(subject: str, places: Mapping[str, Mapping[_Column, _Place]]) -> list[str]:
    lines = [
        "",
        "| backend | mode | conform to every EXP and PAR clause judged | the others |",
        "| --- | --- | ---: | --- |",
    ]
    for column in _columns(places):
        if column.subject == subject:
            found = [row[column] for row in places.values() if column in row]
            others = Counter(place.reached for place in found if not place.conforms)
            # Missing an EXP clause is all that keeps a program that decodes from conforming.
            told = ", ".join(
                f"{count} × {'decodes but fails EXP' if reached == 'decodes' else reached}"
                for reached, count in sorted(others.items(), key=lambda item: (-item[1], item[0]))
            )
            conforming = f"{len(found) - others.total()} of {len(found)}"
            lines.append(f"| {_prose(column.backend)} | {_prose(column.mode)} | {conforming} | {told} |")
    return lines


def _grid(places: Mapping[str, Mapping[_Column, _Place]]) -> list[str]:
    columns = _columns(places)
    if not columns:
        return []
    heads = ["architecture", *("<br>".join(map(_prose, column)) for column in columns)]
    rows = [
        [_prose(architecture), *(str(places[architecture].get(column, "")) for column in columns)]
        for architecture in sorted(places)
    ]
    table = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    return ["", "## Every architecture", "", *_LEGEND.splitlines(), "", *table]


def _causes(cells: Iterable[CellRecord]) -> list[str]:
    """What fails, by root cause. Unlisted failures stay apart from listed ones that look alike, and come first."""
    causes: defaultdict[tuple[bool, str, str, str], list[CellRecord]] = defaultdict(list)
    for cell in cells:
        if cell.verdict not in _QUIET:
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
            f"### {'≈' if known else '✗'} {_code(signature or verdict)}",
            "",
            f"- {verdict}: {_count(len(alike), 'cell')} of {', '.join(map(_code, columns))}",
            f"- architectures: {', '.join(map(_code, sorted({cell.architecture for cell in alike})))}",
        ]
        lines += [f"- largest error: {max(errors):.1e} of the logits' scale"] if errors else []
        lines += [f"- reason: {_prose(reason)}"] if reason else []
        lines += [f"- link: {_link(link)}" for link in links]
        lines += [] if known else [f"- for example: {_code(_gist(first.message or verdict))}"]
        lines += [f"- replay: {_code(first.replay)}", ""] if first.replay else [""]
    return lines[:-1] if causes else lines


def _inapplicable(cells: Iterable[CellRecord]) -> list[str]:
    rows: defaultdict[str, list[CellRecord]] = defaultdict(list)
    for cell in cells:
        rows[cell.architecture].append(cell)
    whys: defaultdict[str, list[str]] = defaultdict(list)
    for architecture, row in sorted(rows.items()):
        if all(cell.verdict is Verdict.NOT_APPLICABLE for cell in row):
            whys["; ".join(sorted({_prose(cell.message or "no reason given") for cell in row}))].append(architecture)
    told = [f"- {', '.join(map(_code, names))}: {why}" for why, names in sorted(whys.items(), key=lambda item: item[1])]
    return ["", "## Not applicable", "", "No clause says anything about these.", "", *told] if told else []


# Small things


def _columns(places: Mapping[str, Mapping[_Column, _Place]]) -> list[_Column]:
    """From left to right as a failure is best read: what comes before lowering first."""
    found = {column for row in places.values() for column in row}
    return sorted(found, key=lambda column: (column.subject, column.backend != EXPORTED, column))


def _verdicts(cells: Sequence[CellRecord]) -> str:
    counts = Counter(cell.verdict for cell in cells)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return f"{_count(len(cells), 'cell')}: {told}"


def _chapter(cell: CellRecord) -> Chapter | None:
    return Chapter.__members__.get(cell.clause.partition("-")[0])


def _gist(message: str) -> str:
    """The first line, which says where, and what was observed if the message tells it in the usual shape."""
    first, *rest = message.strip().splitlines() or [""]
    observed = [line for line in rest if line.startswith("  observed  ")]
    return " ".join([first, *observed[:1]])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _flat(text: str) -> str:
    """One line, without control characters or marks that change the direction of reading."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _prose(text: str) -> str:
    """`text` such that it reads as itself anywhere inside a line or a table, and never as markup."""
    escaped = re.sub(r"[\\`*~|\[\]]|_(?![^\W_])|(?<![^\W_])_", r"\\\g<0>", html.escape(_flat(text), quote=False))
    # GitHub acts on these even where they are escaped, unless they stand in an element of their own.
    return re.sub(r"[@$]|(?<=:)//|(?<=www)\.", r"<span>\g<0></span>", escaped, flags=re.IGNORECASE)


def _code(text: str) -> str:
    """`text` as code; not for tables, which end a cell at a pipe even there."""
    flat = _flat(text) or "–"
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def _link(text: str) -> str:
    """An address that is plainly one is a link; anything else is prose."""
    return f"<{text}>" if re.fullmatch(r"https?://[\w./#?=&%+~:@,-]+", text, re.ASCII) else _prose(text)
