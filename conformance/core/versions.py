"""Checks that the installed versions work together. Reads their metadata without importing them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from conformance.core.commands import install_command

#: The torch that a release of ExecuTorch is built against. Its native code loads only with that, and since 1.5 its
#: metadata does not name it. From each release's `install_requirements.py` and `torch_pin.py`.
TORCH_FOR_EXECUTORCH: Mapping[str, str] = {
    "1.0": ">=2.9,<2.10",
    "1.1": ">=2.10,<2.11",
    "1.2": ">=2.11,<2.12",
    "1.3": ">=2.12,<2.13",
    "1.4": ">=2.13,<2.14",
    "1.5": ">=2.13,<2.14",
}
#: The oldest Transformers that the reference supports; docs/reference/versions.md has its limits there.
TRANSFORMERS_FOR_REFERENCE = ">=4.57"

#: Every run needs these.
REQUIRED = ("torch", "transformers", "executorch")
#: The packages whose requirements are checked: those that work on the same program.
_CHECKED = (*REQUIRED, "torchao", "pytorch-tokenizers", "optimum-executorch")


@dataclass(frozen=True, slots=True)
class TorchConflict:
    """An ExecuTorch and a torch that it was not built against.

    Args:
        needed: The torch that it needs.
        torch: The nearest version of that.
        executorch: The release nearest to this ExecuTorch that goes with this torch; empty if there is none.
    """

    needed: str
    torch: str
    executorch: str


Versions = Callable[[str], str | None]
Requirements = Callable[[str], Sequence[str]]


def installed(package: str) -> str | None:
    """The version of a package by its metadata; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> list[str]:
    """The requirements in the metadata of an installed package, with those of its extras."""
    return metadata.requires(package) or []


def incompatible(version_of: Versions = installed, required_by: Requirements = requirements) -> list[str]:
    """A sentence for each package that is missing, and for each pair of versions that cannot work together.

    Args:
        version_of: The installed version of a package.
        required_by: The requirements in a package's metadata.
    """
    missing = [name for name in REQUIRED if version_of(name) is None]
    problems = [f"{name} is not installed: {install_command(name)}" for name in missing]
    return [*problems, *_torch(version_of), *_declared(version_of, required_by)]


def unsupported(subjects: Collection[str], version_of: Versions = installed) -> list[str]:
    """A sentence for each exporter that does not support these versions."""
    transformers = version_of("transformers")
    if "reference" not in subjects or _version(transformers) is None or supports_reference(str(transformers)):
        return []
    return [f"the reference exporter needs transformers{TRANSFORMERS_FOR_REFERENCE}; installed: {transformers}"]


def supports_reference(transformers: str) -> bool:
    """Whether the reference supports this version of Transformers."""
    return SpecifierSet(TRANSFORMERS_FOR_REFERENCE).contains(transformers, prereleases=True)


def torch_conflict(executorch: str, torch: str, releases: Collection[str]) -> TorchConflict | None:
    """What to install instead, if these versions cannot be combined; of ExecuTorch, one of `releases`."""
    needed = _torch_for(Version(executorch))
    if not needed or _contains(needed, torch):
        return None
    lowest = next(each.version for each in SpecifierSet(needed) if each.operator == ">=")
    fitting = [release for release in releases if _contains(_torch_for(Version(release)) or ">0", torch)]
    return TorchConflict(needed, f"{lowest}.0", nearest_release(executorch, fitting))


def nearest_release(version: str, releases: Collection[str]) -> str:
    """The release whose numbers are the nearest to those of `version`; empty if there is none."""
    wanted = Version(version).release

    def distance(release: str) -> tuple[int, ...]:
        pairs = zip_longest(Version(release).release, wanted, fillvalue=0)
        return tuple(abs(mine - theirs) for mine, theirs in pairs)

    return min(releases, key=distance, default="")


def untested(version_of: Versions = installed) -> list[str]:
    """Untested version combinations, a sentence for each."""
    executorch = _version(version_of("executorch"))
    newest = max(map(Version, TORCH_FOR_EXECUTORCH))
    if executorch is None or executorch.release[:2] <= newest.release:
        return []
    return [f"ExecuTorch {executorch} is untested; newest supported is {newest}"]


def _torch(version_of: Versions) -> Iterator[str]:
    executorch, torch = _version(version_of("executorch")), _version(version_of("torch"))
    if executorch is None or torch is None:
        return
    wanted = _torch_for(executorch)
    if wanted and not _contains(wanted, str(torch)):
        yield f"ExecuTorch {executorch} needs torch{wanted}; installed: {torch}"


def _torch_for(executorch: Version) -> str:
    """The torch that an ExecuTorch needs; empty if that is not known."""
    return TORCH_FOR_EXECUTORCH.get(".".join(map(str, executorch.release[:2])), "")


def _contains(specifier: str, version: str) -> bool:
    return SpecifierSet(specifier).contains(version, prereleases=True)


def _declared(version_of: Versions, required_by: Requirements) -> Iterator[str]:
    for package in _CHECKED:
        if version_of(package) is None:
            continue
        for text in required_by(package):
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue  # malformed metadata is its own package's problem
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            actual = _version(version_of(wanted.name))
            if actual is not None and not wanted.specifier.contains(actual, prereleases=True):
                yield f"{package} {version_of(package)} needs {wanted.name}{wanted.specifier}; installed: {actual}"


def _version(text: str | None) -> Version | None:
    """None also for text that is not a version: packages in development may have any."""
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None
