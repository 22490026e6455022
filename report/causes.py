"""Root causes: failures with the same signature have the same cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.records.run import CellRecord

from .model import QUIET, Status, Variant, status_of, variant_of
from .names import plain_link, slug


@dataclass(frozen=True, slots=True)
class Cause:
    """A signature and every cell that has it. `signature` is the verdict where a record has none."""

    signature: str
    cells: tuple[CellRecord, ...]

    @property
    def page(self) -> str:
        """The address of its page; the same in every site, so that links to it stay valid."""
        return f"causes/{slug(self.signature)}.html"

    @property
    def architectures(self) -> tuple[str, ...]:
        """The affected architectures."""
        return tuple(dict.fromkeys(cell.architecture for cell in self.cells))

    @property
    def status(self) -> Status:
        """Its worst verdict and earliest stage."""
        return status_of(self.cells)

    @property
    def by_architecture(self) -> dict[str, dict[Variant, tuple[CellRecord, ...]]]:
        """Its cells by architecture and variant."""
        by_name: dict[str, dict[Variant, tuple[CellRecord, ...]]] = {}
        for cell in self.cells:
            by_variant, variant = by_name.setdefault(cell.architecture, {}), variant_of(cell)
            by_variant[variant] = (*by_variant.get(variant, ()), cell)
        return by_name

    @property
    def known(self) -> bool:
        """Whether each of its cells is a known failure."""
        return all(cell.verdict in ACCEPTABLE for cell in self.cells)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons that the matrix gives."""
        return tuple(dict.fromkeys(cell.expected.reason for cell in self.cells if cell.expected))

    @property
    def links(self) -> tuple[str, ...]:
        """Where it is reported; texts that are not web addresses are left out."""
        links = (plain_link(cell.expected.link) for cell in self.cells if cell.expected and cell.expected.link)
        return tuple(dict.fromkeys(filter(None, links)))

    @property
    def first(self) -> CellRecord:
        """The cell to show: an unexpected failure before a known one."""
        return min(self.cells, key=lambda cell: cell.verdict in ACCEPTABLE)

    @property
    def bundled(self) -> CellRecord | None:
        """The cell whose failure bundle to offer: the one to show, or else the first that has one."""
        return next((cell for cell in (self.first, *self.cells) if cell.bundle), None)


def has_cause(cell: CellRecord) -> bool:
    """Whether something went wrong with the cell itself; a cell that was not run has no cause."""
    return cell.verdict not in QUIET and cell.verdict is not Verdict.NOT_RUN


def causes(cells: Iterable[CellRecord]) -> tuple[Cause, ...]:
    """Every cause, unexpected ones first, then those with the most cells."""
    by_signature: dict[str, list[CellRecord]] = {}
    for cell in cells:
        if has_cause(cell):
            by_signature.setdefault(cell.signature or cell.verdict, []).append(cell)
    found = [Cause(signature, tuple(alike)) for signature, alike in by_signature.items()]
    return tuple(sorted(found, key=lambda cause: (cause.known, -len(cause.cells), cause.signature)))


def example_line(message: str) -> str:
    """A failure's message in one line: its first line, and what was observed if the message has the usual shape."""
    first, *others = message.strip().splitlines() or [""]
    observed = [line for line in others if line.startswith("  observed  ")]
    return " ".join([first, *observed[:1]])
