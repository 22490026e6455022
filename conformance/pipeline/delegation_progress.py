"""How far the making of delegates is, which takes minutes for a model of a hundred million parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from executorch.exir.backend.backend_details import BackendDetails


@contextlib.contextmanager
def telling_delegates(tell: Callable[[int, int], None]) -> Iterator[None]:
    """While it lasts, `tell(number, count)` is called before each delegate is made.

    ExecuTorch has no callback: it is handed lists that tell when they are gone through. Backends that go through
    their programs in a way of their own tell nothing.
    """
    make = BackendDetails.preprocess_multimethod.__func__

    def preprocess_multimethod(cls: type, edge_programs: dict[str, list[Any]], compile_specs: dict[str, Any]) -> Any:
        return make(cls, {name: _Telling(each, tell) for name, each in edge_programs.items()}, compile_specs)

    with mock.patch.object(BackendDetails, "preprocess_multimethod", classmethod(preprocess_multimethod)):
        yield


class _Telling(list[Any]):
    def __init__(self, items: list[Any], tell: Callable[[int, int], None]) -> None:
        super().__init__(items)
        self._tell = tell

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(super().__iter__(), start=1):
            self._tell(number, len(self))
            yield item
