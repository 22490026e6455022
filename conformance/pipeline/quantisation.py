"""Which of a model's weights a quantised program holds as integers: found by content, whatever made the program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import ExportedProgram

from conformance.pipeline.contents import held_tensors
from conformance.records.run import FloatWeight, QuantisationRecord

_EMBEDDING = torch.ops.aten.embedding.default
#: Why an embedding stays in floating point, of a backend that leaves them all.
EMBEDDING = "an embedding"
#: Integers of this many bits may share a byte: 8, 4, 2 or 1.
_IN_A_BYTE = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class _Held:
    """A tensor of the program; `looked_up` if embedding lookups alone read it, `read` if anything does."""

    value: torch.Tensor
    read: bool
    looked_up: bool


def quantisation_record(
    model: nn.Module, program: ExportedProgram, group_size: int | None = None
) -> QuantisationRecord:
    """Compare the weights of a float model with what a program that was made of it holds.

    A weight stays in floating point if its very numbers, rounded to a narrower dtype at most, are among the tensors
    that the program reads: as they are, transposed, or one tensor for each slice of its first dimension. It is
    quantised if they are not, and integers of at most 8 bits are, as many as it has numbers. What is neither has been
    changed and is still no integer, as after quantising and dequantising ahead of time, and stays in floating point
    too. Weights that the program holds and does not read are left out.

    Args:
        model: The float model, as it was before anything was quantised.
        program: The exported program that is lowered, not lowered itself.
        group_size: The backend takes only weights with a multiple of so many inputs: says why others stay.
    """
    held = list(_held(program))
    integers = [each.value for each in held if each.read and each.value.dtype.itemsize == 1 and not _floats(each.value)]
    products = product_bytes = quantised = quantised_bytes = 0
    kept: list[FloatWeight] = []
    with torch.no_grad():
        for name, weight, is_embedding in _weights(model):
            same = [each for each in held if _is_same(each.value, weight)]
            read = [each for each in same if each.read and each.looked_up <= is_embedding]
            taken = [] if read else _as_integers(weight, integers)
            if taken:
                integers = [each for each in integers if not any(each is one for one in taken)]
            elif same and not any(each.read for each in same):
                continue
            else:
                dtype = read[0].value.dtype if read else weight.dtype
                size = weight.numel() * dtype.itemsize
                why = _why(weight, is_embedding, bool(read), group_size)
                kept.append(FloatWeight(name, str(dtype).removeprefix("torch."), size, why))
            if not is_embedding:
                products, product_bytes = products + 1, product_bytes + weight.nbytes
                quantised, quantised_bytes = quantised + bool(taken), quantised_bytes + bool(taken) * weight.nbytes
    return QuantisationRecord(
        products=products,
        product_bytes=product_bytes,
        quantised=quantised,
        quantised_bytes=quantised_bytes,
        model_bytes=sum({each.data_ptr(): each.nbytes for each in model.parameters()}.values()),
        kept=tuple(sorted(kept, key=lambda weight: -weight.size)),
    )


def _held(program: ExportedProgram) -> Iterator[_Held]:
    held = held_tensors(program)
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    for spec in program.graph_signature.input_specs:
        value = held.get(spec.target or "")
        if value is not None and spec.arg.name in nodes:
            users = nodes[spec.arg.name].users
            yield _Held(value, bool(users), all(user.target is _EMBEDDING for user in users))


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Names and values of the parameters of two dimensions and more, and whether it is as an embedding."""
    seen: set[tuple[int, bool]] = set()
    for prefix, module in model.named_modules():
        is_embedding = isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.ndim > 1 and (parameter.data_ptr(), is_embedding) not in seen:
                seen.add((parameter.data_ptr(), is_embedding))
                yield name, parameter.detach(), is_embedding


def _floats(value: torch.Tensor) -> bool:
    return value.dtype.is_floating_point


def _is_same(value: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a floating tensor holds the weight's numbers, or those of its first slice."""
    if not _floats(value):
        return False
    parts = (weight, weight[0]) if weight.ndim > 2 else (weight,)
    return any(_has_numbers(value, layout) for part in parts for layout in (part, part.transpose(-1, -2)))


def _has_numbers(value: torch.Tensor, layout: torch.Tensor) -> bool:
    if value.numel() != layout.numel():
        return False
    flat = value.detach().flatten()
    for end in (0, -1):  # a model has dozens of weights of one shape, and these tell nearly all of them apart
        if flat[end] != layout[(end,) * layout.ndim].to(value.dtype):
            return False
    return torch.equal(flat, layout.flatten().to(value.dtype))


def _as_integers(weight: torch.Tensor, integers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The integer tensors that can hold the weight: one, or one for each slice of its first dimension; none if none."""
    for packed in _IN_A_BYTE:
        for count in (1, weight.shape[0]) if weight.ndim > 2 else (1,):
            fitting = [each for each in integers if each.ndim > 1 and each.numel() * packed * count == weight.numel()]
            if len(fitting) >= count:
                return fitting[:count]
    return []


def _why(weight: torch.Tensor, is_embedding: bool, has_its_numbers: bool, group_size: int | None) -> str:
    if not has_its_numbers:
        return "its numbers have changed and are not integers"
    if is_embedding:
        return EMBEDDING
    if weight.ndim > 2:
        return f"a parameter of {weight.ndim} dimensions"
    if group_size and weight.shape[-1] % group_size:
        return f"width {weight.shape[-1]} is not a multiple of {group_size}"
    return ""
