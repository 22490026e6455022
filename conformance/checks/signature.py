"""The signature of a program: token ids and cache position in, logits out."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from conformance.core.call_shape import WHOLE, CallShape
from conformance.core.verdicts import ClauseViolationError, Stage
from conformance.models.fixtures import BATCH_SIZE

#: The inputs by name, and their ranks.
_INPUTS = {"input_ids": 2, "cache_position": 1}


def assert_signature(
    program: ExportedProgram,
    vocab: int,
    rows: int = BATCH_SIZE,
    longest: int | None = None,
    shape: CallShape = WHOLE,
) -> None:
    """Raises `ClauseViolationError` unless `program` has the signature of EXP-1.

    Args:
        program: The program.
        vocab: Number of logits of a token.
        rows: Rows a call.
        longest: Tokens of the longest call, if the sequence length has to be dynamic; without it, it may be 1 alone.
        shape: The logits of which tokens a call returns.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    if names != list(_INPUTS):
        raise _violation("wrong-inputs", f"user inputs {names}", f"{list(_INPUTS)}")
    for name, rank in _INPUTS.items():
        value = values[name]
        if value.dtype is not torch.int64 or value.ndim != rank:
            raise _violation("wrong-inputs", f"{name}: {value.dtype} {list(value.shape)}", f"int64 of rank {rank}")
    if values["input_ids"].shape[0] != rows:
        raise _violation("wrong-inputs", f"input_ids has {values['input_ids'].shape[0]} rows", f"{rows}")
    tokens, positions = values["input_ids"].shape[1], values["cache_position"].shape[0]
    if longest is not None:
        _assert_dynamic(program, tokens, positions, longest)
    elif isinstance(tokens, int) and tokens != 1:
        raise _violation("wrong-inputs", f"input_ids has {tokens} tokens", "1")
    if str(tokens) != str(positions):  # of symbols, comparing them would guard them
        observed = f"{tokens} tokens and {positions} positions"
        raise _violation("lengths-differ", observed, "one sequence length for input_ids and cache_position")
    outputs = [spec.arg for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    if len(outputs) != 1:
        raise _violation("wrong-outputs", f"{len(outputs)} outputs", "logits alone")
    logits = values[outputs[0].name]
    wanted = [rows, 1 if shape.last_logits else tokens, vocab]
    if list(logits.shape) != wanted or not logits.is_floating_point():
        raise _violation("wrong-outputs", f"{logits.dtype} {list(logits.shape)}", f"floating-point logits {wanted}")


def _assert_dynamic(program: ExportedProgram, tokens: Any, positions: Any, longest: int) -> None:
    """Symbols for the number of tokens and of positions, that of tokens with a range from 1 to `longest`."""
    for name, length in (("input_ids", tokens), ("cache_position", positions)):
        if isinstance(length, int):
            raise _violation("length-fixed", f"{name} has a sequence length of {length}", "a dynamic one")
    lengths = program.range_constraints.get(tokens.node.expr)
    if lengths is None or lengths.lower > 1 or lengths.upper < longest:
        observed = "any length" if lengths is None else f"lengths from {lengths.lower} to {lengths.upper}"
        raise _violation("length-range", observed, f"1 to {longest}")


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.EXPORT, code, observed=observed, expected=expected)
