"""Root causes: failures with the same signature have the same cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord
from report.model import QUIET, Standing, Variant, standing, variant_of
from report.names import plain_link, slug


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong, and every cell that shows it. `signature` is the verdict where a record has none."""

    signature: str
    cells: tuple[CellRecord, ...]

    @property
    def page(self) -> str:
        """Its page; the same in every site, so that a link to it keeps."""
        return f"causes/{slug(self.signature)}.html"

    @property
    def architectures(self) -> tuple[str, ...]:
        """Who has it."""
        return tuple(dict.fromkeys(cell.architecture for cell in self.cells))

    @property
    def standing(self) -> Standing:
        """Its worst verdict and earliest stage."""
        return standing(self.cells)

    @property
    def by_architecture(self) -> dict[str, dict[Variant, tuple[CellRecord, ...]]]:
        """Its cells by who has it, and where."""
        found: dict[str, dict[Variant, tuple[CellRecord, ...]]] = {}
        for cell in self.cells:
            own, variant = found.setdefault(cell.architecture, {}), variant_of(cell)
            own[variant] = (*own.get(variant, ()), cell)
        return found

    @property
    def known(self) -> bool:
        """Whether the matrix lists every one of its cells."""
        return all(cell.verdict in ACCEPTABLE for cell in self.cells)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in the matrix's words."""
        return tuple(dict.fromkeys(cell.expected.reason for cell in self.cells if cell.expected))

    @property
    def links(self) -> tuple[str, ...]:
        """Where it is reported; only what is plainly an address."""
        found = (plain_link(cell.expected.link) for cell in self.cells if cell.expected and cell.expected.link)
        return tuple(dict.fromkeys(filter(None, found)))

    @property
    def first(self) -> CellRecord:
        """The cell to look at: an unlisted failure before a listed one."""
        return min(self.cells, key=lambda cell: cell.verdict in ACCEPTABLE)

    @property
    def bundled(self) -> CellRecord | None:
        """The cell whose failure bundle to offer: the one to look at, or else the first that has one."""
        return next((cell for cell in (self.first, *self.cells) if cell.bundle), None)


def has_cause(cell: CellRecord) -> bool:
    """Whether something went wrong with the cell itself; what was not run has no cause to be found."""
    return cell.verdict not in QUIET and cell.verdict is not Verdict.NOT_RUN


def causes(cells: Iterable[CellRecord]) -> tuple[Cause, ...]:
    """Every cause, unlisted ones first, then those that most cells have."""
    found: dict[str, list[CellRecord]] = {}
    for cell in cells:
        if has_cause(cell):
            found.setdefault(cell.signature or cell.verdict, []).append(cell)
    made = [Cause(signature, tuple(alike)) for signature, alike in found.items()]
    return tuple(sorted(made, key=lambda cause: (cause.known, -len(cause.cells), cause.signature)))
