"""Cells as products clauses × backends × modes: what one expectation can say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from conformance.core.contract import BOTH_MODES, CLAUSES
from conformance.matrix.schema import ANY_MODE, ANY_SUBJECT, Expectation
from conformance.records.run import CellRecord

_CLAUSE_ORDER = {clause.id: index for index, clause in enumerate(CLAUSES)}
_CLAUSE_MODES = {clause.id: clause.modes for clause in CLAUSES}

_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True, slots=True)
class CellSelector:
    """The cells with one of these clauses, backends and modes and this subject."""

    clauses: tuple[str, ...]
    backends: tuple[str, ...]
    modes: tuple[str, ...]
    subject: str

    def __str__(self) -> str:
        modes = f" {', '.join(self.modes)}" if self.modes != (ANY_MODE,) else ""
        subject = f" ({self.subject})" if self.subject != ANY_SUBJECT else ""
        return f"{', '.join(self.clauses)} on {', '.join(self.backends)}{modes}{subject}"


def selectors_of(cells: Iterable[CellRecord]) -> list[CellSelector]:
    """Recorded cells as products, in the contract's order."""
    ordered = sorted(cells, key=lambda cell: _place(cell.clause))
    return _products(
        (cell.clause, cell.backend, cell.mode or ANY_MODE, cell.subject or ANY_SUBJECT) for cell in ordered
    )


def in_order(clauses: Iterable[str]) -> tuple[str, ...]:
    """Clauses in the contract's order."""
    return tuple(sorted(clauses, key=_place))


def remaining_selectors(known: Expectation, cells: Sequence[CellRecord], subjects: Sequence[str]) -> list[CellSelector]:
    """What `known` covers beside `cells`."""
    return _products(_left(known, cells, subjects))


def _place(clause: str) -> tuple[int, str]:
    return _CLAUSE_ORDER.get(clause, len(CLAUSES)), clause


def _left(
    known: Expectation, cells: Sequence[CellRecord], subjects: Sequence[str]
) -> Iterator[tuple[str, str, str, str]]:
    """Each cell that is left; `any` is spelt out only where a part of it is gone."""
    for clause, backend in product(known.clauses, known.backends):
        gone = {(cell.mode, cell.subject) for cell in cells if (cell.clause, cell.backend) == (clause, backend)}
        if any(mode is None for mode, _ in gone):
            continue  # a column without modes has this one cell
        modes: Iterable[str] = known.modes
        if ANY_MODE in known.modes:
            modes = _CLAUSE_MODES.get(clause, BOTH_MODES) if gone else [ANY_MODE]
        for mode in map(str, modes):
            without = {subject for other, subject in gone if other == mode}
            if not without:
                yield clause, backend, mode, known.subject
            elif known.subject == ANY_SUBJECT and None not in without:
                yield from ((clause, backend, mode, subject) for subject in subjects if subject not in without)


def _products(cells: Iterable[tuple[str, str, str, str]]) -> list[CellSelector]:
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
            [CellSelector(clauses, *sides, subject) for clauses, columns in way for sides in _alike(columns)]
            for way in ways
        ]
        fewest: list[CellSelector] = min(split, key=len)
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
