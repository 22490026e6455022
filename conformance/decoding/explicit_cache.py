"""Sessions for programs whose caches are passed in and out: inputs and outputs of each call, not buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten
from transformers import Cache

from conformance.core.verdicts import Stage, at
from conformance.decoding.sessions import Session, Startable

if TYPE_CHECKING:
    from executorch.runtime import Method

#: A program on its inputs in the order of its signature, to its outputs in theirs.
Call = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Boundary:
    """The indices of token ids, logits and cache tensors among a program's inputs and outputs.

    Args:
        inputs, outputs: Number of tensors.
        ids: Index of the token ids among the inputs.
        caches: Indices of the cache's tensors among the inputs.
        logits: Index of the logits among the outputs.
        carried: Indices of the cache's tensors among the outputs, in the order of `caches`.
        cache: The structure that these tensors unflatten to, a Transformers `Cache`.
        empty: The cache's tensors before the first call: zeros, as in Transformers' static cache.
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
    """The boundary of an exported program.

    Raises:
        ValueError: The program does not take `input_ids` and one cache, or does not return `logits` and this cache.
    """
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    if in_spec is None or out_spec is None:
        raise ValueError("the program does not say what it takes and returns")
    inputs, outputs = dict(_named(in_spec.child(1))), dict(_named(out_spec))
    cache, caches = _cache(inputs)
    _, carried = _cache(outputs)
    if "input_ids" not in inputs or "logits" not in outputs or len(caches) != len(carried):
        # These texts are parts of signatures, so they stay as they are.
        seen = f"{', '.join(inputs)} to {', '.join(outputs)}, {len(caches)} cache tensors in and {len(carried)} out"
        raise ValueError(f"a program from {seen}; it must be from input_ids and a cache to logits and the cache")
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    held = [values[name] for name in program.graph_signature.user_inputs]
    return Boundary(
        in_spec.num_leaves,
        out_spec.num_leaves,
        inputs["input_ids"][1].start,
        caches,
        outputs["logits"][1].start,
        carried,
        cache,
        tuple(torch.zeros(held[index].shape, dtype=held[index].dtype) for index in caches),
    )


def _named(spec: TreeSpec) -> Iterator[tuple[str, tuple[TreeSpec, range]]]:
    """The parts of a mapping or of a model's output, by name, each with the indices of its tensors."""
    start = 0
    for name, part in zip(spec.context or (), spec.children(), strict=True):
        yield name, (part, range(start, start + part.num_leaves))
        start += part.num_leaves


def _cache(parts: dict[str, tuple[TreeSpec, range]]) -> tuple[TreeSpec, range]:
    caches = [part for part in parts.values() if isinstance(part[0].type, type) and issubclass(part[0].type, Cache)]
    if len(caches) != 1:
        raise ValueError(f"{len(caches)} caches among [{', '.join(parts)}]; there must be one")
    return caches[0]


class ExplicitCacheSession:
    """A session that keeps the caches between calls, and passes them in and out.

    A call gets the cache as the call before returned it. Only if a call does not continue there does the session do
    what any caller has to do: it begins with an empty cache at position 0, and elsewhere sets the cache's length. So
    only the first of a call's positions reaches the program, as a length.
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
            held = self._held
            if position == 0:  # those of the text before are kept until the call has succeeded
                held = [tensor.clone() for tensor in known.empty]
            elif position != self._end:
                set_length(tree_unflatten(held, known.cache), position)
            self._end = None
            outputs = self._call(self._inputs(input_ids, held))
            self._held = self.carried(outputs)
            self._end = position + input_ids.shape[-1]
            return outputs[known.logits].clone()

    def carried(self, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The cache's tensors for the next call; copies, as the runtime uses the memory of outputs again."""
        return [outputs[index].clone() for index in self._boundary.carried]

    def _inputs(self, input_ids: torch.Tensor, held: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        inputs = [input_ids] * self._boundary.inputs
        for index, tensor in zip(self._boundary.caches, held, strict=True):
            inputs[index] = tensor
        return inputs


def set_length(cache: Any, length: int) -> None:
    """Set the position of a static cache's next token to `length`; what the cache holds from there on is kept.

    A layer with an indexer counts that one's keys beside its own: `indexer_cumulative_length`.
    """
    for layer in cache.layers:
        for name, held in vars(layer).items():
            if name.endswith("cumulative_length") and isinstance(held, torch.Tensor):
                held.fill_(length)


@dataclass(frozen=True, slots=True)
class ExplicitCacheModule:
    """An exported program with caches passed in and out; its sessions share nothing that a call changes."""

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
            module, in_spec, known = program.module(), program.call_spec.in_spec, boundary(program)

        def call(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            args, kwargs = tree_unflatten(inputs, in_spec)
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
