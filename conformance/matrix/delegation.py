"""Operators left to portable kernels, by baseline: `fixtures/partitions/executorch-VERSION/ARCHITECTURE.json`.

Partitions change with ExecuTorch, so each release has its own. Against a release that has none yet, the newest one
before it counts: what matters is what got worse since then. A release older than all that are listed
is compared with the oldest of them: what else it leaves is a difference between the two. Imports no torch.

An older Transformers writes its models with other small operators, and no backend is worse for it. Releases may have
lists of their own, in `executorch-VERSION/transformers-VERSION`; one without is compared with the newest before it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from conformance.core.cells import Program
from conformance.core.errors import InputError
from conformance.core.files import architecture_file, atomic_write, read_regular_file
from conformance.core.paths import PARTITIONS
from conformance.core.validation import VersionText, first_problem
from conformance.core.verdicts import Verdict
from conformance.records.run import RunRecord

#: Largest file that is read; one of all backends has 10 kB.
_MOST_BYTES = 4 << 20
_FOLDER = "executorch-"
_OLDER = "transformers-"
#: What a partition depends on beside ExecuTorch.
_MADE_WITH = ("torch", "transformers")


@validated(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Listed:
    """One program, as a file lists it: how many operators are delegated, and how many of which are left out."""

    made_with: Mapping[str, VersionText]
    delegated: int
    left: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of operators that is delegated."""
        total = self.delegated + sum(self.left.values())
        return self.delegated / total if total else 1.0


#: By subject, backend and mode: what a file holds.
Programs = dict[str, dict[str, dict[str, Listed]]]
_FILE = TypeAdapter(Programs)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is listed for one program.

    Args:
        left: How many operators are left out, by name.
        share: The share of operators that is delegated.
        source: The file that lists it.
        exact: Whether it was made with the versions that are installed, so that less is a difference too.
    """

    left: Mapping[str, int]
    share: float
    source: str
    exact: bool


class BaselineError(InputError):
    """A file of baselines is damaged; the message has which and where."""


def baseline(program: Program, versions: Mapping[str, str], directory: Path = PARTITIONS) -> Baseline | None:
    """What is listed for `program`; None if no release has it."""
    for version in _nearest(releases(directory), versions.get("executorch")):
        found: dict[Version, tuple[Listed, Path]] = {}
        for path in _files(program.architecture, version, directory):
            entry = _read(path).get(program.exporter, {}).get(program.backend, {}).get(program.mode)
            if entry is not None:
                found[Version(entry.made_with.get("transformers", "0"))] = entry, path
        if found:
            entry, path = found[_nearest(sorted(found, reverse=True), versions.get("transformers"))[0]]
            same = all(entry.made_with.get(name) == _public(versions.get(name)) for name in _MADE_WITH)
            return Baseline(
                entry.left,
                entry.share,
                str(path.relative_to(directory.parent.parent)),
                exact=same and str(version) == versions.get("executorch"),
            )
    return None


def listed(architecture: str, version: Version, directory: Path = PARTITIONS) -> Programs:
    """All that is listed for an architecture under one release."""
    return _read(_path(architecture, version, directory))


def releases(directory: Path = PARTITIONS) -> list[Version]:
    """The releases with baselines, newest first."""
    found = []
    for folder in directory.glob(f"{_FOLDER}*"):
        try:
            found.append(Version(folder.name.removeprefix(_FOLDER)))
        except InvalidVersion:
            raise BaselineError("invalid-baseline", f"{folder}: {folder.name} names no version of ExecuTorch") from None
    return sorted(found, reverse=True)


def _nearest(found: Sequence[Version], installed: str | None) -> list[Version]:
    """Of `found`, newest first: those up to the `installed` release, and behind them the newer ones, oldest first."""
    if installed is None:
        return list(found)
    newest = Version(installed)
    return [
        *(version for version in found if version <= newest),
        *(version for version in reversed(found) if version > newest),
    ]


def _files(architecture: str, version: Version, directory: Path) -> Iterator[Path]:
    """Where a program may be listed under one release of ExecuTorch: by itself, and with older Transformers."""
    path = _path(architecture, version, directory)
    yield path
    yield from path.parent.glob(f"{_OLDER}*/{path.name}")


def updated(run: RunRecord, rows: Collection[str], directory: Path = PARTITIONS) -> list[str]:
    """Write the partitions of `run`, and return a sentence for each change and for what is skipped.

    Programs of other architectures than `rows` are skipped, and those that do not lower as LOW-1 requires. LOW-3, which
    compares with the lists, may fail.

    What was seen with an older Transformers than the architecture's list was made with goes into a list of its own.

    Raises:
        ValueError: It names a version or an architecture that cannot be one, or a file is damaged; nothing is written.
    """
    versions = run.environment.packages
    made_with = {name: version for name in _MADE_WITH if (version := _public(versions.get(name)))}
    files: dict[Path, Programs] = {}
    changes = []
    for cell in run.cells:
        if cell.partition is None or not cell.partition.delegates or cell.subject is None or cell.mode is None:
            continue
        place = f"{cell.architecture} {cell.subject} {cell.backend} {cell.mode}"
        if cell.architecture not in rows:
            changes.append(f"{place}: skipped, since {cell.architecture} has no row in the matrix")
            continue
        if cell.verdict not in (Verdict.PASS, Verdict.UNEXPECTED_PASS):
            changes.append(f"{place}: skipped, since {cell.clause} ended with {cell.verdict}")
            continue
        if "executorch" not in versions:
            raise BaselineError(
                "version-not-recorded", "the run does not record the version of executorch that it lowered with"
            )
        path = _path(cell.architecture, Version(versions["executorch"]), directory)
        if (older := made_with.get("transformers")) and Version(older) < _newest(_read(path)):
            path = _path(cell.architecture, Version(versions["executorch"]), directory, Version(older))
        modes = files.setdefault(path, _read(path)).setdefault(cell.subject, {}).setdefault(cell.backend, {})
        new = Listed(made_with, sum(cell.partition.delegated.values()), cell.partition.undelegated)
        old = modes.get(cell.mode)
        modes[cell.mode] = new
        if old is None:
            changes.append(f"{place}: {new.delegated} delegated, {sum(new.left.values())} left out")
        elif (old.delegated, dict(old.left)) != (new.delegated, dict(new.left)):
            changes.append(f"{place}: {_changes(old, new)}")
    for path, content in files.items():
        plain: Any = _FILE.dump_python(content, mode="json")
        atomic_write(path, (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode())
    return changes


def _changes(old: Listed, new: Listed) -> str:
    names = sorted({*old.left, *new.left})
    before, after = Counter(old.left), Counter(new.left)
    changes = [f"{name} {before[name]} → {after[name]}" for name in names if before[name] != after[name]]
    return ", ".join([f"{old.delegated} → {new.delegated} delegated", *changes])


def _newest(programs: Programs) -> Version:
    """The newest Transformers that any of `programs` was made with; of none, one that is older than all."""
    made = [
        program.made_with["transformers"]
        for backends in programs.values()
        for modes in backends.values()
        for program in modes.values()
        if "transformers" in program.made_with
    ]
    return max(map(Version, made), default=Version("0"))


def _path(architecture: str, version: Version, directory: Path, transformers: Version | None = None) -> Path:
    folder = directory / f"{_FOLDER}{version}"
    return architecture_file(folder / f"{_OLDER}{transformers}" if transformers else folder, architecture)


def _read(path: Path) -> Programs:
    try:
        return _FILE.validate_json(read_regular_file(path, _MOST_BYTES))
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise BaselineError("invalid-baseline", f"{path}: {first_problem(error)}") from error


def _public(version: str | None) -> str | None:
    """Without the build: 2.13.0+cpu lowers as 2.13.0 does."""
    return Version(version).public if version else None
