"""The pairs of versions that `conformance grid` runs: read from a file, and checked before anything is installed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.cli.doctor import CONSTRAINTS, pinned
from conformance.cli.upstream import RELEASES, requirements
from conformance.core.exporter_names import REFERENCE
from conformance.core.suggest import unknown
from conformance.core.versions import TRANSFORMERS_FOR_REFERENCE, nearest_release, supports_reference, torch_conflict
from conformance.matrix.yaml_file import YamlFile, read_yaml

_REQUIRED = ("transformers", "executorch")
_KEYS = (*_REQUIRED, "torch")
_RELEASE = re.compile(r"\d+\.\d+(\.\w+)*")
_TWO_NUMBERS = re.compile(r"\d+\.\d+")

#: By package, what `releases.toml` installs for a release, by its first two numbers.
Releases = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Releases that are put under test together.

    Args:
        transformers: As the file has it, such as 5.23 for the last release of 5.23.
        executorch: The same.
        torch: A version, or empty for the one that constraints.txt pins.
        versions: What gets installed, by package, torch among them.
    """

    transformers: str
    executorch: str
    torch: str
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its name on the command line, and that of its record."""
        return "+".join(filter(None, (self.transformers, self.executorch, self.torch)))

    @property
    def specs(self) -> dict[str, str]:
        """The variables that `tox -e upstream` reads."""
        return {f"{key.upper()}_SPEC": value for key in _KEYS if (value := getattr(self, key))}

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def read_pairs(path: Path, exporters: Collection[str]) -> tuple[Pair, ...]:
    """The pairs of a file, in its order.

    Args:
        path: A YAML file: a list of mappings with the keys `transformers`, `executorch` and, optionally, `torch`.
        exporters: The exporters that will be judged.

    Raises:
        MatrixError: The file is not such a list, or has versions that do not exist or cannot be combined. The message
            has the line and the nearest valid choice.
    """
    file = read_yaml(path)
    releases: Releases = tomllib.loads(RELEASES.read_text(encoding="utf-8"))
    torch = pinned(CONSTRAINTS.read_text(encoding="utf-8"))["torch"]
    if not isinstance(file.data, list) or not file.data:
        raise file.error((), 'expected a list of pairs, such as - {transformers: "5.23", executorch: "1.5"}')
    pairs: dict[str, Pair] = {}
    for index in range(len(file.data)):
        pair = _pair(file, index, releases, torch)
        for key, problem in _conflicts(pair, releases, exporters):
            raise file.error((index, key), problem)
        if pair.name in pairs:
            raise file.error((index,), f"the pair {pair.name} is listed twice; remove one")
        pairs[pair.name] = pair
    return tuple(pairs.values())


def _pair(file: YamlFile, index: int, releases: Releases, torch: str) -> Pair:
    """The pair of this index, if each of its versions exists."""
    found = file.data[index]
    if not isinstance(found, dict):
        raise file.error((index,), f"expected a mapping with {' and '.join(_REQUIRED)}")
    for key in found:
        if key not in _KEYS:
            raise file.error((index, key), unknown("key", str(key), _KEYS))
    for key in _REQUIRED:
        if key not in found:
            raise file.error((index,), f"{key} is missing")
    versions = {"torch": torch}
    for key, value in found.items():
        if isinstance(value, float | int):
            raise file.error((index, key), f"{value} is a number, and so 5.10 would be 5.1; write it between quotes")
        if not isinstance(value, str) or not _RELEASE.fullmatch(value):
            problem = f"{value!r} is not a release, such as 5.23 or 5.23.0; `tox -e upstream` takes anything else"
            raise file.error((index, key), problem)
        if key == "torch":
            if _TWO_NUMBERS.fullmatch(value):
                raise file.error((index, key), f"torch needs all numbers of its version, such as {value}.0")
            versions[key] = value
            continue
        known = releases[key]
        if _TWO_NUMBERS.fullmatch(value) and value not in known:
            nearest = nearest_release(value, known)
            problem = f"{key} {value} is not in releases.toml; the nearest there is {nearest}, or write {value}.0"
            raise file.error((index, key), problem)
        versions[key] = _installed(key, value, releases)
    ordered = {key: versions[key] for key in _KEYS}
    return Pair(found["transformers"], found["executorch"], found.get("torch", ""), ordered)


def _installed(package: str, release: str, releases: Releases) -> str:
    """The version that `tox -e upstream` installs for `release`."""
    wanted = requirements({f"{package.upper()}_SPEC": release}, releases)
    return next(each for each in wanted if each.startswith(f"{package}==")).partition("==")[2]


def _conflicts(pair: Pair, releases: Releases, exporters: Collection[str]) -> Iterator[tuple[str, str]]:
    """What cannot be combined: the key that it is about, and a sentence with the nearest valid choice."""
    if REFERENCE in exporters and not supports_reference(pair.versions["transformers"]):
        known = [release for release in releases["transformers"] if supports_reference(f"{release}.0")]
        nearest = nearest_release(pair.transformers, known)
        yield (
            "transformers",
            f"the reference exporter needs transformers{TRANSFORMERS_FOR_REFERENCE}, and this is {pair.transformers}; "
            f"the nearest is {nearest}",
        )
    if conflict := torch_conflict(pair.versions["executorch"], pair.versions["torch"], releases["executorch"]):
        here = "this is" if pair.torch else "constraints.txt pins"
        other = f", which goes with ExecuTorch {conflict.executorch}" if conflict.executorch else ""
        yield (
            "torch" if pair.torch else "executorch",
            f"ExecuTorch {pair.executorch} needs torch{conflict.needed}, and {here} {pair.versions['torch']}{other}; "
            f'the nearest torch that it goes with is "{conflict.torch}"',
        )
