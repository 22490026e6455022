"""Deliberately faulty exporters: the reference with custom attention, one of whose operators is called wrongly."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch.export import ExportedProgram

from conformance.reference import convert_and_export_with_cache

#: The places of the operators' arguments.
_START_OF_UPDATE = 2
_START, _MASK, _IS_CAUSAL, _SCALE = 3, 4, 6, 7


def _with(operator: str, change: Callable[[list[Any]], None], *arguments: Any, **named: Any) -> ExportedProgram:
    importlib.import_module("executorch.extension.llm.custom_ops.custom_ops")
    program = convert_and_export_with_cache(*arguments, **named, attention="custom")
    for node in program.graph.find_nodes(op="call_function", target=_operator(operator)):
        given = list(node.args)
        change(given)
        node.args = tuple(given)
    program.graph_module.recompile()
    return program


def _operator(name: str) -> Any:
    import torch

    return getattr(torch.ops.llama, name).default


def reads_from_0(*arguments: Any, **named: Any) -> ExportedProgram:
    """Attention takes each call to begin the text."""
    return _with("custom_sdpa", lambda given: given.__setitem__(_START, 0), *arguments, **named)


def forgets_the_scale(*arguments: Any, **named: Any) -> ExportedProgram:
    """Attention leaves scores as they are."""
    return _with("custom_sdpa", lambda given: given.__setitem__(_SCALE, 1.0), *arguments, **named)


def forgets_the_window(*arguments: Any, **named: Any) -> ExportedProgram:
    """Attention sees all of the past."""

    def change(given: list[Any]) -> None:
        given[_MASK], given[_IS_CAUSAL] = None, True

    return _with("custom_sdpa", change, *arguments, **named)


def writes_to_0(*arguments: Any, **named: Any) -> ExportedProgram:
    """Keys and values go to the cache's first positions."""
    return _with("update_cache", lambda given: given.__setitem__(_START_OF_UPDATE, 0), *arguments, **named)
