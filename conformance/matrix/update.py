"""Rewrite the known failures to match a run: ids added to rows, entries added and narrowed, reasons left to people.

A failure that no cause explains becomes an entry with `reason: TODO`, which `load_matrix` refuses: the files
show what is left to do.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from conformance.core.cells import EAGER, is_own_export, needs, row_name, split_row
from conformance.core.contract import BOTH_MODES, CLAUSES, Mode
from conformance.core.exporter_names import KNOWN
from conformance.core.text import plural
from conformance.core.verdicts import ACCEPTABLE, Stage, Verdict
from conformance.matrix.known_failures import (
    ANY_EXPORTER,
    TODO,
    Blocker,
    Blocking,
    Cause,
    Pattern,
    Undecodable,
    Violation,
)
from conformance.matrix.schema import Matrix, is_about_row, patterns_for
from conformance.matrix.variations import Variation
from conformance.records.run import CellRecord, RunRecord

#: The file of entries that a person has still to explain, and to move to the owner of the cause.
UNEXPLAINED = "unexplained"
#: So many clauses must end alike before that counts as a blocked stage.
_LEAST_BLOCKED = 3
#: By clause, its modes, and None for a cell of the fixture alone.
_MODES: dict[str, tuple[Mode | None, ...]] = {clause.id: (*clause.modes, None) for clause in CLAUSES}
_CLAUSE_ORDER = {clause.id: index for index, clause in enumerate(CLAUSES)}
_BLOCKING = frozenset(get_args(Blocking))

#: A backend and a mode.
Column = tuple[str, str | None]
#: Clauses, backends and modes.
Lost = frozenset[tuple[str, str, str | None]]


@dataclass(frozen=True, slots=True)
class Update:
    """The new matrix, and a sentence for each change to it and for each thing left to a person."""

    matrix: Matrix
    changes: tuple[str, ...]


@dataclass(slots=True)
class _Draft:
    """The matrix while it is being changed."""

    known: dict[str, list[str]]
    causes: dict[str, Cause]
    owners: dict[str, str]
    changes: list[str] = field(default_factory=list)

    def rows_of(self, cause: str) -> list[str]:
        return [row for row, known in self.known.items() if cause in known]

    def new_id(self, wanted: str) -> str:
        names = (wanted, *(f"{wanted}-{number}" for number in range(2, 10_000)))
        return next(name for name in names if name not in self.causes)


def updated_matrix(matrix: Matrix, run: RunRecord) -> Update:
    """The `matrix` with the known failures that `run` calls for, and without those that it shows to be stale."""
    draft = _Draft(
        {name: list(row.known) for name, row in matrix.rows.items()},
        dict(matrix.causes),
        dict(matrix.owners),
    )
    versions = run.environment.packages
    cells: dict[str, list[CellRecord]] = defaultdict(list)
    for cell in run.cells:
        cells[cell.architecture].append(cell)
    for name, row_cells in cells.items():
        described = sum(map(_is_described, row_cells))
        if name not in draft.known and described:
            draft.changes.append(f"{name}: has no row in the matrix: {plural(described, 'cell')} skipped")
    judged = {name: cells[name] for name in draft.known if name in cells}
    for cause_id in list(draft.causes):
        if draft.causes[cause_id].applies_to(versions):
            _take_out_stale(draft, cause_id, judged)
    before = {name: list(known) for name, known in draft.known.items()}
    # Only now, so that what is reused is what is left.
    for name, row_cells in judged.items():
        _add_new(draft, name, row_cells, versions)
    _inherit(draft, before, judged)
    _drop_unnamed(draft)
    rows = {
        name: dataclasses.replace(row, known=tuple(draft.known[name])) for name, row in matrix.architectures.items()
    }
    variations = {name: _with_known(name, each, draft.known) for name, each in matrix.variations.items()}
    updated = dataclasses.replace(
        matrix, architectures=rows, causes=draft.causes, owners=draft.owners, variations=variations
    )
    return Update(updated, (*draft.changes, *_never_expected(run)))


def _with_known(name: str, variation: Variation, known: Mapping[str, Sequence[str]]) -> Variation:
    """The `variation` with the causes that its rows name now, as differences from those of the architectures' rows."""
    rows = {}
    for architecture, row in variation.rows.items():
        own, varied = known[architecture], known[row_name(architecture, name)]
        rows[architecture] = dataclasses.replace(
            row,
            known=tuple(each for each in varied if each not in own),
            without=tuple(each for each in own if each not in varied),
        )
    return dataclasses.replace(variation, rows=rows)


def _is_described(cell: CellRecord) -> bool:
    """Whether an entry can follow from `cell`. A crash or a timeout has no signature to hold a later one to."""
    described = cell.stage is not None and cell.signature is not None
    return cell.verdict is Verdict.UNEXPECTED_PASS or (cell.verdict is Verdict.FAIL and described)


def _never_expected(run: RunRecord) -> list[str]:
    verdicts = [cell.verdict.value for cell in run.cells if cell.verdict not in ACCEPTABLE and not _is_described(cell)]
    kinds = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in dict.fromkeys(verdicts))
    return (
        [f"{plural(len(verdicts), 'cell')} left alone, because these are never expected: {kinds}"] if verdicts else []
    )


# What no longer fails


def _take_out_stale(draft: _Draft, cause_id: str, cells: Mapping[str, Sequence[CellRecord]]) -> None:
    cause = draft.causes[cause_id]
    stale = {row: _stale(cause, row, cells.get(row, ())) for row in draft.rows_of(cause_id)}
    for row, lost in stale.items():
        for verdict, how in ((Verdict.UNEXPECTED_PASS, "passes"), (Verdict.FAIL, "fails otherwise")):
            named = _named(cell for cell in lost if cell.verdict is verdict)
            draft.changes += [f"{row}: {name} {how}: taken out of {cause_id}" for name in named]
        draft.changes += [
            f"{row}: {name} fails as {cause_id} says, but by more than at_most: left alone, since a bound is a "
            "person's decision"
            for name in _named(_beyond_bound(cause, row, cells.get(row, ())))
        ]
    different = {frozenset(map(_key, lost)) for lost in stale.values()}
    if different == {frozenset()}:
        return
    if len(different) == 1:
        parts = [cause]
        for row, lost in stale.items():  # a pattern may be about some of the rows alone
            parts = [
                part
                for each in parts
                for part in _narrowed(each, row, [cell for cell in lost if each.concerns(cell.subject)], cells[row])
            ]
        _replace(draft, cause_id, list(stale), parts)
        return
    for row, lost in stale.items():
        if lost:
            draft.known[row].remove(cause_id)
            for part in _narrowed(cause, row, lost, cells[row]):
                _name(draft, row, draft.new_id(f"{cause_id}-{row}".replace("+", "-")), part, draft.owners[cause_id])


def _replace(draft: _Draft, cause_id: str, rows: Iterable[str], parts: Sequence[Cause]) -> None:
    """Put `parts` in the place of a cause, in all of its rows."""
    owner = draft.owners[cause_id]
    for row in rows:
        draft.known[row].remove(cause_id)
    del draft.causes[cause_id], draft.owners[cause_id]
    for part in parts:
        part_id = draft.new_id(cause_id)
        for row in rows:
            _name(draft, row, part_id, part, owner)


def _name(draft: _Draft, row: str, cause_id: str, cause: Cause, owner: str) -> None:
    draft.causes[cause_id], draft.owners[cause_id] = cause, owner
    draft.known[row].append(cause_id)


def _stale(cause: Cause, row: str, cells: Iterable[CellRecord]) -> list[CellRecord]:
    """The cells that should fail by `cause`, and that passed or failed in another way."""
    lost = []
    for cell in filter(_is_described, cells):
        covering = [each for each in patterns_for(cause, row) if each.covers(cell) and cause.concerns(cell.subject)]
        as_said = any(each.signature == cell.signature for each in covering)
        required = any(each.requires(cell) for each in covering)
        if required and not (cell.verdict is Verdict.FAIL and as_said):
            lost.append(cell)
    return lost


def _beyond_bound(cause: Cause, row: str, cells: Iterable[CellRecord]) -> Iterator[CellRecord]:
    bounded = [each for each in patterns_for(cause, row) if isinstance(each, Violation) and each.at_most is not None]
    for cell in cells:
        as_said = any(pattern.covers(cell) and pattern.signature == cell.signature for pattern in bounded)
        if as_said and cell.verdict is Verdict.FAIL and cause.concerns(cell.subject):
            yield cell


def _narrowed(cause: Cause, row: str, lost: Sequence[CellRecord], judged: Iterable[CellRecord]) -> list[Cause]:
    """The `cause` without the cells `lost`: one for all exporters that lost the same cells, or none."""
    exporters = set(KNOWN if ANY_EXPORTER in cause.exporter else cause.exporter) | {cell.subject for cell in lost}
    if None in exporters:  # cells of the fixture alone
        exporters = {None}
    sharing: dict[Lost, list[str]] = {}
    for exporter in sorted(exporters, key=str):
        gone: Lost = frozenset((cell.clause, cell.backend, cell.mode) for cell in lost if cell.subject == exporter)
        sharing.setdefault(gone, []).append(exporter or ANY_EXPORTER)
    parts = []
    for gone, names in sharing.items():
        part = dataclasses.replace(cause, exporter=cause.exporter if len(sharing) == 1 else tuple(names))
        its_cells = [cell for cell in judged if part.concerns(cell.subject)]
        patterns = tuple(other for pattern in cause.fails for other in _without(pattern, row, gone, its_cells))
        if patterns:
            parts.append(dataclasses.replace(part, fails=patterns))
    return parts


def _without(pattern: Pattern, row: str, gone: Lost, judged: Sequence[CellRecord]) -> Iterator[Pattern]:
    """The `pattern` without the cells `gone`. A stage that one of them needed is not blocked after all."""
    if isinstance(pattern, Undecodable) or (pattern.rows and row not in pattern.rows):
        yield pattern
        return
    if not any(_is_about(pattern, *key) for key in gone):
        yield pattern
        return
    columns: dict[Column, tuple[str, ...]] = {}
    intact: dict[Column, None] = {}
    for backend, mode in _columns(pattern):
        lost = {clause for clause, other, its in gone if (other, its) == (backend, mode)}
        if isinstance(pattern, Violation):
            columns[backend, mode] = tuple(clause for clause in _clauses_in(pattern, mode) if clause not in lost)
        elif any(needs(clause, backend, pattern.blocks) for clause in lost):
            columns[backend, mode] = tuple(
                cell.clause
                for cell in judged
                if (cell.backend, cell.mode, cell.signature) == (backend, mode, pattern.signature)
            )
        else:
            intact[backend, mode] = None
    if isinstance(pattern, Blocker):
        for names, mode in _joined(intact):
            yield dataclasses.replace(pattern, on=names, mode=mode)
    at_most = pattern.at_most if isinstance(pattern, Violation) else None
    yield from _violations(columns, pattern.signature, at_most, pattern.rows)


def _columns(pattern: Violation | Blocker) -> Iterator[tuple[str, Mode | None]]:
    modes: tuple[Mode | None, ...] = (pattern.mode,) if pattern.mode else BOTH_MODES
    for backend in pattern.on:
        for mode in modes if backend != EAGER else (None,):
            yield backend, mode


def _clauses_in(pattern: Violation, mode: Mode | None) -> Iterator[str]:
    """Those that have cells in `mode`."""
    return (clause for clause in pattern.clauses if mode in _MODES.get(clause, BOTH_MODES))


def _is_about(pattern: Violation | Blocker, clause: str, backend: str, mode: str | None) -> bool:
    named = clause in pattern.clauses if isinstance(pattern, Violation) else needs(clause, backend, pattern.blocks)
    return named and backend in pattern.on and pattern.mode in (None, mode)


# What fails now


def _add_new(draft: _Draft, row: str, cells: Sequence[CellRecord], versions: Mapping[str, str]) -> None:
    """Explain the row's failures by causes that are known, or list them unexplained.

    A cause of other rows explains a wrong result only if the run judged every cell that it lists, and none otherwise.
    """
    new = [
        cell
        for cell in cells
        if cell.verdict is Verdict.FAIL
        and _is_described(cell)
        and not any(_explains(draft.causes[name], row, cell, versions) for name in draft.known[row])
    ]
    for exporter, signature in dict.fromkeys((cell.subject, str(cell.signature)) for cell in new):
        failing = [cell for cell in new if (cell.subject, cell.signature) == (exporter, signature)]
        for cause_id, cause in list(draft.causes.items()):
            if (
                cause_id not in draft.known[row]
                and cause.reason != TODO
                and _fits(cause, row, cells, failing, versions)
                and (_is_specific(signature) or _is_complete(cause, row, exporter, cells))
            ):
                draft.known[row].append(cause_id)
                taken = [cell for cell in failing if _explains(cause, row, cell, versions)]
                failing = [cell for cell in failing if cell not in taken]
                draft.changes += [f"{row}: {name} fails with {signature}: {cause_id} added" for name in _named(taken)]
        if failing:
            _list(draft, row, exporter, signature, failing, cells, versions)


def _inherit(draft: _Draft, before: Mapping[str, Sequence[str]], judged: Collection[str]) -> None:
    """What was added to an architecture's row holds for its variations, but for those that the run judged as well."""
    for name, known in draft.known.items():
        architecture, variation = split_row(name)
        if variation is not None and name not in judged:
            known += [each for each in draft.known[architecture] if each not in (*before[architecture], *known)]


def _explains(cause: Cause, row: str, cell: CellRecord, versions: Mapping[str, str]) -> bool:
    return (
        cause.applies_to(versions)
        and cause.concerns(cell.subject)
        and any(each.covers(cell) and each.signature == cell.signature for each in patterns_for(cause, row))
    )


def _fits(
    cause: Cause,
    row: str,
    cells: Iterable[CellRecord],
    failing: Iterable[CellRecord],
    versions: Mapping[str, str],
) -> bool:
    """Whether `cause` explains some of `failing`, and nothing that the run saw of this row contradicts it."""
    if not any(_explains(cause, row, cell, versions) for cell in failing):
        return False
    for cell in cells:
        if not cause.concerns(cell.subject) or cell.verdict in (Verdict.NOT_APPLICABLE, Verdict.NOT_RUN):
            continue
        covering = [each for each in patterns_for(cause, row) if each.covers(cell)]
        if any(each.requires(cell) for each in covering) and not any(
            each.signature == cell.signature for each in covering
        ):
            return False
    return True


def _is_specific(signature: str) -> bool:
    """Whether what fails alike fails for one cause. A difference in what a program computes may have any."""
    return not signature.startswith(f"{Stage.EXECUTE}:")


def _is_complete(cause: Cause, row: str, exporter: str | None, cells: Iterable[CellRecord]) -> bool:
    """Whether the run judged every cell of this row and `exporter` that `cause` lists by its clause."""
    judged = {_key(cell) for cell in cells if cell.verdict is not Verdict.NOT_RUN}
    return all(
        (clause, backend, mode, exporter if mode else None) in judged
        for pattern in patterns_for(cause, row)
        if isinstance(pattern, Violation)
        for backend, mode in _columns(pattern)
        for clause in _clauses_in(pattern, mode)
    )


def _list(
    draft: _Draft,
    row: str,
    exporter: str | None,
    signature: str,
    failing: Sequence[CellRecord],
    cells: Sequence[CellRecord],
    versions: Mapping[str, str],
) -> None:
    """Add patterns for `failing` to the row's own cause of this very failure, or to a new entry."""
    patterns = tuple(_patterns(signature, failing, [cell for cell in cells if cell.subject == exporter]))
    names = _named(failing)
    for cause_id in draft.known[row]:
        cause = draft.causes[cause_id]
        alike = any(pattern.signature == signature for pattern in patterns_for(cause, row))
        in_force = cause.concerns(exporter) and cause.applies_to(versions) and cause.reason != TODO
        if alike and _is_specific(signature) and in_force and draft.rows_of(cause_id) == [row]:
            draft.causes[cause_id] = dataclasses.replace(cause, fails=(*cause.fails, *patterns))
            draft.changes += [f"{row}: {name} fails with {signature}: added to {cause_id}" for name in names]
            return
    new = Cause((exporter or ANY_EXPORTER,), TODO, patterns)
    same = (name for name, cause in draft.causes.items() if cause == new)
    cause_id = next(same, None) or draft.new_id(_slug(row, signature))
    _name(draft, row, cause_id, new, UNEXPLAINED)
    draft.changes += [f"{row}: {name} fails with {signature}: {cause_id} added, reason {TODO}" for name in names]


def _patterns(
    signature: str, failing: Sequence[CellRecord], judged: Sequence[CellRecord]
) -> Iterator[Violation | Blocker]:
    """What `failing`, of one exporter and with one signature, are as patterns."""
    stage = Stage(signature.partition(":")[0])
    blocked: dict[Column, None] = {}
    columns: dict[Column, tuple[str, ...]] = {}
    for column in dict.fromkeys((cell.backend, cell.mode) for cell in failing):
        clauses = {cell.clause for cell in failing if (cell.backend, cell.mode) == column}
        needing = {
            cell.clause
            for cell in judged
            if (cell.backend, cell.mode) == column
            and cell.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_RUN)
            and needs(cell.clause, cell.backend, stage)
            and not (stage is Stage.EXPORT and is_own_export(cell.clause))
        }
        if stage in _BLOCKING and len(needing) >= _LEAST_BLOCKED and needing <= clauses:
            blocked[column] = None
        else:
            columns[column] = tuple(clauses)
    for names, mode in _joined(blocked):
        yield Blocker(names, stage, signature, mode)  # type: ignore[arg-type]  # one of _BLOCKING
    yield from _violations(columns, signature)


def _violations(
    columns: Mapping[Column, Iterable[str]], signature: str, at_most: float | None = None, rows: tuple[str, ...] = ()
) -> Iterator[Violation]:
    """Violations with these clauses, by backend and mode; columns with the same clauses share one."""
    by_clauses: dict[tuple[str, ...], list[Column]] = {}
    for column, clauses in columns.items():
        ordered = tuple(sorted(clauses, key=lambda clause: _CLAUSE_ORDER.get(clause, len(CLAUSES))))
        if ordered:
            by_clauses.setdefault(ordered, []).append(column)
    for clauses, sharing in by_clauses.items():
        for names, mode in _joined(sharing):
            yield Violation(names, clauses, signature, mode, at_most, rows)


def _joined(columns: Iterable[Column]) -> Iterator[tuple[tuple[str, ...], Mode | None]]:
    """Backends and the mode they share; None where it is both, or none."""
    modes: dict[str, list[str | None]] = {}
    for backend, mode in columns:
        modes.setdefault(backend, []).append(mode)
    backends: dict[tuple[str | None, ...], list[str]] = {}
    for backend, its_modes in modes.items():
        backends.setdefault(tuple(sorted(its_modes, key=str)), []).append(backend)
    for shared, names in backends.items():
        one = shared[0] if len(shared) == 1 else None
        yield tuple(names), Mode(one) if one else None


# Words


def _drop_unnamed(draft: _Draft) -> None:
    for row, known in draft.known.items():
        # What it was named for may have been taken out, and what is left be about other rows.
        known[:] = [cause for cause in known if any(is_about_row(each, row) for each in draft.causes[cause].fails)]
    named = {cause for known in draft.known.values() for cause in known}
    for cause_id in [name for name in draft.causes if name not in named]:
        del draft.causes[cause_id], draft.owners[cause_id]
        draft.changes.append(f"{cause_id}: no row names it any longer: taken out")
    for cause_id, cause in draft.causes.items():
        naming = draft.rows_of(cause_id)
        patterns = [_for_rows(pattern, naming) for pattern in cause.fails]
        draft.causes[cause_id] = dataclasses.replace(cause, fails=tuple(filter(None, patterns)))


def _for_rows(pattern: Pattern, naming: Collection[str]) -> Pattern | None:
    """The `pattern` without rows that no longer name its cause; None where it was for these alone."""
    if not pattern.rows:
        return pattern
    rows = tuple(row for row in pattern.rows if any(row in (name, split_row(name)[0]) for name in naming))
    return dataclasses.replace(pattern, rows=rows) if rows else None


def _named(cells: Iterable[CellRecord]) -> list[str]:
    """Cells as a reader names them, by backend, mode and exporter: ``PAR-1, PAR-3 on xnnpack decode (reference)``."""
    clauses: dict[str, list[str]] = {}
    for cell in cells:
        mode = f" {cell.mode}" if cell.mode else ""
        exporter = f" ({cell.subject})" if cell.subject else ""
        clauses.setdefault(f"{cell.backend}{mode}{exporter}", []).append(cell.clause)
    return [f"{', '.join(ids)} on {column}" for column, ids in clauses.items()]


def _key(cell: CellRecord) -> tuple[str, str, str | None, str | None]:
    return cell.clause, cell.backend, cell.mode, cell.subject


def _slug(row: str, signature: str) -> str:
    words = re.findall(r"[a-z0-9]+", signature.lower())[:3]
    return "-".join([row.lower(), *words])
