"""Causes of failures: cells grouped by error, reason and place.

A group is not proof of one cause: the same error may be raised for several reasons, until somebody has found them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from conformance.core.text import one_line
from conformance.core.verdicts import ACCEPTABLE, SIGNATURE_CHARS, Verdict
from conformance.records.run import CellRecord

from ..names import plain_link, slug
from .variants import Variant, by_architecture, columns, variant_of
from .verdicts import QUIET, Outcome, outcome_of

#: Of a traceback in the message of a process that died, the innermost frame: `file.py:12 function`.
_FRAME = re.compile(r"traceback: (\S+:\d+ .+?)(?: < |$)", re.MULTILINE)
_OPERATOR = re.compile(r"^  operator  (?!none is off)(.+?) in call \d+:", re.MULTILINE)
_OBSERVED = re.compile(r"^  observed  (.+)", re.MULTILINE)
_NUMBERED = re.compile(r"\d+")
#: What wrong numbers are called, for which localisation looks for the operator.
_WRONG_NUMBERS = frozenset({"logits-differ", "not-finite", "tokens-differ", "greedy-differs"})
#: Cells whose messages say that the place is that of another cell of the same program.
_ELSEWHERE = re.compile(r"further as in | used up the \S+ s limit for ")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
_TITLE = 160


@dataclass(frozen=True, slots=True)
class Cause:
    """Cells that fail with the same signature for the same reason, or at the same place where no reason is known.

    Args:
        signature: The signature; where records have none, the verdict, and without a place the message.
        reason: What the matrix says; empty if it does not explain these cells.
        place: The innermost frame of a crash or a timeout, or the operator that is wrong; empty if it is not known.
        cells: The cells.
    """

    signature: str
    reason: str
    place: str
    cells: tuple[CellRecord, ...]

    @property
    def title(self) -> str:
        """The reason's first sentence, or else what was seen, in plain words."""
        return _first_sentence(self.reason) or self._seen or one_line(self.signature, _TITLE) or self.first.verdict

    @property
    def _seen(self) -> str:
        message = self.first.message or ""
        if not self.first.signature:
            return f"{self.signature} in {self.place}" if self.place else _head(message)
        stage, _, what = self.signature.partition(":")
        if ":" in what:
            observed = _OBSERVED.search(message)
            return _first_sentence(observed[1] if observed else what.replace(":", ": ", 1))
        where = f", first in {self.place}" if self.place else ""
        return one_line(f"{what.replace('-', ' ')}{where} ({stage})" if what else stage, _TITLE)

    @property
    def cut(self) -> bool:
        """Whether the suite cut the signature off, perhaps at a space, which it removed."""
        return len(self.signature.split(":", 2)[-1]) >= SIGNATURE_CHARS - 1

    @property
    def anchor(self) -> str:
        """Its name in addresses; the same in every site, so that links to it stay valid."""
        return slug(*((self.signature, self.place, self.reason) if self.place or self.reason else (self.signature,)))

    @property
    def page(self) -> str:
        """The address of its page."""
        return f"causes/{self.anchor}.html"

    @property
    def architectures(self) -> tuple[str, ...]:
        """The affected architectures."""
        return tuple(dict.fromkeys(cell.architecture for cell in self.cells))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The affected variants."""
        return tuple(sorted({variant_of(cell) for cell in self.cells}))

    @property
    def outcome(self) -> Outcome:
        """Its worst verdict and earliest stage."""
        return outcome_of(self.cells)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts of its cells."""
        return tuple(dict.fromkeys(cell.verdict for cell in self.cells))

    @property
    def known(self) -> bool:
        """Whether each of its cells is a known failure."""
        return all(cell.verdict in ACCEPTABLE for cell in self.cells)

    @property
    def by_variant(self) -> Mapping[Variant, tuple[CellRecord, ...]]:
        """Its cells by variant."""
        return columns(self.cells)

    @property
    def by_clause(self) -> Mapping[str, Cause]:
        """What it is on each clause."""
        found: dict[str, list[CellRecord]] = {}
        for cell in self.cells:
            found.setdefault(cell.clause, []).append(cell)
        return {name: replace(self, cells=tuple(cells)) for name, cells in found.items()}

    @property
    def links(self) -> tuple[str, ...]:
        """Where its reason is reported; texts that are not web addresses are left out."""
        links = [cell.expected.link for cell in self.cells if self.reason and cell.expected and cell.expected.link]
        return tuple(dict.fromkeys(link for link in links if plain_link(link)))

    @property
    def first(self) -> CellRecord:
        """The cell to show: an unexpected failure before a known one."""
        return min(self.cells, key=lambda cell: cell.verdict in ACCEPTABLE)

    @property
    def bundled(self) -> CellRecord | None:
        """The cell whose failure bundle to offer: the one to show, or else the first that has one."""
        return next((cell for cell in (self.first, *self.cells) if cell.bundle), None)

    @property
    def example(self) -> str:
        """The message of the cell to show in one line: its first line, and what was observed."""
        message = (self.first.message or self.first.verdict).strip()
        observed = _OBSERVED.search(message)
        return " ".join([*message.splitlines()[:1], *([observed[0]] if observed else [])])

    @property
    def parts(self) -> Mapping[str, Cause]:
        """What it is on each architecture."""
        groups = by_architecture(self.cells).items()
        return {name: replace(self, cells=cells) for name, cells in groups}


@dataclass(frozen=True, slots=True)
class Unrun:
    """Cells that were not run, with the same message: one action solves all of a group."""

    reason: str
    cells: tuple[CellRecord, ...]


def causes(cells: Iterable[CellRecord]) -> tuple[Cause, ...]:
    """The failures grouped, unexpected ones first, then those with the most cells."""
    failing = [cell for cell in cells if cell.verdict not in QUIET and cell.verdict is not Verdict.NOT_RUN]
    places = {_program(cell): place for cell in failing if (place := _own_place(cell))}
    alike: dict[tuple[str, str, str], list[CellRecord]] = {}
    for cell in failing:
        reason = reason_of(cell)
        place = "" if reason else _place(cell, places)
        # Messages that are alike but for numbers go together.
        head = "" if place or reason else _NUMBERED.sub("#", _head(cell.message))
        signature = cell.signature or (f"{cell.verdict}: {head}" if head else cell.verdict.value)
        alike.setdefault((signature, reason, place), []).append(cell)
    found = [Cause(*key, cells=tuple(group)) for key, group in alike.items()]
    return tuple(sorted(found, key=lambda cause: (cause.known, -len(cause.cells), cause.title, cause.page)))


def reason_of(cell: CellRecord) -> str:
    """Why it fails; empty if that is not known, as of a cell that fails otherwise than its known failure says."""
    explained = cell.verdict in ACCEPTABLE or cell.verdict is Verdict.UNEXPECTED_PASS
    return cell.expected.reason if cell.expected and explained else ""


def unrun(cells: Iterable[CellRecord]) -> tuple[Unrun, ...]:
    """The cells that were not run, by their messages; the largest group first."""
    alike: dict[str, list[CellRecord]] = {}
    for cell in cells:
        if cell.verdict is Verdict.NOT_RUN:
            alike.setdefault((cell.message or "").strip() or "no reason given", []).append(cell)
    return tuple(Unrun(reason, tuple(group)) for reason, group in sorted(alike.items(), key=lambda each: -len(each[1])))


def _place(cell: CellRecord, places: Mapping[tuple[str, str], str]) -> str:
    elsewhere = _ELSEWHERE.search(cell.message or "")
    return _own_place(cell) or (places.get(_program(cell), "") if elsewhere else "")


def _own_place(cell: CellRecord) -> str:
    """The place that its own message names."""
    if not cell.signature:
        frame = _FRAME.search(cell.message or "")
        return frame[1] if frame else ""
    if cell.signature.partition(":")[2] not in _WRONG_NUMBERS:
        return ""
    operator = _OPERATOR.search(cell.message or "")
    return re.sub(r"delegate \d+", "delegate", operator[1]) if operator else ""


def _program(cell: CellRecord) -> tuple[str, str]:
    """The program, and the way to fail, of which a place is known."""
    return cell.id.rpartition("/")[0], cell.verdict


def _head(message: str | None) -> str:
    """The first line of a message up to a semicolon, after which there are details."""
    return one_line(next(iter((message or "").strip().splitlines()), "").partition(";")[0], _TITLE)


def _first_sentence(text: str) -> str:
    return one_line(_SENTENCE.split(text.strip())[0].removesuffix("."), _TITLE)
