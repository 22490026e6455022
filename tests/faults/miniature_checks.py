"""Checks that pass, but where the environment variable MINIATURE says otherwise, such as `gpt2 EXP-1 hangs`."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from conformance.core.cells import Cell
from conformance.core.verdicts import Stage, at

LAST_WORDS = "terminate called without an active exception"


def _aborts() -> None:
    os.write(2, f"{LAST_WORDS}\n".encode())
    os.abort()


def _takes_all_memory() -> None:
    held = []
    while True:
        held.append(b"x" * (64 << 20))


_BEHAVIOURS: dict[str, Callable[[], object]] = {
    "segfaults": lambda: ctypes.string_at(0),
    "aborts": _aborts,
    "exits": lambda: os._exit(3),
    "hangs": lambda: time.sleep(600),
    "takes_all_memory": _takes_all_memory,
    "is_slow": lambda: time.sleep(2),
}


@dataclass(frozen=True, slots=True)
class _Case:
    """What the plugin reads of a case, without models."""

    cell: Cell
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, object] = field(default_factory=dict)


@pytest.fixture
def case(cell: Cell) -> _Case:
    """In the place of the suite's, which has models."""
    return _Case(cell)


def _judge(case: _Case) -> None:
    cell = case.cell
    for line in filter(None, os.environ.get("MINIATURE", "").split(",")):
        architecture, clause, behaviour = line.split()
        if architecture in ("any", cell.architecture) and clause in ("any", cell.clause):
            with at(Stage.EXPORT):
                _BEHAVIOURS[behaviour]()


@pytest.mark.clause("SEN-2")
def test_sen_2(case: _Case) -> None:
    """Passes by default."""
    _judge(case)


@pytest.mark.clause("EXP-1")
def test_exp_1(case: _Case) -> None:
    """Passes by default."""
    _judge(case)


@pytest.mark.clause("EXP-2")
def test_exp_2(case: _Case) -> None:
    """Passes by default."""
    _judge(case)


@pytest.mark.clause("EXP-3")
def test_exp_3(case: _Case) -> None:
    """Passes by default."""
    _judge(case)
