"""How far the operators of an emitted program are off, as plain records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OperatorError:
    """One operator or delegate call, in one call of the script.

    Args:
        index: Its number among the instructions of the program.
        name: The kernel, such as ``aten::mul``, or the delegate, such as ``XnnpackBackend delegate 3``.
        inside: The operators that a delegate holds.
        error: The largest difference of a value, as a share of the largest value that torch has there.
        observed, expected: The values that differ most.
        source: The line of the model that it comes from: file, number, text.
        unseen: Operators that give it its inputs and are no instruction of their own, such as views: what they would
            have read cannot be distinguished from what it reads.
    """

    index: int
    name: str
    inside: tuple[str, ...]
    error: float
    observed: float
    expected: float
    source: str | None
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OperatorReport:
    """The first call of a script in which any operator is off by more than the tolerance, or the last call.

    Args:
        call: Its number, from 1 on.
        tolerance: What counts as equal.
        first: The first operator that is off by more; None where none is.
        worst: Those that are off most, the worst first.
        compared: How many operators have values on both sides.
        unmapped: How many of the runtime's have none in torch: views, and the inside of loops.
    """

    call: int
    tolerance: float
    first: OperatorError | None
    worst: tuple[OperatorError, ...]
    compared: int
    unmapped: int
