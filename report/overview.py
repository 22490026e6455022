"""The overview of a run, and the stages of each variant: their rows, and the address that explains each state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conformance.core.cells import EXPORTED
from conformance.core.contract import Level
from conformance.core.text import plural
from conformance.core.verdicts import Stage

from .addresses import NOT_APPLICABLE, architecture_page
from .analysis.report import Architecture, Headline, Report, VariantState
from .analysis.status import BROKEN, KNOWN, Reached, clause_order, stage_of
from .analysis.variants import Variant, cells_of
from .analysis.verdicts import QUIET
from .loading import when

#: Violated clauses that a row of the overview names before "and N more".
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of the sentence that sums up a variant.

    `tag` is the filter that lists the `number` of architectures that it counts, and `kind` a style class.
    """

    text: str
    number: int
    kind: str
    tag: str


@dataclass(frozen=True, slots=True)
class Violated:
    """A clause that an architecture violates in any variant, whether that is known, and the address of the failure."""

    clause: str
    known: bool
    target: str


@dataclass(frozen=True, slots=True)
class OverviewCell:
    """The state of a variant, and the address of what explains it; empty where nothing needs to be explained."""

    state: VariantState
    target: str


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """One architecture in the overview: a state for each variant, and the clauses that it violates besides."""

    architecture: Architecture
    cells: tuple[OverviewCell, ...]
    violated: tuple[Violated, ...]

    @property
    def shown(self) -> tuple[Violated, ...]:
        """The violated clauses that are named."""
        return self.violated if len(self.violated) <= _NAMED + 1 else self.violated[:_NAMED]

    @property
    def since(self) -> str:
        """The start of the newest run in which one of its variants changed; empty if none has."""
        changed = [state.since.started for state in self.architecture.covered if state.since and not state.since.first]
        return max(changed, key=when, default="")


@dataclass(frozen=True, slots=True)
class GridRow:
    """One architecture in the stages of a variant, with the address of what explains each stage's state."""

    architecture: Architecture
    state: VariantState
    targets: Mapping[Stage, str]

    @property
    def troubles(self) -> tuple[str, ...]:
        """The stages at which a cell does not pass."""
        return tuple(
            each.stage.value for each in self.state.stages if each.counts and each.outcome.verdict not in QUIET
        )

    @property
    def target(self) -> str:
        """The address of the first failure."""
        return next(iter(self.targets.values()), "")


@dataclass(frozen=True, slots=True)
class Tab:
    """A variant to choose: the address of its page, and its headline."""

    page: str
    headline: Headline


def sentence(headline: Headline) -> tuple[Phrase, ...]:
    """The results of all architectures in a variant: how many decode correctly, and of the others each once."""
    decoding = f"{headline.decoding} of {headline.of} architectures decode correctly"
    phrases = [Phrase(decoding, headline.decoding, "decodes-correctly", Reached.DECODES.value)]
    if headline.known:
        phrases.append(Phrase(plural(headline.known, "known failure"), headline.known, "known", KNOWN))
    if headline.broken:
        phrases.append(Phrase(f"{headline.broken} broken{_since(headline)}", headline.broken, "unexpected", BROKEN))
    counted = {Reached.DECODES, Reached.BLOCKED, Reached.WRONG_RESULT}
    others = (tally for tally in headline.tallies if tally.reached not in counted)
    phrases += (Phrase(f"{each.number} {each.label}", each.number, each.kind, each.reached.value) for each in others)
    return tuple(phrases)


def _since(headline: Headline) -> str:
    """Since when they are broken, if that is known of all of them."""
    starts = sorted({f"{when(each.started):%Y-%m-%d}" for each in headline.broken_since})
    unknown = len(headline.broken_since) < headline.broken or any(each.first for each in headline.broken_since)
    return "" if unknown or not starts else f" since {starts[0]}" + (", or later" if len(starts) > 1 else "")


def overview(report: Report, links: Mapping[str, str]) -> tuple[OverviewRow, ...]:
    """Every architecture with its state in each variant, problems first; `links` are those of `targets`."""
    rows = (
        OverviewRow(
            each,
            explained(each, (state for state in each.states if state.variant in report.variants), links),
            _violated(each, links),
        )
        for each in report.architectures
    )
    return tuple(sorted(rows, key=lambda row: (row.architecture.worst.rank, row.architecture.name)))


def explained(
    architecture: Architecture, states: Iterable[VariantState], links: Mapping[str, str]
) -> tuple[OverviewCell, ...]:
    """The states of an architecture with what explains them; `links` are those of `targets`."""
    return tuple(OverviewCell(state, _explanation(architecture, state, links)) for state in states)


def _explanation(architecture: Architecture, state: VariantState, links: Mapping[str, str]) -> str:
    """The failure of a clause that decides the state, or where it says why nothing was judged."""
    own = cells_of(architecture.columns, state.variant)
    if state.status.failed:
        deciding = {each.clause for each in state.status.violations if each.level is Level.MUST}
        ids = {cell.id for cell in own if cell.clause in deciding}
        # Unexpected ones before known ones, as the causes of an architecture are sorted.
        failing = (cell for cause in architecture.causes for cell in cause.cells)
        return next((links[cell.id] for cell in failing if cell.id in ids), "")
    if state.status.reached is Reached.NOT_JUDGED:
        return next((links[cell.id] for cell in own if cell.id in links), "")
    if state.status.reached is Reached.NOT_APPLICABLE and any(cell.message for cell in own):
        return f"{architecture_page(architecture.name)}#{NOT_APPLICABLE}"
    return ""


def _violated(architecture: Architecture, links: Mapping[str, str]) -> tuple[Violated, ...]:
    """Unexpected violations first."""
    known: dict[str, bool] = {}
    for state in architecture.covered:
        for each in state.status.remarkable:
            known[each.clause] = known.get(each.clause, True) and each.known
    first: dict[str, str] = {}
    for cause in architecture.causes:
        for cell in cause.cells:
            first.setdefault(cell.clause, links[cell.id])
    ordered = sorted(known, key=lambda clause: (known[clause], clause_order(clause)))
    return tuple(Violated(clause, known[clause], first[clause]) for clause in ordered if clause in first)


def grid(report: Report, variant: Variant, links: Mapping[str, str]) -> tuple[GridRow, ...]:
    """The stages of a variant, problems first; `links` are those of `targets`."""
    rows = (
        GridRow(each, state, _stage_targets(each, variant, links))
        for each in report.architectures
        for state in each.states
        if state.variant == variant
    )
    return tuple(sorted(rows, key=lambda row: (row.state.status.rank, row.architecture.name)))


def _stage_targets(architecture: Architecture, variant: Variant, links: Mapping[str, str]) -> dict[Stage, str]:
    """By stage, the first failure that counts there, unexpected ones before known ones."""
    own = {cell.id for cell in cells_of(architecture.columns, variant)}
    explained = [cell for cause in architecture.causes for cell in cause.cells]
    explained += [cell for group in architecture.unrun for cell in group.cells]
    found: dict[Stage, str] = {}
    for cell in explained:
        if cell.id in own:
            stage = stage_of(cell, is_lowered=variant.backend != EXPORTED)
            found.setdefault(stage if stage in variant.stages else variant.stages[-1], links[cell.id])
    return found
