"""Runs whose verdicts differ only because of the versions under test: complete, and equal in everything else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from packaging.version import InvalidVersion, Version

from conformance.core.errors import InputError
from conformance.core.option_names import by_option
from conformance.core.text import one_line, plural
from conformance.core.verdicts import Verdict
from conformance.records.run import DIRTY, RunRecord

#: May differ: ExecuTorch comes with a torchao of its own.
_UNDER_TEST = frozenset({"transformers", "executorch", "torch", "torchao"})
#: The beginnings of the names of fingerprints that no version under test changes.
_OF_THE_SUITE = ("the suite", "fixture and row of ")
#: What the hash in the options is of.
_MATRIX = {"matrix": "the matrix with its known failures"}
_SAME = "compare runs of one commit with the same options, as `conformance grid` makes them"


class Versions(NamedTuple):
    """The versions under test in a run."""

    transformers: str
    executorch: str
    torch: str

    @property
    def order(self) -> tuple[tuple[bool, Version, str], ...]:
        """The order of versions; one that is not a version number, as of a checkout, counts as newer than any."""
        return tuple(map(_order, self))

    def before(self, other: Versions) -> bool:
        """Whether one of them is older than in `other`, and none is newer."""
        return self != other and all(mine <= theirs for mine, theirs in zip(self.order, other.order, strict=True))

    def __str__(self) -> str:
        return one_line(f"Transformers {self.transformers}, ExecuTorch {self.executorch}, torch {self.torch}")


def _order(text: str) -> tuple[bool, Version, str]:
    try:
        return False, Version(text), text
    except InvalidVersion:
        return True, Version("0"), text


def versions_of(run: RunRecord) -> Versions:
    """The versions under test.

    Raises:
        InputError: The run does not record one.
    """
    packages = run.environment.packages
    missing = [name for name in Versions._fields if name not in packages]
    if missing:
        raise InputError("version-not-recorded", f"run {run.run.id} does not record the version of {missing[0]}")
    return Versions(*(packages[name] for name in Versions._fields))


def by_versions(runs: Sequence[RunRecord]) -> dict[Versions, RunRecord]:
    """Each run by its versions, the older ones first.

    Raises:
        InputError: A run is not complete, or is only a part of one; two have the same versions, or differ in more than
            these. The message says in what, and what to do.
    """
    if not runs:
        raise InputError("no-records", "a compatibility page needs the record of at least one run")
    for run in runs:
        _require_whole(run)
    ordered = sorted(runs, key=lambda run: versions_of(run).order)
    for one, other in combinations(ordered, 2):
        if versions_of(one) == versions_of(other):
            raise InputError(
                "run-given-twice", f"two runs have {versions_of(one)}: {one.run.id} and {other.run.id}; leave one out"
            )
    first, *others = ordered
    for other in others:
        _require_equal(first, other)
    return {versions_of(run): run for run in ordered}


def _require_whole(run: RunRecord) -> None:
    options = by_option(run.run.options)
    name = f"the run with {versions_of(run)}"
    if options.get("--shard"):
        raise InputError(
            "run-not-comparable",
            f"{name} is shard {options['--shard']}; merge all shards first, by `conformance report merge`",
        )
    if options.get("--since") or run.run.since:
        raise InputError(
            "run-not-comparable", f"{name} has only the cells that changed since another run; run it without --since"
        )
    if not run.run.complete:
        missing = sum(cell.verdict is Verdict.NOT_RUN for cell in run.cells)
        raise InputError(
            "run-not-comparable", f"{name} is not complete: {plural(missing, 'cell')} not run; finish it with --resume"
        )


def _require_equal(first: RunRecord, other: RunRecord) -> None:
    hashes = [run.run.fingerprints or {} for run in (first, other)]
    # A row is missing where Transformers does not have its architecture.
    common = [name for name in hashes[0] if name in hashes[1] and name.startswith(_OF_THE_SUITE)]
    ours, theirs = (
        {**_conditions(run), **{name: found[name] for name in common}}
        for run, found in zip((first, other), hashes, strict=True)
    )
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            here, there = (one_line(_value(values.get(name))) for values in (ours, theirs))
            raise InputError(
                "runs-differ",
                f"{_MATRIX.get(name, name)}: {here} in the run with {versions_of(first)}, {there} in the run with "
                f"{versions_of(other)}; {_SAME}",
            )


def _conditions(run: RunRecord) -> dict[str, object]:
    """All that verdicts depend on besides the versions under test."""
    packages = {name: version for name, version in run.environment.packages.items() if name not in _UNDER_TEST}
    return {
        **by_option(run.run.options),
        "--hypothesis-seed": run.run.seed,
        "commit": (run.run.commit or "").removesuffix(DIRTY),
        "Python": run.environment.python,
        **packages,
    }


def _value(value: object) -> str:
    return "not given" if value in (None, "") else str(value)
