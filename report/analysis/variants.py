"""Variants: the columns of a run, and the cells that each of them depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import Chapter
from conformance.core.verdicts import STAGES, Stage, Verdict
from conformance.records.run import CellRecord

#: The stage that a chapter's clauses are about.
_HOMES = {
    Chapter.EXP.name: Stage.EXPORT,
    Chapter.LOW.name: Stage.LOWER,
    Chapter.PAR.name: Stage.EXECUTE,
    Chapter.RUN.name: Stage.EXECUTE,
    Chapter.SEN.name: Stage.EAGER,
}


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """A column of a run: exporter, backend and mode. Parts that do not apply are empty."""

    subject: str
    backend: str
    mode: str

    def __str__(self) -> str:
        return " · ".join(filter(None, (self.subject, self.backend, self.mode)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that it goes through: a program that is not lowered has no lowering, emission or loading."""
        skipped = {Stage.LOWER, Stage.EMIT, Stage.LOAD} if self.backend == EXPORTED else set()
        if not self.subject:
            return (Stage.BUILD, Stage.EAGER)
        return tuple(stage for stage in STAGES if stage not in skipped)


#: One architecture's cells, by variant.
Columns: TypeAlias = Mapping[Variant, tuple[CellRecord, ...]]


def home_of(cell: CellRecord) -> Stage:
    """The stage that a cell's clause is about."""
    return Stage.EAGER if cell.subject is None else _HOMES.get(cell.clause.partition("-")[0], Stage.EXECUTE)


def by_architecture(cells: Iterable[CellRecord]) -> dict[str, tuple[CellRecord, ...]]:
    """Each architecture's cells, in the order of the record."""
    by_name: dict[str, list[CellRecord]] = {}
    for cell in cells:
        by_name.setdefault(cell.architecture, []).append(cell)
    return {name: tuple(alike) for name, alike in by_name.items()}


def variant_of(cell: CellRecord) -> Variant:
    """The cell's own column."""
    return Variant(cell.subject or "", cell.backend, cell.mode or "")


def variants(cells: Iterable[CellRecord]) -> tuple[Variant, ...]:
    """The columns of a run, the most informative first.

    Programs that are run come before those that are only lowered, and these before those that are only exported. Cells
    without a subject belong to every variant, and are one of their own only if there is no other.
    """
    run: dict[Variant, bool] = {}
    for cell in cells:
        variant = variant_of(cell)
        is_run = home_of(cell) is Stage.EXECUTE and cell.verdict is not Verdict.NOT_RUN
        run[variant] = run.get(variant, False) or is_run
    with_subject = [variant for variant in run if variant.subject]
    return tuple(sorted(with_subject or run, key=lambda variant: _reading_order(variant, is_run=run[variant])))


def _reading_order(variant: Variant, *, is_run: bool) -> tuple[bool, bool, bool, bool, Variant]:
    # `portable` delegates nothing: programs as a device would run them come first.
    late = variant.backend in {EXPORTED, EAGER}
    return variant.subject != "reference", late, not is_run, variant.backend == "portable", variant


def columns(cells: Iterable[CellRecord]) -> Columns:
    """The cells of one architecture by variant; those without a subject too."""
    by_variant: dict[Variant, list[CellRecord]] = {}
    for cell in cells:
        by_variant.setdefault(variant_of(cell), []).append(cell)
    return {variant: tuple(alike) for variant, alike in by_variant.items()}


def cells_of(columns: Columns, variant: Variant) -> tuple[CellRecord, ...]:
    """The cells that `variant` depends on: of the fixture, of the exported program that was lowered, and its own."""
    exported = Variant(variant.subject, EXPORTED, variant.mode)
    parts = [column for column in columns if not column.subject or column in (variant, exported)]
    return tuple(cell for part in parts for cell in columns[part])
