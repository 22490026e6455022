"""Which versions go together, and what is wrong with those that are installed. Reads metadata, and imports nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

#: The torch that a release of ExecuTorch is built against. Its native code loads with no other, and since 1.5 its
#: metadata names none. From each release's `install_requirements.py` and `torch_pin.py`.
TORCH_FOR_EXECUTORCH: Mapping[str, str] = {
    "1.0": ">=2.9,<2.10",
    "1.1": ">=2.10,<2.11",
    "1.2": ">=2.11,<2.12",
    "1.3": ">=2.12,<2.13",
    "1.4": ">=2.13,<2.14",
    "1.5": ">=2.13,<2.14",
}
#: The first Transformers with which the reference was tried; what it cannot do there, docs/versions.md says.
TRANSFORMERS_FOR_REFERENCE = ">=4.57"

#: Without these nothing can be judged.
REQUIRED = ("torch", "transformers", "executorch")
#: Whose own requirements are looked at: those that meet in a program.
_ASKED = (*REQUIRED, "torchao", "pytorch-tokenizers", "optimum-executorch")

Versions = Callable[[str], str | None]
Requirements = Callable[[str], Sequence[str]]


def installed(package: str) -> str | None:
    """The version of a package as its metadata has it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> list[str]:
    """What the metadata of an installed package asks for, extras included as they are written there."""
    return metadata.requires(package) or []


def impossible(version_of: Versions = installed, required_by: Requirements = requirements) -> list[str]:
    """What is missing, or cannot work together, a sentence for each.

    Args:
        version_of: The installed version of a package.
        required_by: The requirements in a package's metadata.
    """
    missing = [name for name in REQUIRED if version_of(name) is None]
    found = [f"{name} is not installed: pip install -c constraints.txt {name}" for name in missing]
    return [*found, *_torch(version_of), *_declared(version_of, required_by)]


def unfit(subjects: Collection[str], version_of: Versions = installed) -> list[str]:
    """Which of the subjects cannot be put under test with these versions, and why."""
    transformers = _version(version_of("transformers"))
    if "reference" not in subjects or transformers is None:
        return []
    if SpecifierSet(TRANSFORMERS_FOR_REFERENCE).contains(transformers, prereleases=True):
        return []
    return [f"the subject reference needs transformers{TRANSFORMERS_FOR_REFERENCE}, and {transformers} is installed"]


def untried(version_of: Versions = installed) -> list[str]:
    """What may work, and nobody has said so."""
    executorch = _version(version_of("executorch"))
    newest = max(map(Version, TORCH_FOR_EXECUTORCH))
    if executorch is None or executorch.release[:2] <= newest.release:
        return []
    return [f"ExecuTorch {executorch} is newer than {newest}, the newest of which it is known which torch it goes with"]


def _torch(version_of: Versions) -> Iterator[str]:
    executorch, torch = _version(version_of("executorch")), _version(version_of("torch"))
    if executorch is None or torch is None:
        return
    wanted = TORCH_FOR_EXECUTORCH.get(".".join(map(str, executorch.release[:2])))
    if wanted and not SpecifierSet(wanted).contains(torch, prereleases=True):
        yield f"ExecuTorch {executorch} is built against torch {wanted}, and torch {torch} is installed"


def _declared(version_of: Versions, required_by: Requirements) -> Iterator[str]:
    for package in _ASKED:
        if version_of(package) is None:
            continue
        for text in required_by(package):
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue  # how others write their metadata is not for us to judge
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            found = _version(version_of(wanted.name))
            if found is not None and not wanted.specifier.contains(found, prereleases=True):
                yield f"{package} {version_of(package)} needs {wanted.name}{wanted.specifier}, and {found} is installed"


def _version(text: str | None) -> Version | None:
    """None too for what is no version: a package in development may call itself anything."""
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None
