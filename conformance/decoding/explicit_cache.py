"""Threaded caches: programs that take their caches as inputs, and give them back as outputs, from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from executorch.runtime import Method
from torch.export import ExportedProgram
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten
from transformers import Cache

from conformance.core.verdicts import Stage, at
from conformance.decoding.sessions import Session, Startable

#: A program on its inputs in the order of its signature, to its outputs in theirs.
Call = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where token ids, logits and caches are among a program's inputs and outputs, each a tensor of its own.

    Args:
        inputs, outputs: How many there are.
        ids: The place of the token ids among the inputs.
        caches: The places of the cache's tensors among the inputs.
        logits: The place of the logits among the outputs.
        carried: The places of the cache's tensors among the outputs, in the order of `caches`.
        cache: The cache that these tensors make up.
        empty: What the cache's tensors are before the first call: zeros, as Transformers' static cache has them.
    """

    inputs: int
    outputs: int
    ids: int
    caches: range
    logits: int
    carried: range
    cache: TreeSpec
    empty: tuple[torch.Tensor, ...]


def boundary(program: ExportedProgram) -> Boundary:
    """Read it off the program.

    Raises:
        ValueError: The program does not take `input_ids` and one cache, or does not return `logits` and this cache.
    """
    taken, returned = program.call_spec.in_spec, program.call_spec.out_spec
    if taken is None or returned is None:
        raise ValueError("the program does not say what it takes and returns")
    inputs, outputs = dict(_named(taken.child(1))), dict(_named(returned))
    cache, caches = _cache(inputs)
    _, carried = _cache(outputs)
    if "input_ids" not in inputs or "logits" not in outputs or len(caches) != len(carried):
        told = f"{', '.join(inputs)} to {', '.join(outputs)}, {len(caches)} cache tensors in and {len(carried)} out"
        raise ValueError(f"a program from {told}; it must be from input_ids and a cache to logits and the cache")
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    held = [values[name] for name in program.graph_signature.user_inputs]
    return Boundary(
        taken.num_leaves,
        returned.num_leaves,
        inputs["input_ids"][1].start,
        caches,
        outputs["logits"][1].start,
        carried,
        cache,
        tuple(torch.zeros(held[place].shape, dtype=held[place].dtype) for place in caches),
    )


def _named(spec: TreeSpec) -> Iterator[tuple[str, tuple[TreeSpec, range]]]:
    """The parts of a mapping or of a model's output, by name, each with the places of its tensors."""
    start = 0
    for name, part in zip(spec.context or (), spec.children(), strict=True):
        yield name, (part, range(start, start + part.num_leaves))
        start += part.num_leaves


def _cache(parts: dict[str, tuple[TreeSpec, range]]) -> tuple[TreeSpec, range]:
    found = [part for part in parts.values() if isinstance(part[0].type, type) and issubclass(part[0].type, Cache)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} caches among [{', '.join(parts)}]; there must be one")
    return found[0]


class ExplicitCacheSession:
    """A session that holds the caches of a program which does not.

    A call takes the cache as the last one gave it back. Only where it does not go on from there does the session do
    what any caller has to: it begins with an empty cache at position 0, and elsewhere sets the cache's length. So of a
    call's positions no more than the first reaches the program, as a length.
    """

    def __init__(self, call: Call, known: Boundary) -> None:
        self._call = call
        self._boundary = known
        self._held = [tensor.clone() for tensor in known.empty]
        #: Where the cache ends; None after a call that failed, which may have left anything in it.
        self._end: int | None = 0

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `conformance.decoding.sessions.Session.step`."""
        known = self._boundary
        with at(Stage.EXECUTE), torch.no_grad():
            position = int(cache_position.flatten()[0])
            if position == 0:
                self._held = [tensor.clone() for tensor in known.empty]
            elif position != self._end:
                set_length(tree_unflatten(self._held, known.cache), position)
            self._end = None
            outputs = self._call(self._inputs(input_ids))
            self._held = self.carried(outputs)
            self._end = position + input_ids.shape[-1]
            return outputs[known.logits].clone()

    def carried(self, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The cache's tensors for the next call; copies, as the runtime uses the memory of outputs again."""
        return [outputs[place].clone() for place in self._boundary.carried]

    def _inputs(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        inputs = [input_ids] * self._boundary.inputs
        for place, tensor in zip(self._boundary.caches, self._held, strict=True):
            inputs[place] = tensor
        return inputs


def set_length(cache: Any, length: int) -> None:
    """Let the next token of a static cache come at `length`, whatever follows there."""
    for layer in cache.layers:
        held = getattr(layer, "cumulative_length", None)
        if isinstance(held, torch.Tensor):
            held.fill_(length)


@dataclass(frozen=True, slots=True)
class ExplicitCacheModule:
    """An exported program with threaded caches, as a module; its sessions share nothing that a call changes."""

    call: Call
    boundary: Boundary
    session: Callable[[Call, Boundary], Session]

    def new_session(self) -> Session:
        """See `conformance.decoding.sessions.Startable.new_session`."""
        return self.session(self.call, self.boundary)


@dataclass(frozen=True, slots=True)
class ExplicitCacheDriver:
    """See `conformance.decoding.sessions.Driver`. `session` makes the sessions."""

    session: Callable[[Call, Boundary], Session] = ExplicitCacheSession

    @property
    def by_contract(self) -> bool:
        """No: the contract wants caches that are buffers."""
        return False

    def exported(self, program: ExportedProgram) -> Startable:
        """See `Driver.exported`."""
        with at(Stage.EXPORT):
            module, taken, known = program.module(), program.call_spec.in_spec, boundary(program)

        def call(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            args, kwargs = tree_unflatten(inputs, taken)
            return tree_leaves(module(*args, **kwargs))

        return ExplicitCacheModule(call, known, self.session)

    def runtime(self, program: ExportedProgram, method: Method) -> Session:
        """See `Driver.runtime`."""
        with at(Stage.EXPORT):
            known = boundary(program)

        def call(inputs: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            # Inputs that are written to come first among the outputs.
            outputs: Sequence[torch.Tensor] = method.execute(inputs)
            return outputs[len(outputs) - known.outputs :]

        return self.session(call, known)
