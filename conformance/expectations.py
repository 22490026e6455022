"""Rewrite the expectations in `models_matrix.yaml` to what a run saw, and leave the reasons to people.

A failure that nobody explained is listed with `reason: TODO`, which `load_matrix` refuses: the file says by itself what
is left to do. For the same reason the file is read here without `load_matrix`. Only the lines of `expect` lists that
change are written anew; the rest of the text is the same to the byte.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from conformance.contract import BOTH_MODES, CLAUSES
from conformance.matrix import ANY_MODE, ANY_SUBJECT, TODO, MatrixError, versions_fit
from conformance.records import CellRecord, RunRecord
from conformance.subjects import KNOWN
from conformance.verdicts import ACCEPTABLE, Verdict

_WIDTH = 120
_AXES = ("clauses", "backends", "modes", "subject")
_KEYS = (*_AXES, "stage", "signature", "at_most", "reason", "link", "when")
_CLAUSE_ORDER = {clause.id: index for index, clause in enumerate(CLAUSES)}
_CLAUSE_MODES = {clause.id: clause.modes for clause in CLAUSES}

_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True, slots=True)
class Update:
    """The matrix's new text, and a sentence for each change to it and for each thing left to a person."""

    text: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Product:
    """Cells that are a full product clauses × backends × modes, of one subject: what an expectation can say."""

    clauses: tuple[str, ...]
    backends: tuple[str, ...]
    modes: tuple[str, ...]
    subject: str

    def __str__(self) -> str:
        column = " ".join([", ".join(self.backends), *([", ".join(self.modes)] if self.modes != (ANY_MODE,) else [])])
        return f"{', '.join(self.clauses)} on {column}" + (f" ({self.subject})" if self.subject != ANY_SUBJECT else "")

    def verb(self, verb: str) -> str:
        """`verb` in the number that fits what `str` says."""
        one = len(self.clauses) * len(self.backends) * len(self.modes) == 1
        return f"{verb}{'es' if verb.endswith('s') else 's'}" if one else verb

    def values(self) -> dict[str, Any]:
        return {
            "clauses": list(self.clauses),
            "backends": list(self.backends),
            "modes": list(self.modes),
            "subject": self.subject,
        }


@dataclass(frozen=True, slots=True)
class _Entry:
    """One expectation of a row: what it says (`values`), and how it is written.

    `lines` are its own, without indentation, dash and anchor. Entries with the same `anchor` are one expectation:
    wherever the first of them stands, it is written out, and the others are aliases. So a definition moves by itself
    when the row it stood in no longer has it. `above` are the comment lines before it.
    """

    values: Mapping[str, Any]
    lines: tuple[str, ...]
    anchor: str | None = None
    above: tuple[str, ...] = ()

    @property
    def merged(self) -> list[str]:
        """The anchors it builds on with `<<`."""
        return [name for line in self.lines if line.startswith("<<:") for name in re.findall(r"\*([\w-]+)", line)]

    def covers(self, cell: CellRecord) -> bool:
        """The same as `Expectation.covers`."""
        return (
            cell.clause in self.values["clauses"]
            and cell.backend in self.values["backends"]
            and (ANY_MODE in self.values["modes"] or cell.mode in self.values["modes"])
            and self.values["subject"] in (ANY_SUBJECT, cell.subject)
        )

    def applies_to(self, versions: Mapping[str, str]) -> bool:
        """The same as `Expectation.applies_to`."""
        return versions_fit(self.values.get("when", {}).items(), versions)

    def fits(self, cell: CellRecord) -> bool:
        """Whether it describes how `cell` failed, its size apart."""
        return (cell.stage, cell.signature) == (self.values["stage"], self.values["signature"])


@dataclass(frozen=True, slots=True)
class _Row:
    """One architecture's `expect`: the lines it takes of the text, `start` to `end`, and what they say."""

    start: int
    end: int
    indent: int
    entries: tuple[_Entry, ...] = ()
    #: Behind the key or the closing bracket, and after the last entry.
    comment: str = ""
    below: tuple[str, ...] = ()


@dataclass(slots=True)
class _Findings:
    """What a run says of one row: the cells to take out of each entry, by its index, and the failures not listed."""

    stale: dict[int, list[CellRecord]] = field(default_factory=dict)
    otherwise: dict[int, list[CellRecord]] = field(default_factory=dict)
    too_far: dict[int, list[CellRecord]] = field(default_factory=dict)
    new: list[CellRecord] = field(default_factory=list)


def updated_matrix(text: str, run: RunRecord) -> Update:
    """The matrix `text` with the expectations that `run` calls for, and without those it calls stale.

    Raises:
        MatrixError: `text` is not a matrix, or is written in a way that only a person should rewrite.
    """
    rows = _read(text)
    versions = run.environment.packages
    subjects = tuple(dict.fromkeys([*KNOWN, *(cell.subject for cell in run.cells if cell.subject)]))
    cells: dict[str, list[CellRecord]] = {}
    for cell in filter(_speaks, run.cells):
        cells.setdefault(cell.architecture, []).append(cell)
    told = [
        f"{name}: has no row in the matrix: {_counted(len(those))} skipped"
        for name, those in cells.items()
        if name not in rows
    ]
    wanted = dict(rows)
    found = {name: _findings(row, cells.get(name, []), versions) for name, row in rows.items()}
    shared = _shared(rows, found)
    for name, findings in found.items():
        wanted[name], changes = _reduced(name, rows[name], findings, shared, subjects)
        told += changes
    wanted = _apart(rows, wanted)
    # Only now, so that what is used again is what is left.
    for name, findings in found.items():
        if not findings.new:
            continue
        known = [entry for row in wanted.values() for entry in row.entries if entry.applies_to(versions)]
        wanted[name], changes = _extended(name, wanted[name], findings.new, known)
        told += changes
    return Update(_written(text, rows, wanted), (*told, *_unusable(run)))


def _speaks(cell: CellRecord) -> bool:
    """Whether an expectation can follow from `cell`. A crash or a timeout has no signature to hold a later one to."""
    described = cell.stage is not None and cell.signature is not None
    return cell.verdict is Verdict.UNEXPECTED_PASS or (cell.verdict is Verdict.FAIL and described)


def _unusable(run: RunRecord) -> list[str]:
    verdicts = [cell.verdict.value for cell in run.cells if cell.verdict not in ACCEPTABLE and not _speaks(cell)]
    kinds = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(verdicts))
    return [f"{_counted(len(verdicts))} left alone, because these are never expected: {kinds}"] if verdicts else []


def _counted(count: int) -> str:
    return f"{count} cell{'s' if count != 1 else ''}"


def _findings(row: _Row, cells: Iterable[CellRecord], versions: Mapping[str, str]) -> _Findings:
    findings = _Findings()
    for cell in cells:
        # All of them, not the first: what the first no longer covers, the next would.
        covering = [i for i, entry in enumerate(row.entries) if entry.covers(cell) and entry.applies_to(versions)]
        if cell.verdict is Verdict.UNEXPECTED_PASS:
            for index in covering:
                findings.stale.setdefault(index, []).append(cell)
            continue
        fitting = next((index for index in covering if row.entries[index].fits(cell)), None)
        for index in covering[: covering.index(fitting) if fitting is not None else None]:
            findings.otherwise.setdefault(index, []).append(cell)
        if fitting is None:
            findings.new.append(cell)
        elif fitting == covering[0] and "at_most" in row.entries[fitting].values:
            findings.too_far.setdefault(fitting, []).append(cell)
    return findings


def _reduced(
    name: str, row: _Row, findings: _Findings, shared: frozenset[str], subjects: Sequence[str]
) -> tuple[_Row, list[str]]:
    """The row without the cells that its entries no longer describe."""
    entries: list[_Entry] = []
    told: list[str] = []
    above: tuple[str, ...] = ()
    for index, entry in enumerate(row.entries):
        stale, otherwise = findings.stale.get(index, []), findings.otherwise.get(index, [])
        left = [replace(entry, above=())]
        if stale or otherwise:
            left = _without(left[0], [*stale, *otherwise], shared, subjects)
        if left:
            entries += [replace(left[0], above=above + entry.above), *left[1:]]
            above = ()
        else:
            above += entry.above
        signature, end = entry.values["signature"], "" if left else ", of which nothing is left"
        told += [
            f"{name}: {p} {p.verb('pass')}: taken out of the expectation of {signature}{end}" for p in _seen(stale)
        ]
        told += [
            f"{name}: {p} no longer {p.verb('fail')} with {signature}: taken out of that expectation{end}"
            for p in _seen(otherwise)
        ]
        told += [
            f"{name}: {p} {p.verb('fail')} with {signature}, but by more than at_most {entry.values['at_most']}: "
            "left alone, since a bound is a person's decision"
            for p in _seen(findings.too_far.get(index, []))
        ]
    return replace(row, entries=tuple(entries), below=above + row.below), told


def _without(
    entry: _Entry, cells: Sequence[CellRecord], shared: frozenset[str], subjects: Sequence[str]
) -> list[_Entry]:
    """`entry` without `cells`, in as many entries as that takes; one that others use too is copied, not changed."""
    if entry.anchor in shared:
        entry = replace(entry, anchor=None)
    products = _products(_left(entry.values, cells, subjects))
    return [
        replace(_rewritten(entry, {**entry.values, **part.values()}), anchor=entry.anchor if index == 0 else None)
        for index, part in enumerate(products)
    ]


def _left(
    values: Mapping[str, Any], cells: Sequence[CellRecord], subjects: Sequence[str]
) -> Iterator[tuple[str, str, str, str]]:
    """What an expectation of `values` covers beside `cells`; `any` is spelt out only where a part of it is gone."""
    for clause, backend in product(values["clauses"], values["backends"]):
        gone = {(cell.mode, cell.subject) for cell in cells if (cell.clause, cell.backend) == (clause, backend)}
        if any(mode is None for mode, _ in gone):
            continue  # a column without modes has this one cell
        modes: Iterable[str] = values["modes"]
        if ANY_MODE in modes:
            modes = _CLAUSE_MODES.get(clause, BOTH_MODES) if gone else [ANY_MODE]
        for mode in map(str, modes):
            without = {subject for other, subject in gone if other == mode}
            if not without:
                yield clause, backend, mode, values["subject"]
            elif values["subject"] == ANY_SUBJECT and None not in without:
                yield from ((clause, backend, mode, subject) for subject in subjects if subject not in without)


def _extended(name: str, row: _Row, cells: Sequence[CellRecord], known: Sequence[_Entry]) -> tuple[_Row, list[str]]:
    """The row with expectations of the failures `cells`; a `known` one of the very same words is used again."""
    entries = list(row.entries)
    told = []
    groups: dict[tuple[str | None, str | None], list[CellRecord]] = {}
    for cell in cells:
        groups.setdefault((cell.stage, cell.signature), []).append(cell)
    for (stage, signature), group in groups.items():
        for part in _seen(group):
            values = {**part.values(), "stage": str(stage), "signature": signature, "reason": TODO}
            again = next((entry for entry in known if entry.anchor and _same(entry.values, values)), None)
            entries.append(replace(again, above=()) if again else _Entry(values, _dumped(values)))
            how = f"added as *{again.anchor}" if again else f"added, reason {TODO}"
            told.append(f"{name}: {part} now {part.verb('fail')} with {signature}: {how}")
    return replace(row, entries=tuple(entries)), told


def _same(known: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `known` speaks of the same cells and failure as `new`, and says why."""
    lists = all(set(known[key]) == set(new[key]) for key in ("clauses", "backends", "modes"))
    return (
        lists and all(known[key] == new[key] for key in ("subject", "stage", "signature")) and known["reason"] != TODO
    )


def _seen(cells: Iterable[CellRecord]) -> list[_Product]:
    """Recorded cells as products, in the contract's order."""
    ordered = sorted(cells, key=lambda cell: (_CLAUSE_ORDER.get(cell.clause, len(CLAUSES)), cell.clause))
    return _products(
        (cell.clause, cell.backend, cell.mode or ANY_MODE, cell.subject or ANY_SUBJECT) for cell in ordered
    )


def _products(cells: Iterable[tuple[str, str, str, str]]) -> list[_Product]:
    """Products that together are exactly `cells`: of two simple ways to split, the one that needs fewer."""
    by_subject: dict[str, list[tuple[str, str, str]]] = {}
    for clause, backend, mode, subject in cells:
        by_subject.setdefault(subject, []).append((clause, backend, mode))
    found = []
    for subject, triples in by_subject.items():
        by_clause = _alike((clause, (backend, mode)) for clause, backend, mode in triples)
        by_column = _alike(((backend, mode), clause) for clause, backend, mode in triples)
        ways = [by_clause, [(clauses, columns) for columns, clauses in by_column]]
        split = [
            [_Product(clauses, *sides, subject) for clauses, columns in way for sides in _alike(columns)]
            for way in ways
        ]
        fewest: list[_Product] = min(split, key=len)
        found += fewest
    return found


def _alike(pairs: Iterable[tuple[_A, _B]]) -> list[tuple[tuple[_A, ...], tuple[_B, ...]]]:
    """The firsts of `pairs` that have equal sets of seconds, together with those; order is kept."""
    seconds: dict[_A, dict[_B, None]] = {}
    for first, second in pairs:
        seconds.setdefault(first, {})[second] = None
    groups: dict[frozenset[_B], list[_A]] = {}
    for first, those in seconds.items():
        groups.setdefault(frozenset(those), []).append(first)
    return [(tuple(firsts), tuple(seconds[firsts[0]])) for firsts in groups.values()]


# ---- the text ----


def _read(text: str) -> dict[str, _Row]:
    """Each architecture's `expect`."""
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        raise MatrixError(f"not YAML: {error}") from error
    if not isinstance(document, CommentedMap) or not isinstance(document.get("architectures"), CommentedMap):
        raise MatrixError("expected a mapping with the key architectures")
    lines = text.split("\n")
    known: dict[int, _Entry] = {}  # by the node's id: an alias is the same node as its anchor
    return {str(name): _row(str(name), row, lines, known) for name, row in document["architectures"].items()}


def _row(name: str, row: Any, lines: Sequence[str], known: dict[int, _Entry]) -> _Row:
    if not isinstance(row, CommentedMap) or row.fa.flow_style() or not row:
        raise MatrixError(f"{name}: expected a mapping with one key a line")
    expect = row.get("expect")
    if expect is None:
        last, indent = max(row.lc.key(key) for key in row if key in row.lc.data)
        end = _end(lines, last, indent)
        return _Row(end, end, indent)
    if not isinstance(expect, CommentedSeq) or "expect" not in (row.lc.data or {}) or expect.anchor.value:
        raise MatrixError(f"{name}: expect is no list of its own: write it out first")
    start, indent = row.lc.key("expect")
    end = _end(lines, start, indent)
    flow = expect.fa.flow_style()
    comment = re.search(r"(?<=[:\]])\s+#.*$", lines[end - 1 if flow else start])
    written, below = ([((), ())] * len(expect), ()) if flow else _items(lines[start + 1 : end])
    if len(written) != len(expect):
        raise MatrixError(f"{name}: expect is written in a way that this command does not know")
    entries = []
    for index, (node, (above, own)) in enumerate(zip(expect, written, strict=True)):
        if missing := [key for key in (*_KEYS[:6], "reason") if key not in node]:
            raise MatrixError(f"{name}: expect[{index}]: missing {', '.join(missing)}")
        values = _plain(node)
        fresh = _Entry(values, own or _dumped(values), node.anchor.value)
        entries.append(replace(known.setdefault(id(node), fresh), above=above))
    return _Row(start, end, indent, tuple(entries), comment.group() if comment else "", below)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _end(lines: Sequence[str], start: int, indent: int) -> int:
    """The line after the value of the key at line `start`, column `indent`; comments further left are not its own."""
    end = start + 1
    for number in range(start + 1, len(lines)):
        line = lines[number].strip()
        if line and (_depth(lines[number]) > indent or (_depth(lines[number]) == indent and line.startswith("- "))):
            end = number + 1
        elif line and not line.startswith("#"):
            break
    return end


def _items(lines: Sequence[str]) -> tuple[list[tuple[tuple[str, ...], tuple[str, ...]]], tuple[str, ...]]:
    """A block sequence's items, each as the comment lines above it and its own lines; and the lines below the last."""
    dash = min((_depth(line) for line in lines if line.lstrip().startswith("- ")), default=0)
    items: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    between: list[str] = []
    own: list[str] = []
    for line in lines:
        if _depth(line) == dash and line.lstrip().startswith("- "):
            items.append((tuple(between), ()))
            between, own = [], [line]
        elif own and _depth(line) > dash:
            own += [*between, line]  # what stood between was inside
            between = []
        else:
            between.append(line)
            continue
        items[-1] = (items[-1][0], _unindented(own))
    return items, tuple(between)


def _unindented(lines: Sequence[str]) -> tuple[str, ...]:
    """An item's lines without dash, anchor and indentation."""
    head = re.sub(r"^( *)- ", r"\1  ", lines[0])
    head = re.sub(r"^( *)&\S+ *", r"\1", head)
    inner = [*([head] if head.strip() else []), *lines[1:]]
    indent = min((_depth(line) for line in inner if line.strip() and not line.lstrip().startswith("#")), default=0)
    return tuple(line[min(indent, _depth(line)) :] for line in inner)


def _written(text: str, rows: Mapping[str, _Row], wanted: Mapping[str, _Row]) -> str:
    """`text` with the lists of `rows` replaced by those of `wanted` where they are written differently."""
    before, after = _lists(rows), _lists(wanted)
    lines = text.split("\n")
    for name in sorted(rows, key=lambda name: rows[name].start, reverse=True):
        if after[name] != before[name]:
            lines[rows[name].start : rows[name].end] = after[name]
    new = "\n".join(lines)
    # Whatever the way the file was written in: it has to say what was meant, or it is not changed.
    meant = {name: [entry.values for entry in row.entries] for name, row in wanted.items()}
    if {name: [entry.values for entry in row.entries] for name, row in _read(new).items()} != meant:
        raise MatrixError("the matrix is written in a way that this command would garble: change it by hand")
    return new


def _lists(rows: Mapping[str, _Row]) -> dict[str, list[str]]:
    """The lines of each row's `expect`, with every anchor at its first use."""
    defined: set[str] = set()
    lists = {}
    for name, row in rows.items():
        pad = " " * row.indent
        block: list[str] = []
        for entry in row.entries:
            block += entry.above
            if entry.anchor in defined:
                block.append(f"{pad}  - *{entry.anchor}")
                continue
            # What it builds on may be gone, or stand further down now.
            lines = entry.lines if defined.issuperset(entry.merged) else _dumped(entry.values)
            if entry.anchor:
                defined.add(entry.anchor)
                lines = (f"&{entry.anchor}", *lines)
            block.append(f"{pad}  - {lines[0]}")
            block += [f"{pad}    {line}" if line.strip() else line for line in lines[1:]]
        short = f"{pad}expect: [{', '.join(line.strip()[2:] for line in block)}]{row.comment}"
        if not row.entries:
            lists[name] = [pad + row.comment.strip()] if row.comment else []
        elif all(line.lstrip().startswith("- *") for line in block) and len(short) <= _WIDTH:
            lists[name] = [short]
        else:
            lists[name] = [f"{pad}expect:{row.comment}", *block]
        lists[name] += row.below
    return lists


def _shared(rows: Mapping[str, _Row], found: Mapping[str, _Findings]) -> frozenset[str]:
    """The anchors whose expectation must not change, because others use it that lose other cells, or none."""
    losses: dict[str, set[frozenset[tuple[str | None, ...]]]] = {}
    for name, row in rows.items():
        for index, entry in enumerate(row.entries):
            if entry.anchor:
                cells = found[name].stale.get(index, []) + found[name].otherwise.get(index, [])
                lost = frozenset((cell.clause, cell.backend, cell.mode, cell.subject) for cell in cells)
                losses.setdefault(entry.anchor, set()).add(lost)
    return frozenset(anchor for anchor, different in losses.items() if len(different) > 1)


def _apart(rows: Mapping[str, _Row], wanted: Mapping[str, _Row]) -> dict[str, _Row]:
    """`wanted` with entries written out where what they build on with `<<` no longer says what it said in `rows`."""
    said = {entry.anchor: entry.values for row in rows.values() for entry in row.entries}
    says = {entry.anchor: entry.values for row in wanted.values() for entry in row.entries}
    changed = {anchor for anchor, values in said.items() if says.get(anchor) != values}

    def apart(entry: _Entry) -> _Entry:
        return entry if changed.isdisjoint(entry.merged) else replace(entry, lines=_dumped(entry.values))

    return {name: replace(row, entries=tuple(map(apart, row.entries))) for name, row in wanted.items()}


def _rewritten(entry: _Entry, values: Mapping[str, Any]) -> _Entry:
    """`entry` with its axes as in `values`, touching only the lines of those that differ."""
    lines = list(entry.lines)
    if lines[0].startswith("{"):
        return replace(entry, values=values, lines=_dumped(values))
    for key in _AXES:
        if values[key] == entry.values[key]:
            continue
        start = next((number for number, line in enumerate(lines) if line.startswith(f"{key}:")), None)
        if start is None:  # it came with `<<`
            end = start = 1 if lines[0].startswith("<<:") else 0
            comment = None
        else:
            inside = [bool(line[:1].isspace() or not line) for line in lines[start + 1 :]]
            end = start + 1 + (inside.index(False) if False in inside else len(inside))
            comment = re.search(r"\s+#.*$", lines[start])
        new = list(_dumped({key: values[key]}))
        new[-1] += comment.group() if comment else ""
        lines[start:end] = new
    return replace(entry, values=values, lines=tuple(lines))


def _dumped(values: Mapping[str, Any]) -> tuple[str, ...]:
    """`values` as lines, in the matrix's order and style."""
    lines: list[str] = []
    width = _WIDTH - 8  # where an expectation's keys stand
    yaml = YAML()
    yaml.width = width
    for key in sorted(values, key=lambda key: _KEYS.index(key) if key in _KEYS else len(_KEYS)):
        value = values[key]
        folded = (
            textwrap.wrap(value, width - 2, break_long_words=False, break_on_hyphens=False) if key == "reason" else []
        )
        if len(folded) > 1 and " ".join(folded) == value:
            lines += [f"{key}: >-", *(f"  {line}" for line in folded)]
            continue
        if isinstance(value, list):
            value = CommentedSeq(value)
            value.fa.set_flow_style()
        elif isinstance(value, Mapping):
            value = CommentedMap({package: DoubleQuotedScalarString(text) for package, text in value.items()})
            value.fa.set_flow_style()
        stream = io.StringIO()
        yaml.dump({key: value}, stream)
        lines += stream.getvalue().splitlines()
    return tuple(lines)


def _plain(node: Any) -> Any:
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, str) else node
