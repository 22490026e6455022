"""Variations: a fixture changed in one thing that real models do. One file each, `fixtures/variations/<name>.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

from conformance.matrix.yaml_file import flow, folded

#: Beside the matrix: the files of variations.
FOLDER = Path("fixtures") / "variations"
#: Positions that a cache may have, in tokens.
LONGEST_CACHE = 4096
_CONFIG = ConfigDict(extra="forbid")


@validated(frozen=True, slots=True, config=_CONFIG)
class VariedRow:
    """A variation of one architecture.

    Args:
        config: Overrides of the decoder's config, in JSON's types.
        known: The ids of the causes of its known failures, beside those of the architecture's own row.
        without: Those of the architecture's own row that the variation does not have.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


#: What a model is built with, beside its config and its cache length.
_SETTINGS = ("batch_size", "dtype", "output_gain", "outliers", "outlier_gain")


@validated(frozen=True, slots=True, config=_CONFIG)
class Variation:
    """The changes of a variation, and its architectures.

    Args:
        what: What real models do that the fixtures do not.
        rows: By architecture.
        core: The architectures whose variation tier core runs; tier full runs all.
        cache_length: Positions in the cache, in tokens; the fixtures' where it is None.
        batch_size: Rows a call.
        dtype: The dtype that the model computes in.
        output_gain: Factor of the output embedding, and so of the logits.
        outliers: How many token ids have an output embedding that is larger again by `outlier_gain`.
        outlier_gain: Their factor.
    """

    what: Annotated[str, Field(min_length=1)]
    rows: Mapping[str, VariedRow]
    core: tuple[str, ...] = ()
    cache_length: Annotated[int, Field(ge=1, le=LONGEST_CACHE)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=64)] = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    output_gain: Annotated[float, Field(gt=0)] = 1.0
    outliers: Annotated[int, Field(ge=0)] = 0
    outlier_gain: Annotated[float, Field(gt=0)] = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """How the model is built otherwise than a fixture, beside its config and its cache length."""
        fixture = Variation(self.what, {})
        values = {name: getattr(self, name) for name in _SETTINGS}
        return {name: value for name, value in values.items() if value != getattr(fixture, name)}


def variation_text(variation: Variation, header: str = "") -> str:
    """`variation` as its file, one line an architecture."""
    length = {} if variation.cache_length is None else {"cache_length": variation.cache_length}
    lines = [f"{header}what: {folded(variation.what, 2)}"]
    lines += [flow({name: value})[1:-1] for name, value in (length | variation.settings).items()]
    if variation.core:
        lines.append(flow({"core": list(variation.core)})[1:-1])
    lines.append("rows:" if variation.rows else "rows: {}")
    lines += [f"  {name}: {flow(_row_values(row))}" for name, row in variation.rows.items()]
    return "\n".join(lines) + "\n"


def _row_values(row: VariedRow) -> dict[str, Any]:
    values: dict[str, Any] = {"config": dict(row.config)} if row.config else {}
    for name in ("known", "without"):
        if ids := getattr(row, name):
            values[name] = sorted(ids)
    return values
