"""Sessions: live decoders, each with caches of its own, that take one call after another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.export import ExportedProgram

from conformance.core.verdicts import Stage, at

if TYPE_CHECKING:
    from executorch.runtime import Method

#: Token ids and cache position, as `Session.step` takes them.
Inputs = tuple[torch.Tensor, torch.Tensor]


class Session(Protocol):
    """One live decoder."""

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """One call: token ids, int64 [batch, seq], and cache position, int64 [seq], to logits [batch, seq, vocab].

        The logits are float32, whatever the program computes in.

        Raises:
            StageError: The call was refused, at stage execute.
        """


class Startable(Protocol):
    """A program that sessions can be started of."""

    def new_session(self) -> Session:
        """A session with fresh caches. It may invalidate earlier sessions of the program."""


class Driver(Protocol):
    """How an exporter's programs are called."""

    @property
    def by_contract(self) -> bool:
        """Whether they take token ids and cache position, and keep their caches to themselves (EXP-1, EXP-3)."""

    def exported(self, program: ExportedProgram) -> Startable:
        """The exported program as a module that torch runs."""

    def runtime(self, program: ExportedProgram, method: Method) -> Session:
        """A session of `method`, which was lowered from `program` and newly loaded into ExecuTorch's runtime."""


@dataclass(frozen=True, slots=True)
class BufferDriver:
    """The driver of programs that follow the contract: their caches are buffers, which last from call to call."""

    @property
    def by_contract(self) -> bool:
        """See `Driver.by_contract`."""
        return True

    def exported(self, program: ExportedProgram) -> Startable:
        """See `Driver.exported`."""
        return ExportedModule(program)

    def runtime(self, program: ExportedProgram, method: Method) -> Session:
        """See `Driver.runtime`."""
        return RuntimeSession(method)


class ExportedModule:
    """An exported program as a module, from which new sessions start with their caches as they were exported."""

    def __init__(self, program: ExportedProgram) -> None:
        with at(Stage.EXPORT):
            self._module = program.module()
            own_buffers(self._module)
            self._by_name = bool(program.call_spec.in_spec and program.call_spec.in_spec.child(1).num_children)
            self._initial = {name: buffer.clone() for name, buffer in self._module.named_buffers()}

    def new_session(self) -> ExportedSession:
        """A session with fresh caches. It invalidates earlier sessions of the program: they share the buffers."""
        with torch.no_grad():
            for name, buffer in self._module.named_buffers():
                buffer.copy_(self._initial[name])
        return ExportedSession(self._module, by_name=self._by_name)


def own_buffers(module: torch.nn.Module) -> None:
    """Give `module` copies of its buffers: those of `program.module()` are the program's own tensors."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part.register_buffer(name, buffer.clone(), persistent=name not in part._non_persistent_buffers_set)


class ExportedSession:
    """The exported program, run by torch."""

    def __init__(self, module: torch.nn.Module, *, by_name: bool) -> None:
        self._module = module
        self._by_name = by_name

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `Session.step`."""
        with at(Stage.EXECUTE), torch.inference_mode():  # a call takes 12 % less than without gradients alone
            if self._by_name:
                outputs = self._module(input_ids=input_ids, cache_position=cache_position)
            else:
                outputs = self._module(input_ids, cache_position)
            return _logits(outputs)


class RuntimeSession:
    """The emitted program, run by ExecuTorch."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `Session.step`."""
        with at(Stage.EXECUTE):
            return _logits(self._method.execute((input_ids, cache_position)))


@dataclass(frozen=True, slots=True)
class InterpretedSession:
    """A lowered program, run by torch, in a context in which something else runs its delegates.

    Args:
        session: A session of the program.
        running: Makes the context of a call.
    """

    session: Session
    running: Callable[[], AbstractContextManager[object]]

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `Session.step`."""
        with at(Stage.EXECUTE), self.running():
            return self.session.step(input_ids, cache_position)


def _logits(outputs: object) -> torch.Tensor:
    if isinstance(outputs, torch.Tensor):
        return outputs.float().clone()
    if isinstance(outputs, tuple | list) and outputs and isinstance(outputs[0], torch.Tensor):
        return outputs[0].float().clone()  # the runtime reuses an output's memory in the next call
    raise TypeError(f"the program returned {type(outputs).__name__}, not logits")
