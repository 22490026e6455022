"""Rewrite the expectations in `models_matrix.yaml` to what a run saw, and leave the reasons to people.

A failure that nobody explained is listed with `reason: TODO`, which `load_matrix` refuses: the file says by itself what
is left to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from conformance.core.exporter_names import KNOWN
from conformance.core.verdicts import ACCEPTABLE, Stage, Verdict
from conformance.matrix.schema import ANY_MODE, TODO, Expectation, fits, parsed
from conformance.matrix.selectors import CellSelector, in_order, remaining_selectors, selectors_of
from conformance.matrix.yaml_edit import anchor, closed, narrowed, nodes, opened, put, settle, unexplained, written_out
from conformance.records.run import CellRecord, RunRecord


@dataclass(frozen=True, slots=True)
class Update:
    """The matrix's new text, and a sentence for each change to it and for each thing left to a person."""

    text: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Findings:
    """What a run says of one row: the cells that its expectations, by index, no longer describe, and the new ones."""

    lost: dict[int, list[CellRecord]] = field(default_factory=dict)
    too_far: dict[int, list[CellRecord]] = field(default_factory=dict)
    new: list[CellRecord] = field(default_factory=list)


def updated_matrix(text: str, run: RunRecord) -> Update:
    """The matrix `text` with the expectations that `run` calls for, and without those it calls stale.

    Raises:
        MatrixError: `text` is not a matrix, or is written in a way that only a person should change.
    """
    matrix = parsed(text, drafted=True)
    document = opened(text)
    rows: Mapping[str, CommentedMap] = document["architectures"]
    expect = {name: row.expect for name, row in matrix.architectures.items()}
    versions = run.environment.packages
    cells: dict[str, list[CellRecord]] = {}
    for cell in filter(_speaks, run.cells):
        cells.setdefault(cell.architecture, []).append(cell)
    found = {name: _findings(known, cells.get(name, []), versions) for name, known in expect.items()}
    explained = [
        node
        for name, row in rows.items()
        for node, known in zip(nodes(row), expect[name], strict=True)
        if anchor(node) and known.applies_to(versions) and known.reason != TODO
    ]
    subjects = tuple(dict.fromkeys([*KNOWN, *(cell.subject for cell in run.cells if cell.subject)]))
    shared = _shared(rows, found)
    told = [
        f"{name}: has no row in the matrix: {_counted(len(those))} skipped"
        for name, those in cells.items()
        if name not in rows
    ]
    for name, findings in found.items():
        told += [f"{name}: {change}" for change in _losses(expect[name], findings)]
        _reduce(rows[name], expect[name], findings.lost, shared, subjects)
    # Only now, so that what is used again is what is left.
    for name, findings in found.items():
        told += [f"{name}: {change}" for change in _extend(rows[name], findings.new, explained, versions)]
    settle(rows, {name for name, findings in found.items() if findings.lost or findings.new})
    return Update(closed(document, text), (*told, *_unusable(run)))


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


def _findings(expect: Sequence[Expectation], cells: Iterable[CellRecord], versions: Mapping[str, str]) -> _Findings:
    findings = _Findings()
    for cell in cells:
        # All of them, not the first: what the first no longer covers, the next would.
        lost = [i for i, known in enumerate(expect) if known.covers(cell) and known.applies_to(versions)]
        if cell.verdict is Verdict.FAIL:
            ends = [(expect[i].stage, expect[i].signature) for i in lost]
            place = ends.index(end) if (end := (cell.stage, cell.signature)) in ends else None
            if place is None:
                findings.new.append(cell)
            elif place == 0 and expect[lost[0]].at_most is not None:
                findings.too_far.setdefault(lost[0], []).append(cell)
            lost = lost[:place]
        for index in lost:
            findings.lost.setdefault(index, []).append(cell)
    return findings


def _losses(expect: Sequence[Expectation], findings: _Findings) -> list[str]:
    """What to tell of the expectations that the run did not bear out."""
    told = []
    for index, known in enumerate(expect):
        lost = findings.lost.get(index, [])
        for how, verdict in (("passed", Verdict.UNEXPECTED_PASS), ("failed otherwise", Verdict.FAIL)):
            parts = selectors_of(cell for cell in lost if cell.verdict is verdict)
            told += [f"{part} {how}: taken out of the expectation of {known.signature}" for part in parts]
        told += [
            f"{part} failed with {known.signature}, but by more than at_most {known.at_most}: left alone, since a "
            "bound is a person's decision"
            for part in selectors_of(findings.too_far.get(index, []))
        ]
    return told


def _shared(rows: Mapping[str, CommentedMap], found: Mapping[str, _Findings]) -> frozenset[str]:
    """The anchors whose expectation must not change, because others use it that lose other cells, or none."""
    losses: dict[str, set[frozenset[tuple[str | None, ...]]]] = {}
    for name, row in rows.items():
        for index, node in enumerate(nodes(row)):
            cells = found[name].lost.get(index, [])
            lost = frozenset((cell.clause, cell.backend, cell.mode, cell.subject) for cell in cells)
            losses.setdefault(anchor(node) or "", set()).add(lost)
    return frozenset(name for name, different in losses.items() if name and len(different) > 1)


def _reduce(
    row: CommentedMap,
    expect: Sequence[Expectation],
    lost: Mapping[int, Sequence[CellRecord]],
    shared: frozenset[str],
    subjects: Sequence[str],
) -> None:
    """Take the cells out that the row's expectations no longer describe; what others use too is copied for that."""
    for index in sorted(lost, reverse=True):
        node = row["expect"][index]
        parts = remaining_selectors(expect[index], lost[index], subjects)
        copies = [written_out(node) for _ in parts]
        left = copies if anchor(node) in shared else [node, *copies[1:]]
        put(row, index, [narrowed(each, part) for each, part in zip(left, parts, strict=False)])


def _extend(
    row: CommentedMap, cells: Sequence[CellRecord], explained: Sequence[CommentedMap], versions: Mapping[str, str]
) -> list[str]:
    """Add expectations of the failures `cells`; an `explained` one of the very same words is used again."""
    told = []
    for stage, signature in dict.fromkeys((str(cell.stage), str(cell.signature)) for cell in cells):
        left = [cell for cell in cells if (cell.stage, cell.signature) == (stage, signature)]
        causes = _causes(row, stage, signature, versions)
        for node in causes:
            parts, left = _widened(node, left)
            told += [f"{part} failed with {signature}: added to the expectation of it" for part in parts]
        for part in selectors_of(left):
            entry, how = _entry(unexplained(stage, signature, part), part, explained, causes)
            row.setdefault("expect", CommentedSeq()).append(entry)
            told.append(f"{part} failed with {signature}: {how}")
    return told


def _entry(
    new: CommentedMap, part: CellSelector, explained: Sequence[CommentedMap], causes: Sequence[CommentedMap]
) -> tuple[CommentedMap, str]:
    """What to list for `part`, which `new` describes without a reason, and in words how it came about."""
    for known in explained:
        if _words(known) == _words(new):
            return known, f"added as *{anchor(known)}"
    for cause in causes:
        if cause["subject"] == part.subject:
            return narrowed(written_out(cause), part), "added with the reason that is given for it"
    return new, f"added, reason {TODO}"


def _causes(row: CommentedMap, stage: str, signature: str, versions: Mapping[str, str]) -> list[CommentedMap]:
    """The row's explained expectations of this very failure, if it comes before the program is run.

    What goes wrong in making a program goes wrong for all that is asked of it. A difference in what the program
    computes has a signature that says too little of its cause.
    """
    if stage == Stage.EXECUTE:
        return []
    return [
        node
        for node in nodes(row)
        if (node["stage"], node["signature"]) == (stage, signature)
        and node["reason"] != TODO
        and fits(node.get("when", {}), versions)
    ]


def _widened(node: CommentedMap, cells: Sequence[CellRecord]) -> tuple[list[CellSelector], list[CellRecord]]:
    """Add the clauses to `node` that failed on all of its backends and modes; what, and the cells that are left."""
    columns = {(backend, mode) for backend in node["backends"] for mode in node["modes"]}
    inside = [
        cell for cell in cells if cell.subject == node["subject"] and (cell.backend, cell.mode or ANY_MODE) in columns
    ]
    count = Counter(cell.clause for cell in inside)
    whole = {clause for clause, number in count.items() if number == len(columns)} - set(node["clauses"])
    if anchor(node) or not whole:  # what is anchored speaks of other rows too
        return [], list(cells)
    taken = [cell for cell in inside if cell.clause in whole]
    clauses = in_order({*node["clauses"], *whole})
    subject = node["subject"]
    narrowed(node, CellSelector(clauses, tuple(node["backends"]), tuple(node["modes"]), subject))
    return selectors_of(taken), [cell for cell in cells if cell not in taken]


def _words(node: CommentedMap) -> tuple[object, ...]:
    """What an expectation says of cells and failure, whatever the order of its lists."""
    lists = (frozenset(node[key]) for key in ("clauses", "backends", "modes"))
    return (*lists, node["subject"], node["stage"], node["signature"])
