"""A pytest plugin: in this process and those that it forks, ExecuTorch can run programs, and cannot lower any."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_NAME = "executorch.exir"


class _Refusing(Loader):
    def create_module(self, spec: ModuleSpec) -> None:
        """As Python does it."""

    def exec_module(self, module: ModuleType) -> None:
        """Refuse it."""
        raise RuntimeError(f"{_NAME} was imported")


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Where the package is, with a loader that refuses it."""
        found = PathFinder.find_spec(name, path) if name == _NAME else None
        if found is not None:
            found.loader = _Refusing()
        return found


sys.meta_path.insert(0, _Finder())

if __name__ == "__main__":
    import executorch.exir  # noqa: F401
