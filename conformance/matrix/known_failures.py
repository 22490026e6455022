"""Known failures: `known_failures/<owner>.yaml`, one entry a cause, with the cells that it explains as patterns.

A cause is about the rows of the matrix that name its id. Each of its patterns has the cells of such a row that fail,
and their signature; the signature begins with the stage at which it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass

from conformance.core.cells import is_own_export, needs
from conformance.core.contract import Mode
from conformance.core.exporter_names import REFERENCE
from conformance.core.verdicts import Stage

#: In a cause's `exporter`: the fault is independent of the exporter.
ANY_EXPORTER = "any"
#: The reason that a command writes and a person replaces; no run accepts it.
TODO = "TODO"

_CONFIG = ConfigDict(extra="forbid")


class CellLike(Protocol):
    """A planned cell, or one from a record."""

    @property
    def architecture(self) -> str:
        """The row."""

    @property
    def subject(self) -> str | None:
        """The exporter; None for a cell of the fixture alone."""

    @property
    def backend(self) -> str:
        """A backend's name, "exported" or "eager"."""

    @property
    def mode(self) -> str | None:
        """The mode; None for a cell of the fixture alone."""

    @property
    def clause(self) -> str:
        """The clause's id."""


def _check_reason(reason: Any, check: ValidatorFunctionWrapHandler) -> str:
    if str(reason).strip().upper() == TODO:
        return TODO
    checked: str = check(reason)
    return " ".join(checked.split())


def _check_versions(when: Mapping[str, str]) -> Mapping[str, str]:
    for package, text in when.items():
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            raise ValueError(f"{package}: {text!r} is not a version specifier such as '<=1.5.1'") from None
    return when


def _check_signature(signature: str) -> str:
    stage, colon, code = signature.partition(":")
    if stage not in list(Stage) or not colon or not code:
        raise ValueError(f"a signature begins with its stage, one of {', '.join(Stage)}, such as 'lower:stored-twice'")
    return signature


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


#: Why something is expected: a sentence, not a word.
Reason = Annotated[str, Field(min_length=20), WrapValidator(_check_reason)]
#: The versions for which something is so, by package; those not named may be any.
When = Annotated[Mapping[Literal["torch", "transformers", "executorch"], str], AfterValidator(_check_versions)]
Signature = Annotated[str, AfterValidator(_check_signature)]
#: One name or several.
Names = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]
#: The stages that a program has to get through before it can be run. Signatures of later stages are too unspecific.
Blocking = Literal[Stage.BUILD, Stage.EXPORT, Stage.LOWER, Stage.EMIT, Stage.LOAD]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Violation:
    """These clauses fail with this signature.

    Args:
        on: Backends, "exported" or "eager".
        clauses: The clauses' ids.
        signature: The failure's signature.
        mode: The mode; None for all that the cells have.
        at_most: The largest error allowed, as a share of the logits' scale.
        rows: The rows for which this is so; all that name the cause, if empty. A pattern for some rows goes before one
            for all that covers the same cell.
    """

    on: Names
    clauses: Names
    signature: Signature
    mode: Mode | None = None
    at_most: float | None = None
    rows: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()

    def covers(self, cell: CellLike) -> bool:
        """Whether this is about `cell`."""
        return cell.clause in self.clauses and _on(self, cell)

    def requires(self, cell: CellLike) -> bool:
        """Whether `cell`, which is covered, has to fail."""
        return True


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Blocker:
    """A stage cannot be done, so that every cell that needs it fails with this signature.

    A clause that makes an export of its own may fail in this way or pass, where it is the export that is blocked.

    Args:
        on: Backends, "exported" or "eager".
        blocks: The stage.
        signature: The failure's signature, which begins with the stage.
        mode: The mode; None for all that the cells have.
        rows: As of a `Violation`.
    """

    on: Names
    blocks: Blocking
    signature: Signature
    mode: Mode | None = None
    rows: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()

    def __post_init__(self) -> None:
        """Raises `ValueError` where stage and signature differ."""
        if not self.signature.startswith(f"{self.blocks}:"):
            raise ValueError(f"it blocks {self.blocks}, but its signature is of another stage: {self.signature}")

    def covers(self, cell: CellLike) -> bool:
        """Whether this is about `cell`."""
        return needs(cell.clause, cell.backend, self.blocks) and _on(self, cell)

    def requires(self, cell: CellLike) -> bool:
        """Whether `cell`, which is covered, has to fail."""
        return not (self.blocks == Stage.EXPORT and is_own_export(cell.clause))


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Undecodable:
    """The architecture cannot decode eagerly with a static cache.

    No clause applies to it, unless the forward pass without cache takes that decoding's place. A run tries it: the
    attempt has to end with this signature.

    Args:
        undecodable: The signature.
        without_cache: Whether its programs are judged by the forward pass without cache.
        rows: The architectures that it is about; all that have the cause, if there are none.
    """

    undecodable: Signature
    without_cache: bool = False
    rows: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()

    @property
    def signature(self) -> str:
        """How the attempt ends."""
        return self.undecodable


class Limit(StrEnum):
    """The checkpoints in which a cause explains a failure in lowering: all, or those that have what it names."""

    ANY_MODEL = "any-model"
    TIED_EMBEDDINGS = "tied-embeddings"
    EXPERTS = "experts"


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else getattr(type(value), "__dataclass_fields__", ())
    return next((key for key in ("clauses", "blocks", "undecodable") if key in keys), None)


Pattern = Annotated[
    Annotated[Violation, Tag("clauses")]
    | Annotated[Blocker, Tag("blocks")]
    | Annotated[Undecodable, Tag("undecodable")],
    Discriminator(
        _kind,
        custom_error_type="pattern",
        custom_error_message="a pattern has one of the keys clauses, blocks and undecodable",
    ),
]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Cause:
    """A failure that is known, explained and, where possible, reported upstream.

    Args:
        exporter: The exporters that have it, or `any`.
        reason: What goes wrong and why, in a sentence or two.
        fails: The cells that it explains.
        link: Where it is reported or fixed.
        when: The versions for which it is so.
        limit: The checkpoints that it is about too; None if it is about the rows that name it alone.
    """

    exporter: Names
    reason: Reason
    fails: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    link: str | None = None
    when: When = Field(default_factory=dict)
    limit: Limit | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` where a limit is of an exporter that exports no checkpoints."""
        if self.limit and not {ANY_EXPORTER, REFERENCE} & {*self.exporter}:
            raise ValueError(f"a limit is about checkpoints, so exporter has to be {ANY_EXPORTER} or {REFERENCE}")

    def concerns(self, exporter: str | None) -> bool:
        """Whether a cell of `exporter` has it."""
        return ANY_EXPORTER in self.exporter or exporter in self.exporter

    def applies_to(self, versions: Mapping[str, str]) -> bool:
        """Whether it is so with the installed versions."""
        return all(
            package in versions and SpecifierSet(text).contains(Version(versions[package]), prereleases=True)
            for package, text in self.when.items()
        )


def _on(pattern: Violation | Blocker, cell: CellLike) -> bool:
    return cell.backend in pattern.on and pattern.mode in (None, cell.mode)
