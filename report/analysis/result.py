"""The overall result of a run in one sentence: the same on the site, in summaries, and for exit codes."""

from __future__ import annotations

from dataclasses import dataclass

from conformance.core.text import plural
from conformance.core.verdicts import ACCEPTABLE, Verdict, judged_nothing
from conformance.records.run import RunRecord

from .compare import Change, Comparison


@dataclass(frozen=True, slots=True)
class Result:
    """Whether a run is good, and why in a few words."""

    good: bool
    text: str

    @property
    def glyph(self) -> str:
        """Its sign."""
        return "✓" if self.good else "✗"

    def __str__(self) -> str:
        return f"{self.glyph} {self.text}"


def result_of(run: RunRecord, comparison: Comparison | None = None) -> Result:
    """The result of `run`, or of a comparison with it as head. A run that is not complete is never good."""
    unexpected = sum(cell.verdict not in ACCEPTABLE for cell in run.cells)
    known = sum(cell.verdict is Verdict.EXPECTED_FAILURE for cell in run.cells)
    failures = f" ({plural(known, 'known failure')})" if known else ""
    good = False
    if comparison and comparison.worse:
        text = _regressions(comparison)
    elif unexpected:
        text = plural(unexpected, "unexpected result")
    elif judged_nothing(cell.verdict for cell in run.cells) and not run.left_out:
        text = "nothing was judged"
    else:
        text, good = f"no unexpected results{failures}", True
    if comparison and not comparison.worse:
        text = f"no regressions, {text}"
    if not run.nothing_missing:
        text, good = f"{text}; the run is not complete", False
    return Result(good, text)


def unchanged(run: RunRecord) -> str:
    """How many cells an incremental run did not judge, and why; empty for another run."""
    if not run.left_out:
        return ""
    were, they_depend = ("was", "it depends") if len(run.left_out) == 1 else ("were", "they depend")
    cells = plural(len(run.left_out), "cell")
    return f"{cells} {were} not run again: nothing that {they_depend} on has changed since the base."


def _regressions(comparison: Comparison) -> str:
    """Counts cells that were not run apart: they do not show a regression."""
    not_run = sum(each.change is Change.NOT_RUN for each in comparison.regressions)
    others = len(comparison.regressions) - not_run + len(comparison.slower) + len(comparison.less_delegated)
    parts = [plural(others, "regression")] if others else []
    return ", ".join([*parts, f"{plural(not_run, 'cell')} newly not run"] if not_run else parts)
