"""Several records as one: the shards of a run, or runs of different architectures, and only if nothing gets lost."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.matrix.sharding import Shard, read_shard
from conformance.records.run import DIRTY, Environment, RunInfo, RunRecord, RunWriter, Since
from report.errors import ReportError
from report.loading import when

#: The option that says which part of a run a record is, such as "3/8"; the option that may differ without it.
SHARD, _ARCHITECTURES = "shard", "arch"

_Options = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Named:
    """A record and what to call it when something is wrong with it."""

    name: str
    run: RunRecord


def merge(records: Sequence[Named]) -> RunRecord:
    """One record with the cells of all `records`; the same whatever order they come in.

    Raises:
        ReportError: They are no parts of one run, they overlap, or one is missing.
    """
    if not records:
        raise ReportError("there is nothing to merge")
    shards = [_shard(each) for each in records]
    for each in records[1:]:
        _must_be_alike(records[0], each)
    _must_be_whole(records, shards)
    _must_not_overlap(records)
    ordered = [each.run for _, each in sorted(zip(shards, records, strict=True), key=_place)]
    return RunRecord(
        1,
        _info(ordered),
        _environment([run.environment for run in ordered]),
        tuple(cell for run in ordered for cell in run.cells),
    )


def write(run: RunRecord, path: Path) -> None:
    """Put a record at `path`, whole or not at all."""
    try:
        RunWriter(path, run.run, run.environment, run.cells)
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error


def _shard(record: Named) -> Shard | None:
    told = record.run.run.options.get(SHARD)
    if told is None:
        return None
    try:
        return read_shard(str(told))
    except ValueError as error:
        raise ReportError(f"{record.name}: its option --shard: {error}") from error


def _must_be_alike(first: Named, other: Named) -> None:
    """Verdicts that were reached under different conditions would look like those of one run."""
    pairs: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("version of", first.run.environment.packages, other.run.environment.packages),
        ("", {"Python": first.run.environment.python}, {"Python": other.run.environment.python}),
        ("option", _conditions(first.run), _conditions(other.run)),
        ("", {"commit": _commit(first.run)}, {"commit": _commit(other.run)}),
        ("", {"Hypothesis seed": first.run.run.seed}, {"Hypothesis seed": other.run.run.seed}),
    )
    for kind, before, after in pairs:
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                raise ReportError(
                    f"{other.name} is unlike {first.name}: {f'{kind} {name}'.strip()} is {_told(after, name)} in the "
                    f"former and {_told(before, name)} in the latter"
                )


def _commit(run: RunRecord) -> str | None:
    """Changes on top of it are no other commit: a shard may have built something into its checkout."""
    return run.run.commit.removesuffix(DIRTY) if run.run.commit else None


def _conditions(run: RunRecord) -> _Options:
    """The options that verdicts depend on. Without shards, a selection of architectures is what parts a run."""
    left_out = {SHARD} if run.run.options.get(SHARD) else {SHARD, _ARCHITECTURES}
    return {name: value for name, value in run.run.options.items() if name not in left_out}


def _told(values: Mapping[str, object], name: str) -> str:
    return "not given" if values.get(name) is None else str(values[name])


def _must_be_whole(records: Sequence[Named], shards: Sequence[Shard | None]) -> None:
    first = shards[0]
    for each, shard in zip(records, shards, strict=True):
        if (shard is None) != (first is None) or (shard and first and shard.of != first.of):
            told = [f"shard {found.number}/{found.of}" if found else "no shard" for found in (shard, first)]
            raise ReportError(f"{each.name} is {told[0]}, and {records[0].name} is {told[1]}: not parts of one run")
    if not first:
        return
    seen: dict[int, str] = {}
    for each, shard in zip(records, shards, strict=True):
        assert shard
        if shard.number in seen:
            raise ReportError(f"{each.name} and {seen[shard.number]} are both shard {shard.number}/{shard.of}")
        seen[shard.number] = each.name
    missing = [number for number in range(1, first.of + 1) if number not in seen]
    if missing:
        named = ", ".join(f"{number}/{first.of}" for number in missing[:10])
        more = f" and {len(missing) - 10} others are" if len(missing) > 10 else " is" if len(missing) == 1 else " are"
        raise ReportError(f"{'shard' if len(missing) == 1 else 'shards'} {named}{more} missing: the run is not whole")


def _must_not_overlap(records: Sequence[Named]) -> None:
    seen: dict[str, str] = {}
    for each in records:
        for cell in each.run.cells:
            if cell.id in seen:
                raise ReportError(f"{each.name} and {seen[cell.id]} overlap: both have the cell {cell.id}")
        seen |= {cell.id: each.name for cell in each.run.cells}


def _place(pair: tuple[Shard | None, Named]) -> tuple[int, object, str]:
    shard, record = pair
    return shard.number if shard else 0, when(record.run.run.started), record.run.run.id


def _info(runs: Sequence[RunRecord]) -> RunInfo:
    infos = [run.run for run in runs]
    ended = [info.finished for info in infos if info.finished]
    options = {name: value for name, value in infos[0].options.items() if name != SHARD}
    chosen = [info.options.get(_ARCHITECTURES) for info in infos]
    if len(set(chosen)) > 1:
        options[_ARCHITECTURES] = ",".join(sorted({part for each in chosen for part in str(each or "all").split(",")}))
    return dataclasses.replace(
        infos[0],
        id=hashlib.sha256("\0".join(sorted(info.id for info in infos)).encode()).hexdigest()[:12],
        started=min((info.started for info in infos), key=when),
        finished=max(ended, key=when) if len(ended) == len(infos) else None,
        complete=all(info.complete for info in infos),
        options=options,
        fingerprints={name: value for info in infos for name, value in (info.fingerprints or {}).items()} or None,
        since=_since([info.since for info in infos if info.since]),
        commit=max((info.commit for info in infos if info.commit), key=len, default=None),  # the changed one
    )


def _since(found: Sequence[Since]) -> Since | None:
    if not found:
        return None
    if len(runs := {each.run for each in found}) > 1:
        raise ReportError(f"the records left out what had not changed since different runs: {', '.join(sorted(runs))}")
    return Since(found[0].run, tuple(cell for each in found for cell in each.left_out))


def _environment(found: Sequence[Environment]) -> Environment:
    """Shards may run on different machines; all of them are named."""

    def named(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    return dataclasses.replace(
        found[0],
        platform=named([each.platform for each in found]),
        cpu=named([each.cpu for each in found]),
    )
