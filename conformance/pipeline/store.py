"""The artifact store: emitted programs by the content of what they were made from, so that no run lowers one twice.

What is made from it decides: the exported program itself, the backend, the installed torch and ExecuTorch, the
versions of the packages that the backend needs, and the code here that lowers. An exporter whose source changes but
exports the same program is not lowered again; one that exports another is, whatever its name and version say.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from pydantic import TypeAdapter, ValidationError
from torch.export import ExportedProgram

from conformance.core.files import PARTIAL, atomic_write, read_regular_file
from conformance.core.versions import installed
from conformance.pipeline.artifact import Artifact
from conformance.pipeline.backends import Backend
from conformance.pipeline.identity import tensors, texts

#: Packages whose every file has a say in what lowering gives.
_LOWERING_PACKAGES = ("torch", "executorch", "torchao")
#: The same of modules of this suite, beside those of a backend's recipe.
_LOWERING_MODULES = tuple(
    f"{__package__}.{name}" for name in ("artifact", "contents", "emission", "lowering", "partition")
)
_BACKENDS = "conformance.pipeline.backends"
_MIB = 1 << 20
_ENTRY = ".artifact"
#: Writing an entry takes milliseconds: what is not an entry after so many seconds will never be one.
_ABANDONED_S = 3600
#: To be raised when the layout of an entry or the way of hashing changes.
_FORMAT = "5"
_ARTIFACT = TypeAdapter(Artifact)


@dataclass(frozen=True, slots=True)
class Store:
    """A directory of artifacts, for any number of processes at once.

    Args:
        directory: Where they are kept; it need not exist.
        limit: MiB that they may take together. Beyond it, those that were not used for longest go.
    """

    directory: Path
    limit: int

    def get(self, key: str) -> Artifact | None:
        """The artifact under `key`; None if there is none, or it is not what was put there."""
        path = self._path(key)
        try:
            digest, _, body = read_regular_file(path, self.limit * _MIB, follow=False).partition(b"\n")
        except OSError:
            return None
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it is in use
        head, _, program = body.partition(b"\n")
        try:
            return _ARTIFACT.validate_python({**json.loads(head), "program": program})
        except (ValidationError, ValueError, TypeError):
            return None  # written by an older version

    @property
    def is_empty(self) -> bool:
        """Whether it has no artifact at all."""
        return next(self.directory.glob(f"*{_ENTRY}"), None) is None

    def put(self, key: str, artifact: Artifact) -> None:
        """Keep `artifact` under `key`. A full disk costs the artifact, not the verdict."""
        body = _ARTIFACT.dump_json(artifact, exclude={"program"}) + b"\n" + artifact.program
        content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        if len(content) > self.limit * _MIB:
            return  # or all others would go for one that cannot stay
        with contextlib.suppress(OSError):
            atomic_write(self._path(key), content)
            self._make_room()

    def _make_room(self) -> None:
        """Remove what was not used for longest, and the partial files of writers that were killed."""
        entries = sorted(_entries(self.directory.glob(f"*{_ENTRY}")))
        taken = sum(size for _, size, _ in entries)
        for _, size, entry in entries:
            if taken <= self.limit * _MIB:
                break
            entry.unlink(missing_ok=True)
            taken -= size
        for written, _, partial in _entries(self.directory.glob(f"*{PARTIAL}")):
            if written < time.time() - _ABANDONED_S:
                partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_ENTRY}"


def _entries(paths: Iterable[Path]) -> Iterator[tuple[float, int, Path]]:
    """When each was written or used last, in seconds, its size in bytes, and itself."""
    for path in paths:
        with contextlib.suppress(OSError):  # another process has just taken it away
            stat = path.stat()
            yield stat.st_mtime, stat.st_size, path


def key_of(program: ExportedProgram, backend: Backend, methods: Mapping[str, Any] | None = None) -> str:
    """What `program` lowered by `backend`, with these constant methods, is kept under."""
    digest = hashlib.sha256()
    constants = repr(sorted((methods or {}).items()))
    for part in (_FORMAT, *_surroundings(backend), backend.name, constants, *texts(program)):
        digest.update(part.encode() + b"\0")
    for name, content in tensors(program):
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()


def _surroundings(backend: Backend) -> Iterator[str]:
    """The interpreter, the packages file by file, and the code of this suite that lowers."""
    yield platform.python_version()
    for package in _LOWERING_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            distribution = metadata.distribution(package)
            yield distribution.version
            # Every file with its digest, but for the scripts, whose first line says where the environment is.
            lines = (distribution.read_text("RECORD") or "").splitlines()
            yield from (line for line in lines if not line.startswith(".."))
    for requirement in backend.requires:
        yield f"{requirement} {installed(Requirement(requirement).name)}"
    yield from sources_of(backend)


def sources_of(backend: Backend) -> tuple[str, ...]:
    """The text of each module of this suite that lowers for `backend`, as it was when this process first asked.

    What it declares is among them: artifacts hold the operators that it could take and did not declare.
    """
    recipe = (backend.partitioners, backend.edge, backend.passes, backend.emission, backend.declares)
    pending = [*_LOWERING_MODULES, *(part.__module__ for part in recipe if part)]
    names: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in names:
            names.add(name)
            pending.extend(_backends_in(name))
    return tuple(map(_source, sorted(names)))


@functools.cache
def _backends_in(module: str) -> tuple[str, ...]:
    """The backends' modules that `module` imports; not their base, which has nothing that lowers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and node.module == _BACKENDS:
            found.update(f"{_BACKENDS}.{each.name}" for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_BACKENDS}."):
            found.add(node.module)
    return tuple(name for name in found - {Backend.__module__} if importlib.util.find_spec(name))


@functools.cache
def _source(module: str) -> str:
    """Read once: a checkout may be edited while a run goes on, and what runs here is what was imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text()
