"""The weights of a quantised program, and the cost of quantising, in a line or two each. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conformance.core.text import plural
from conformance.pipeline.backends import BACKENDS, Backend
from conformance.records.run import FloatWeight, QuantisationRecord

_KIB, _MIB = 1 << 10, 1 << 20
#: Weights that are named; the record has all.
_SHOWN = 3


def quantised_lines(made: QuantisationRecord, constant_bytes: int | None = None) -> Iterator[str]:
    """How much was quantised, and what was not, the largest first.

    Args:
        made: Of the program that is lowered.
        constant_bytes: Of the emitted program, if there is one.
    """
    smaller = ""
    if constant_bytes:
        smaller = f"; {_size(made.model_bytes)} of parameters became {_size(constant_bytes)} of constants"
    yield (
        f"quantised: {made.quantised} of {plural(made.products, 'weight')} of matrix products, "
        f"{_size(made.quantised_bytes)} of {_size(made.product_bytes)}{smaller}"
    )
    if made.kept:
        more = made.kept[_SHOWN:]
        others = f"; and {len(more)} more, {_size(sum(each.size for each in more))}" if more else ""
        yield f"not quantised: {'; '.join(map(_kept, made.kept[:_SHOWN]))}{others}"


def cost_lines(metrics: Mapping[str, float]) -> Iterator[str]:
    """How far the quantised model is from the float one, if LOW-11 has measured it."""
    if "float_sqnr_db" in metrics:
        yield (
            f"against float32: {metrics['float_sqnr_db']:.0f} dB of signal over noise, greedy tokens agree at "
            f"{metrics['greedy_agreement']:.0%} of positions, perplexity {metrics['perplexity_float']:.1f} -> "
            f"{metrics['perplexity_quantised']:.1f}"
        )


def refusal(made: QuantisationRecord, backend: Backend) -> str:
    """Why nothing was quantised, and the nearest choice; empty if something was, or nothing had to be."""
    if backend.quantisation is None or made.quantised or not made.products:
        return ""
    reasons = list(dict.fromkeys(each.why for each in made.kept if each.why and each.why != "an embedding"))
    why = f": {', '.join(reasons)}" if reasons else ""
    others = [
        other.name
        for other in BACKENDS.values()
        if other.prepare and other.quantisation and not other.quantisation.group_size and other.name != backend.name
    ]
    nearest = f"--backend {others[0]} takes any width" if backend.quantisation.group_size and others else ""
    nearest = nearest or "leave out the quantisation with --backend xnnpack"
    return f"{backend.name} quantised none of {plural(made.products, 'weight')} of matrix products{why}; {nearest}"


def _kept(weight: FloatWeight) -> str:
    why = f", {weight.why}" if weight.why else ""
    return f"{weight.name}, {_size(weight.size)} of {weight.dtype}{why}"


def _size(number: int) -> str:
    unit, name = (_MIB, "MiB") if number >= _MIB else (_KIB, "KiB")
    return f"{number / unit:.1f} {name}"
