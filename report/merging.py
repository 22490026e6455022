"""Merges records into one: the shards of a run, or runs of different architectures, if nothing would get lost."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.core.errors import InputError
from conformance.core.option_names import option_of
from conformance.core.text import first_few
from conformance.matrix.sharding import Shard, read_shard
from conformance.records.journal import move_aside
from conformance.records.run import DIRTY, Environment, RunInfo, RunRecord, Since, write_run

from .errors import ReportError
from .loading import when

#: The option that names the part of a run, such as "3/8"; the option that may differ between parts without it.
SHARD, _DIVISION, _ARCHITECTURES = "shard", "division", "arch"

_Options = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Named:
    """A record and its name in error messages."""

    name: str
    run: RunRecord


def merge(records: Sequence[Named]) -> RunRecord:
    """One record with the cells of all `records`; their order does not matter.

    Raises:
        ReportError: They are not parts of one run, they overlap, or one is missing.
    """
    if not records:
        raise ReportError("no-records", "no records to merge")
    shards = [_shard(each) for each in records]
    for each in records[1:]:
        _must_be_alike(records[0], each)
    _must_be_whole(records, shards)
    _must_not_overlap(records)
    ordered = [each.run for _, each in sorted(zip(shards, records, strict=True), key=_key)]
    return RunRecord(
        1,
        _info(ordered),
        _environment([run.environment for run in ordered]),
        tuple(cell for run in ordered for cell in run.cells),
    )


def write(run: RunRecord, path: Path) -> Path | None:
    """Write a record to `path`, and return where a file that was there was moved."""
    try:
        moved = move_aside(path)
        write_run(path, run)
    except OSError as error:
        raise ReportError.of_file(path, error) from error
    return moved


def _shard(record: Named) -> Shard | None:
    shard = record.run.run.options.get(SHARD)
    if shard is None:
        return None
    try:
        return read_shard(str(shard))
    except InputError as error:
        raise ReportError(error.code, f"{record.name}: --shard: {error}") from error


def _must_be_alike(first: Named, other: Named) -> None:
    """Verdicts reached under different conditions would look like those of one run."""
    pairs: tuple[tuple[Mapping[str, object], Mapping[str, object]], ...] = (
        (first.run.environment.packages, other.run.environment.packages),
        ({"Python": first.run.environment.python}, {"Python": other.run.environment.python}),
        (_conditions(first.run), _conditions(other.run)),
        ({"commit": _commit(first.run)}, {"commit": _commit(other.run)}),
        ({"Hypothesis seed": first.run.run.seed}, {"Hypothesis seed": other.run.run.seed}),
        (_known_to_both(first.run, other.run), _known_to_both(other.run, first.run)),
    )
    for ours, theirs in pairs:
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                here, there = (f"{_value(values, name)} in" for values in (ours, theirs))
                raise ReportError(
                    "runs-differ", f"cannot merge: {name} is {here} {first.name} and {there} {other.name}"
                )


def _known_to_both(run: RunRecord, other: RunRecord) -> Mapping[str, object]:
    """The fingerprints in `run` of what the other has one of too: each shard has those of its architectures."""
    theirs = other.run.fingerprints or {}
    return {name: value for name, value in (run.run.fingerprints or {}).items() if name in theirs}


def _commit(run: RunRecord) -> str | None:
    """The commit without its mark for changes: a shard may have built something into its checkout."""
    return run.run.commit.removesuffix(DIRTY) if run.run.commit else None


def _conditions(run: RunRecord) -> _Options:
    """The options that verdicts depend on. Without shards, a run is divided by its selection of architectures."""
    left_out = {SHARD} if run.run.options.get(SHARD) else {SHARD, _ARCHITECTURES}
    return {option_of(name): value for name, value in run.run.options.items() if name not in left_out}


def _value(values: Mapping[str, object], name: str) -> str:
    return "not given" if values.get(name) is None else str(values[name])


def _must_be_whole(records: Sequence[Named], shards: Sequence[Shard | None]) -> None:
    first = shards[0]
    for each, shard in zip(records, shards, strict=True):
        if (shard is None) != (first is None) or (shard and first and shard.of != first.of):
            names = [f"shard {part.number}/{part.of}" if part else "not a shard" for part in (first, shard)]
            raise ReportError(
                "runs-differ",
                f"cannot merge: {records[0].name} is {names[0]} and {each.name} is {names[1]}, not parts of one run",
            )
    if not first:
        return
    seen: dict[int, str] = {}
    for each, shard in zip(records, shards, strict=True):
        assert shard
        if shard.number in seen:
            pair, shared = f"{seen[shard.number]} and {each.name}", f"{shard.number}/{shard.of}"
            raise ReportError("shards-overlap", f"cannot merge: {pair} are both shard {shared}")
        seen[shard.number] = each.name
    missing = [f"{number}/{first.of}" for number in range(1, first.of + 1) if number not in seen]
    if missing:
        kind = "shard" if len(missing) == 1 else "shards"
        raise ReportError("shards-missing", f"cannot merge: missing {kind} {first_few(missing, 10)}")


def _must_not_overlap(records: Sequence[Named]) -> None:
    seen: dict[str, str] = {}
    for each in records:
        for cell in each.run.cells:
            if cell.id in seen:
                raise ReportError(
                    "shards-overlap", f"cannot merge: {seen[cell.id]} and {each.name} both have the cell {cell.id}"
                )
        seen |= {cell.id: each.name for cell in each.run.cells}


def _key(pair: tuple[Shard | None, Named]) -> tuple[int, object, str]:
    shard, record = pair
    return shard.number if shard else 0, when(record.run.run.started), record.run.run.id


def _info(runs: Sequence[RunRecord]) -> RunInfo:
    infos = [run.run for run in runs]
    finished = [info.finished for info in infos if info.finished]
    options = {name: value for name, value in infos[0].options.items() if name not in (SHARD, _DIVISION)}
    selected = [info.options.get(_ARCHITECTURES) for info in infos]
    if len(set(selected)) > 1:
        names = {name for selection in selected for name in str(selection or "all").split(",")}
        options[_ARCHITECTURES] = ",".join(sorted(names))
    return dataclasses.replace(
        infos[0],
        id=hashlib.sha256("\0".join(sorted(info.id for info in infos)).encode()).hexdigest()[:12],
        started=min((info.started for info in infos), key=when),
        finished=max(finished, key=when) if len(finished) == len(infos) else None,
        complete=all(info.complete for info in infos),
        options=options,
        fingerprints={name: value for info in infos for name, value in (info.fingerprints or {}).items()} or None,
        since=_since([info.since for info in infos if info.since]),
        # The longest has the mark for changes, if any has.
        commit=max((info.commit for info in infos if info.commit), key=len, default=None),
    )


def _since(parts: Sequence[Since]) -> Since | None:
    if not parts:
        return None
    if len(runs := {part.run for part in parts}) > 1:
        raise ReportError(
            "runs-differ", f"cannot merge: the records have --since of different runs: {', '.join(sorted(runs))}"
        )
    left_out = tuple(cell for part in parts for cell in part.left_out)
    return Since(parts[0].run, left_out, sum(part.missing for part in parts))


def _environment(machines: Sequence[Environment]) -> Environment:
    """Shards may run on different machines; all of them are named."""

    def named(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    return dataclasses.replace(
        machines[0],
        platform=named([machine.platform for machine in machines]),
        cpu=named([machine.cpu for machine in machines]),
    )
