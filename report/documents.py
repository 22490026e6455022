"""The site as data: `index.json`, and one JSON file for each architecture.

Their JSON Schemas are generated from these classes and are part of the site.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, Environment, RunInfo

from .addresses import architecture_page
from .analysis.causes import Cause
from .analysis.report import Architecture, Headline, Missed, Report, VariantState
from .analysis.status import Reached, Violation
from .names import slug

SCHEMA_VERSION: Literal[2] = 2

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_CONFIG)
class VariantStatus:
    """The status of one variant of an architecture.

    `reached` says how far it gets; `stage` is where, if it is blocked. `known` says that it is blocked, or wrong, as
    the matrix expects, `unexpected` is the number of cells that fail the run, and `label` is `reached` in words.
    """

    subject: str
    backend: str
    mode: str
    reached: Reached
    stage: Stage | None
    known: bool
    unexpected: int
    label: str
    violations: tuple[Violation, ...]
    since: str | None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class HeadlineDocument:
    """How many architectures decode correctly in a variant, and how many have each status, by its label.

    Variations of fixtures are counted apart.
    """

    subject: str
    backend: str
    mode: str
    decode_correctly: int
    architectures: int
    variations_decode_correctly: int
    variations: int
    statuses: dict[str, int]
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ArchitectureStatus:
    """One architecture in the index. `page`, `data` and `badge` are addresses within the site."""

    name: str
    tier: str | None
    caches: tuple[str, ...]
    page: str
    data: str
    badge: str
    counts: dict[Verdict, int]
    variants: tuple[VariantStatus, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class CauseStatus:
    """Failures with one signature and reason, or at one place, in the index; `title` says it in a sentence."""

    title: str
    signature: str
    reason: str
    place: str
    page: str
    known: bool
    cells: int
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Index:
    """`index.json`."""

    schema_version: Literal[2]
    run: RunInfo
    environment: Environment
    counts: dict[Verdict, int]
    headlines: tuple[HeadlineDocument, ...]
    architectures: tuple[ArchitectureStatus, ...]
    causes: tuple[CauseStatus, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ArchitectureDocument:
    """`architectures/NAME.json`: the architecture's line of the index, and all its cells.

    `bundles` are the addresses within the site of those failure bundles that it holds, by cell.
    """

    schema_version: Literal[2]
    run: RunInfo
    architecture: ArchitectureStatus
    cells: tuple[CellRecord, ...]
    bundles: dict[str, str]


_INDEX = TypeAdapter(Index)
_ARCHITECTURE = TypeAdapter(ArchitectureDocument)


def index(report: Report) -> str:
    """`index.json`."""
    run = report.run
    document = Index(
        SCHEMA_VERSION,
        run.run,
        run.environment,
        dict(report.counts),
        tuple(map(_headline, report.headlines)),
        tuple(map(architecture_status, report.architectures)),
        tuple(map(_cause, report.causes)),
    )
    return _INDEX.dump_json(document, indent=1).decode() + "\n"


def architecture(report: Report, each: Architecture, bundles: dict[str, str]) -> str:
    """The document of an architecture; `bundles` are the addresses of failure bundles, by cell."""
    status = architecture_status(each)
    document = ArchitectureDocument(SCHEMA_VERSION, report.run.run, status, each.cells, bundles)
    return _ARCHITECTURE.dump_json(document, indent=1).decode() + "\n"


def architecture_status(each: Architecture) -> ArchitectureStatus:
    """The line of an architecture in the index."""
    name = slug(each.name)
    return ArchitectureStatus(
        each.name,
        each.tier or None,
        each.caches,
        architecture_page(each.name),
        f"architectures/{name}.json",
        f"badges/{name}.json",
        dict(each.counts),
        tuple(map(_variant, each.covered)),
    )


def schemas() -> dict[str, str]:
    """The JSON Schema of each kind of document, by its file name."""
    return {
        "schema/index.schema.json": _text(_INDEX.json_schema()),
        "schema/architecture.schema.json": _text(_ARCHITECTURE.json_schema()),
    }


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


def _variant(state: VariantState) -> VariantStatus:
    status = state.status
    return VariantStatus(
        state.variant.subject,
        state.variant.backend,
        state.variant.mode,
        status.reached,
        status.stage,
        status.failed and status.known,
        status.unexpected,
        status.label,
        status.violations,
        state.since.started if state.since else None,
    )


def _headline(headline: Headline) -> HeadlineDocument:
    return HeadlineDocument(
        headline.variant.subject,
        headline.variant.backend,
        headline.variant.mode,
        headline.decoding,
        headline.of,
        headline.varied_decoding,
        headline.varied,
        {tally.label: tally.number for tally in headline.tallies},
        headline.missed,
    )


def _cause(cause: Cause) -> CauseStatus:
    return CauseStatus(
        cause.title,
        cause.signature,
        cause.reason,
        cause.place,
        cause.page,
        cause.known,
        len(cause.cells),
        cause.architectures,
    )
