"""The parts that a verdict depends on, as hashes of their sources or versions. Nothing here imports what it reads.

Two runs with the same fingerprints of a cell's parts should give the cell the same verdict.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from conformance.core.cells import Cell, split_row
from conformance.core.exporter_names import KNOWN
from conformance.core.paths import FIXTURES, PACKAGE, PARTITIONS, ROOT
from conformance.matrix.discovery import configuration_module, transformers_folder
from conformance.matrix.schema import Matrix
from conformance.records.environment import versions

#: Directories of `transformers.models` that models of every architecture may reach.
_FOR_ALL = frozenset({"auto"})
#: Model types that a configuration names for parts of its model, which `AutoModel.from_config` then makes:
#: ``SubConfigSpec(config_class=AutoConfig, model_type="persimmon")``, ``CONFIG_MAPPING["llama"]``.
_PART = re.compile(r"""(?:\bmodel_type\s*=\s*|\bCONFIG_MAPPING\[)["']([^"']+)["']""")

#: Imports from the directory of another model, by what follows it: ``from ..llama.modeling_llama import LlamaMLP``,
#: ``from .. import llama``, ``from ...models.llama import LlamaMLP``, ``from transformers.models.llama import ...``.
_FROM_ANOTHER = re.compile(
    r"^\s*from (?:\.\.(?!\.)|\.\.\.models\.|transformers\.models\.)(\w*)[\w.]* import ([^#\n]*)", re.MULTILINE
)


def fingerprints(matrix: Matrix, architectures: Iterable[str], subjects: Iterable[str]) -> dict[str, str]:
    """By the part's name: the suite, shared modules, packages, and each architecture and subject.

    Args:
        matrix: Its rows are a part of what is judged.
        architectures: Those to look at.
        subjects: Their names, known or `package.module:callable`.
    """
    found = {
        "python": platform.python_version(),
        "the suite": suite_fingerprint(),
        "transformers' shared modules": _shared(),
    }
    # Hash Transformers' sources, not its version: checkouts share versions.
    found |= {f"package {name}": version for name, version in versions().items() if name != "transformers"}
    for name in architectures:
        found[f"modeling code of {name}"] = _modeling(name)
        found[f"fixture and row of {name}"] = _fixture(matrix, name)
    for name in subjects:
        found[f"subject {name}"] = _subject(name)
    return found


def parts(cell: Cell, found: Mapping[str, str]) -> tuple[str, ...]:
    """The names in `found` that a cell's verdict depends on."""
    own = {
        f"modeling code of {cell.architecture}",
        f"fixture and row of {cell.architecture}",
        f"subject {cell.subject}",
    }
    special = ("modeling code of ", "fixture and row of ", "subject ")
    return tuple(name for name in found if name in own or not name.startswith(special))


#: The folders of the installed package that lie elsewhere in a checkout: no verdict depends on the report.
_NO_CODE = frozenset({"data", "report"})


def suite_fingerprint() -> str:
    """The suite's code, with the reference, of which the oracle shares parts, and data that all cells share."""
    code = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in _NO_CODE]
    return _digest(code, PACKAGE, _digest(sorted(PARTITIONS.rglob("*.json")), ROOT))


@functools.cache
def _shared() -> str:
    top = transformers_folder()
    models = top / "models"
    outside = [path for path in top.rglob("*.py") if models not in path.parents]
    for_all = [path for name in _FOR_ALL for path in (models / name).glob("*.py")]
    return _digest(sorted([*outside, *for_all, *models.glob("*.py")]), top)


def _modeling(architecture: str) -> str:
    """The modules of the architecture, and of those that it reaches; of all models if its own are unknown."""
    models = transformers_folder() / "models"
    reached = reach(architecture)
    if not reached:
        return _digest(sorted(models.rglob("*.py")), models)
    return _digest([path for name in sorted(reached) for path in sorted((models / name).glob("*.py"))], models)


def reach(architecture: str) -> frozenset[str]:
    """The directories of `transformers.models` whose code a row's model may run; empty if its own is unknown.

    Its own, those of the parts that its fixture or its configuration names, and all that these import from.
    """
    models = transformers_folder() / "models"
    name = split_row(architecture)[0]
    home = configuration_module(name)
    if home is None:
        return frozenset()
    fixture = FIXTURES / "configs" / f"{name}.json"
    parts_of_fixture = _model_types(json.loads(fixture.read_text())) if fixture.exists() else ()
    pending = [home.parent.name, *_homes_of(parts_of_fixture)]
    seen: set[str] = set()
    while pending:
        each = pending.pop()
        if each not in seen and each not in _FOR_ALL and (models / each).is_dir():
            seen.add(each)
            pending.extend(_named_by(models / each))
    return frozenset(seen)


@functools.cache
def _named_by(directory: Path) -> frozenset[str]:
    """The other models' directories that the modules of one import from, and those of parts of its model."""
    # By pattern, not parsed: parsing the modules of all models takes 15 s, and this half a second.
    found: set[str] = set()
    for path in directory.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for module, names in _FROM_ANOTHER.findall(text):
            found.update([module] if module else re.findall(r"\w+", names))
        if path.name.startswith("configuration_"):
            found.update(_homes_of(_PART.findall(text)))
    return frozenset(found)


def _homes_of(model_types: Iterable[str]) -> Iterator[str]:
    for each in model_types:
        home = configuration_module(each)
        if home:
            yield home.parent.name


def _model_types(config: object) -> Iterator[str]:
    """Every `model_type` in a config and those within it."""
    if isinstance(config, dict):
        if isinstance(config.get("model_type"), str):
            yield config["model_type"]
        for value in config.values():
            yield from _model_types(value)


def _fixture(matrix: Matrix, architecture: str) -> str:
    name, variation = split_row(architecture)
    files = [FIXTURES / folder / f"{name}.json" for folder in ("configs", "pins")]
    changed = matrix.variations[variation] if variation else None
    settings = changed and (dataclasses.replace(changed, rows={}), changed.rows[name])
    # SEN-3 of a fixture also reads what each of its variations changes.
    overrides = matrix.overrides(architecture)
    known = repr((matrix.row(architecture), settings, overrides, sorted(matrix.causes_of(architecture).items())))
    return _digest([path for path in files if path.exists()], ROOT, known)


def _subject(name: str) -> str:
    """The sources of the subject's package: what its module may import of its own."""
    top = KNOWN.get(name, name).partition(":")[0].partition(".")[0]
    if top in {"transformers", "conformance"}:
        return "shared"  # its sources are a part of their own
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return "unknown"
    path = Path(spec.origin)
    if path.name != "__init__.py":
        return _digest([path], path.parent)
    return _digest(sorted(path.parent.rglob("*.py")), path.parent)


def fingerprint_of_files(paths: Iterable[Path]) -> str:
    """Of files that may be too large to read: their names, sizes and times of change."""
    found = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file())
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _digest(paths: Iterable[Path], base: Path, also: str = "") -> str:
    """Of the contents of files, and of their names as seen from `base`, which may differ from machine to machine."""
    return hashlib.sha256("\n".join([*_lines(paths, base), also]).encode()).hexdigest()[:16]


def _lines(paths: Iterable[Path], base: Path) -> Iterator[str]:
    for path in paths:
        yield f"{path.relative_to(base).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}"
