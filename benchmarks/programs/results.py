"""What was measured, as records: the JSON of a run, from which bounds are judged and the page is printed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from conformance.core.files import atomic_write, read_regular_file
from conformance.core.validation import first_problem

SCHEMA_VERSION: Literal[1] = 1
#: Largest file that is read, in bytes; a full table has 200 KiB.
_MOST_BYTES = 32 << 20
_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Made:
    """How a program came about, in a process of its own with one thread. Sizes are in bytes.

    Args:
        program_bytes: Of the `.pte` file.
        planned_bytes: Memory that the runtime sets aside for caches and activations.
        seconds: CPU time to export, lower and emit; the model is there, and quantised, before.
        peak_bytes: The most memory that was resident meanwhile.
        packages: Versions of the packages that made it.
    """

    program_bytes: int
    planned_bytes: int
    seconds: float
    peak_bytes: int
    packages: dict[str, str]


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Timing:
    """Calls of one kind. Seconds are CPU time, medians; `wall_s` is what a clock on the wall says.

    Args:
        cpu_s: Of a call.
        wall_s: Likewise.
        calls: How many were timed.
        tokens: In a call.
    """

    cpu_s: float
    wall_s: float
    calls: int
    tokens: int = 1

    @property
    def per_s(self) -> float:
        """Tokens a second of CPU time."""
        return self.tokens / self.cpu_s


@dataclass(frozen=True, slots=True, config=_CONFIG)
class SideResult:
    """One program of a row.

    Args:
        made: How it came about; None where nothing was made.
        error: The logits' root mean square difference from those of eager Transformers without a cache, as a share of
            their root mean square, over all positions that were looked at. None where it was not run.
        start: A token near the beginning of the cache.
        end: A token near its end.
        prompt: A prompt from position 0 in one call.
        peak_bytes: Memory that became resident when the program was loaded and called in a process of its own.
        absent: Why something is missing, or why the figures are void; empty where nothing is.
        void: Whether its logits are wrong, so that its figures say nothing.
    """

    made: Made | None = None
    error: float | None = None
    start: Timing | None = None
    end: Timing | None = None
    prompt: Timing | None = None
    peak_bytes: int | None = None
    absent: str = ""
    void: bool = False

    @property
    def start_s(self) -> float | None:
        """Seconds of a token near the beginning; like all that follow, None where it was not measured."""
        return self.start.cpu_s if self.start else None

    @property
    def end_s(self) -> float | None:
        """Seconds of a token near the end."""
        return self.end.cpu_s if self.end else None

    @property
    def prompt_s(self) -> float | None:
        """Seconds of a prompt."""
        return self.prompt.cpu_s if self.prompt else None

    @property
    def program_bytes(self) -> int | None:
        """Of the program."""
        return self.made.program_bytes if self.made else None

    @property
    def planned_bytes(self) -> int | None:
        """That the runtime sets aside."""
        return self.made.planned_bytes if self.made else None

    @property
    def making_s(self) -> float | None:
        """Seconds to export and lower."""
        return self.made.seconds if self.made else None

    @property
    def making_peak_bytes(self) -> int | None:
        """That were resident meanwhile."""
        return self.made.peak_bytes if self.made else None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Row:
    """The programs of one case, timed in turns by one process. Sizes are in bytes.

    Args:
        shape, dtype, cache, mode: The case.
        started: When, in ISO 8601.
        bandwidth: Bytes a second that one core reads from memory, measured in the same process.
        weight_bytes: Weights that a token reads, at the dtype of the recipe: of an embedding one row, of a tied one all
            of it, since the output projection reads it.
        start_cache_bytes, end_cache_bytes: What eager Transformers caches of the tokens there.
        sides: By name.
    """

    shape: str
    dtype: str
    cache: int
    mode: str
    started: str
    bandwidth: float
    weight_bytes: int
    start_cache_bytes: int
    end_cache_bytes: int
    sides: dict[str, SideResult]

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What tells it from other rows."""
        return self.shape, self.dtype, self.cache, self.mode

    @property
    def start_roofline_s(self) -> float:
        """Seconds in which one core reads the weights and the caches near the beginning."""
        return (self.weight_bytes + self.start_cache_bytes) / self.bandwidth

    @property
    def end_roofline_s(self) -> float:
        """Likewise near the end."""
        return (self.weight_bytes + self.end_cache_bytes) / self.bandwidth


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Results:
    """A run of the benchmark: where, with what, and its rows."""

    schema_version: Literal[1]
    cpu: str
    platform: str
    python: str
    packages: dict[str, str]
    commit: str | None
    rows: list[Row]


_RESULTS: TypeAdapter[Results] = TypeAdapter(Results)
_MADE: TypeAdapter[Made] = TypeAdapter(Made)
_ROW: TypeAdapter[Row] = TypeAdapter(Row)


def write(path: Path, results: Results) -> None:
    """Put the results at `path`, all of them or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, (json.dumps(_RESULTS.dump_python(results, mode="json"), indent=1) + "\n").encode())


def load(path: Path) -> Results:
    """The results at `path`.

    Raises:
        ValueError: They are not results of this benchmark; the message names the file and the problem.
    """
    try:
        return _RESULTS.validate_json(read_regular_file(path, _MOST_BYTES))
    except ValidationError as error:
        raise ValueError(f"{path} is not a result of benchmarks/programs: {first_problem(error)}") from error


def merged(several: Iterable[Results]) -> list[Row]:
    """The rows of several runs; of a case that was measured twice, the newer one."""
    rows = sorted((row for each in several for row in each.rows), key=lambda row: row.started)
    return list({row.key: row for row in rows}.values())


def row_of(values: Any) -> Row:
    """The row that another process measured.

    Raises:
        ValidationError: It is not a row.
    """
    return _ROW.validate_python(values)


def made_of(values: Any) -> Made:
    """What another process made.

    Raises:
        ValidationError: It is not that.
    """
    return _MADE.validate_python(values)


def values_of(record: Row) -> Any:
    """For another process, and `row_of`."""
    return _ROW.dump_python(record, mode="json")
