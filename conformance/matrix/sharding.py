"""The architectures of one machine of several, so that all of them end at about the same time.

Each shard plans for itself: the same names, durations and number of shards give every machine the same plan.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.core.cells import cell_called
from conformance.core.errors import InputError
from conformance.core.files import atomic_write
from conformance.core.paths import DURATIONS
from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord

#: The duration of an architecture if none is known.
_UNKNOWN_S = 60.0


@dataclass(frozen=True, slots=True)
class Shard:
    """The part `number` of `of` parts, counted from 1; written ``3/8``."""

    number: int
    of: int


def read_shard(text: str) -> Shard:
    """Such as ``3/8``.

    Raises:
        InputError: The text is not a shard.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError("invalid-shard", f"{text!r} is not a valid shard; write 3/8 for the third of eight")
    return Shard(int(found[1]), int(found[2]))


def share(architectures: Sequence[str], shard: Shard, seconds: Mapping[str, float]) -> tuple[str, ...]:
    """The architectures of `shard`, in their order.

    The longest goes first, each to the shard with the least to do so far: no shard has more than 4/3 of the least that
    the busiest could have (Graham, 1969). One that was never timed counts as the median of the others.

    Raises:
        ValueError: There are more shards than architectures, so that one would judge nothing and pass.
    """
    if shard.of > len(architectures):
        raise InputError("invalid-shard", f"more shards than architectures; use at most {len(architectures)}")
    known = [seconds[name] for name in architectures if name in seconds]
    usual = statistics.median(known) if known else _UNKNOWN_S
    cost = {name: seconds.get(name, usual) for name in architectures}
    loads = [0.0] * shard.of
    taken: dict[str, int] = {}
    for name in sorted(architectures, key=lambda name: (-cost[name], name)):
        # A shard with nothing yet goes first, so that durations of 0 leave none empty.
        index = min(range(shard.of), key=lambda index: (loads[index], index in taken.values(), index))
        loads[index] += cost[name]
        taken[name] = index
    return tuple(name for name in architectures if taken[name] == shard.number - 1)


def division(architectures: Sequence[str], seconds: Mapping[str, float]) -> str:
    """A digest of what `share` divides by. Only shards for which it is the same are parts of one run."""
    costs = [(name, seconds.get(name)) for name in architectures]
    return hashlib.sha256(json.dumps(costs).encode()).hexdigest()[:16]


def durations(path: Path = DURATIONS) -> dict[str, float]:
    """Seconds by architecture; empty if nothing was recorded.

    Raises:
        ValueError: The file holds something else.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("invalid-json", f"{path.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError("invalid-durations", f"{path.name}: expected an object of seconds by architecture")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InputError("invalid-durations", f"{path.name}: {name}: {value!r} is not a number of seconds")
    return {name: float(value) for name, value in found.items()}


def spent(run: RunRecord) -> dict[str, float]:
    """The seconds that a run spent on each architecture, all subjects, backends, modes and clauses together."""
    found: dict[str, float] = defaultdict(float)
    for cell in run.cells:
        found[cell.architecture] += cell.duration_s
    return {name: round(value, 1) for name, value in found.items()}


def updated_durations(run: RunRecord, path: Path = DURATIONS) -> list[str]:
    """Put the durations of `run` into the file, and return the changes. Others stay as they are.

    An architecture of which the run did not judge every cell stays as it is too: a part of the cells takes less time.
    """
    unjudged = {cell.architecture for cell in run.cells if cell.verdict is Verdict.NOT_RUN}
    unjudged.update(cell_called(cell_id).architecture for cell_id in run.left_out)
    before, found = durations(path), spent(run)
    after = before | {name: seconds for name, seconds in found.items() if name not in unjudged}
    text = json.dumps(dict(sorted(after.items())), indent=2) + "\n"
    atomic_write(path, text.encode())
    changes = [
        f"{name}: {f'{before[name]:g} s' if name in before else 'not known'} → {after[name]:g} s"
        for name in sorted(after)
        if after[name] != before.get(name)
    ]
    skipped = ", ".join(sorted(unjudged & found.keys()))
    return [*changes, f"skipped, since not all of their cells were judged: {skipped}"] if skipped else changes
