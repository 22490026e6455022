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

SCHEMA_VERSION: Literal[1] = 1

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_CONFIG)
class VariantStatus:
    """The status of one variant of an architecture; `verdict` is null if it is not in this run.

    A pass with a stage was compiled only, up to that stage: its label is "lowered" or "exported".
    """

    subject: str
    backend: str
    mode: str
    verdict: Verdict | None
    stage: Stage | None
    label: str
    since: str | None


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
    """One root cause in the index."""

    signature: str
    page: str
    known: bool
    cells: int
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Index:
    """`index.json`."""

    schema_version: Literal[1]
    run: RunInfo
    environment: Environment
    counts: dict[Verdict, int]
    architectures: tuple[ArchitectureStatus, ...]
    causes: tuple[CauseStatus, ...]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ArchitectureDocument:
    """`architectures/NAME.json`: the architecture's line of the index, and all its cells.

    `bundles` are the addresses within the site of those failure bundles that it holds, by cell.
    """

    schema_version: Literal[1]
    run: RunInfo
    architecture: ArchitectureStatus
    cells: tuple[CellRecord, ...]
    bundles: dict[str, str]


INDEX = TypeAdapter(Index)
ARCHITECTURE = TypeAdapter(ArchitectureDocument)


def schemas() -> dict[str, str]:
    """The JSON Schema of each kind of document, by its file name."""
    return {
        "schema/index.schema.json": _text(INDEX.json_schema()),
        "schema/architecture.schema.json": _text(ARCHITECTURE.json_schema()),
    }


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"
