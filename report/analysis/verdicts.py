"""Verdicts of single cells, and of groups of them, for people: signs, words and order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conformance.core.verdicts import STAGES, Stage, Verdict
from conformance.records.run import CellRecord

WORST_FIRST = (
    Verdict.CRASH,
    Verdict.OUT_OF_MEMORY,
    Verdict.TIMEOUT,
    Verdict.HARNESS_ERROR,
    Verdict.FAIL,
    Verdict.UNEXPECTED_PASS,
    Verdict.NOT_RUN,
    Verdict.EXPECTED_FAILURE,
    Verdict.PASS,
    Verdict.NOT_APPLICABLE,
)
#: The verdicts of checks that ran to their end.
CONCLUSIVE = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.EXPECTED_FAILURE, Verdict.UNEXPECTED_PASS})
#: The verdicts that need no explanation.
QUIET = frozenset({Verdict.PASS, Verdict.NOT_APPLICABLE})
GLYPHS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.EXPECTED_FAILURE: "≈",
    Verdict.UNEXPECTED_PASS: "↑",
    Verdict.NOT_APPLICABLE: "–",
    Verdict.NOT_RUN: "○",
    Verdict.CRASH: "✱",
    Verdict.TIMEOUT: "◔",
    Verdict.OUT_OF_MEMORY: "▣",
    Verdict.HARNESS_ERROR: "?",
}
#: The sign of a group without cells.
ABSENT_GLYPH = "·"
_LABELS = {
    Verdict.PASS: "passes",
    Verdict.FAIL: "fails",
    Verdict.EXPECTED_FAILURE: "known failure",
    Verdict.UNEXPECTED_PASS: "unexpected pass",
    Verdict.NOT_APPLICABLE: "not applicable",
    Verdict.NOT_RUN: "not run",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of a cell, or the worst of several, and its stage. Both are None where there is no cell."""

    verdict: Verdict | None
    stage: Stage | None = None

    @property
    def glyph(self) -> str:
        """Its sign."""
        return GLYPHS[self.verdict] if self.verdict else ABSENT_GLYPH

    @property
    def kind(self) -> str:
        """Its style class."""
        return self.verdict.value if self.verdict else "none"

    @property
    def label(self) -> str:
        """Its words."""
        if self.verdict is None:
            return "not in this run"
        word = verdict_label(self.verdict)
        if not self.stage or self.verdict in QUIET:
            return word
        return f"{word} at {self.stage}"

    @property
    def rank(self) -> int:
        """Its position among problems: the worst verdict first, and earlier stages before later ones."""
        if self.verdict is None:
            return len(WORST_FIRST) * 10
        stage = STAGES.index(self.stage) if self.stage else len(STAGES)
        return WORST_FIRST.index(self.verdict) * 10 + stage


def verdict_label(verdict: Verdict) -> str:
    """A verdict in words."""
    return _LABELS.get(verdict, verdict.value.replace("-", " "))


def outcome_of(cells: Sequence[CellRecord]) -> Outcome:
    """The worst verdict of `cells`, and the earliest stage among those that have it."""
    if not cells:
        return Outcome(None)
    worst = min((cell.verdict for cell in cells), key=WORST_FIRST.index)
    stages = [cell.stage for cell in cells if cell.verdict is worst and cell.stage]
    return Outcome(worst, min(stages, key=STAGES.index, default=None))


def count(cells: Iterable[CellRecord]) -> tuple[tuple[Verdict, int], ...]:
    """The number of cells with each verdict, the worst first; verdicts without cells are left out."""
    counts = Counter(cell.verdict for cell in cells)
    return tuple((verdict, counts[verdict]) for verdict in WORST_FIRST if counts[verdict])
