"""Linear and state-space recurrences over a dynamic number of tokens: a scan of the kernel for one token.

For more than one token Transformers calls a chunked kernel, which pads the sequence to a multiple of its chunk size and
reshapes it; export cannot prove that for a dynamic length. The kernel for a single token gives the same token by token,
and ExecuTorch 1.5.1 lowers and runs a scan (`torch._higher_order_ops.scan`) of it with a dynamic length, on portable
kernels and with XNNPACK.

Kernels are found by the names under which Transformers looks for faster ones on the hub, not by model.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._higher_order_ops.scan import scan
from transformers import StaticCache

from conformance.reference.transformers_api import can_scan

Kernel = Callable[..., Any]

_DIMENSIONS_WITHOUT_HEADS = 3


@contextmanager
def scanned_recurrences(model: nn.Module, cache: StaticCache) -> Iterator[None]:
    """Replace the chunked kernels in `model`'s own Python modules by scans; undone on exit.

    Before Transformers 5.21 nothing is replaced: its kernels have no names to find them by, and models reach into the
    cache's layers for their state. A program is then right for one token a call only, and the exporter refuses more.

    Args:
        model: The model that is about to be traced.
        cache: Its cache; the scans start from the recurrent states in it.
    """
    if not can_scan(cache):
        yield
        return
    originals: list[tuple[dict[str, Any], str, Kernel]] = []
    try:
        with _recorded_state(cache) as last_state:
            for module_name in {type(module).__module__ for module in model.modules()}:
                namespace = vars(sys.modules[module_name])
                names = {_hub_name(value): name for name, value in namespace.items() if _hub_name(value)}
                for chunked, (single, as_scan) in _SCANS.items():
                    if chunked in names and single in names:
                        name = names[chunked]
                        originals.append((namespace, name, namespace[name]))
                        namespace[name] = as_scan(inspect.unwrap(namespace[names[single]]), last_state)
            yield
    finally:
        for namespace, name, kernel in originals:
            namespace[name] = kernel


class _LastState:
    """The recurrent state that a layer last read from its cache.

    The chunked kernel of Mamba's first generation has no argument for it, so that Transformers itself decodes a chunk
    right only at position 0. The layer reads the state just before it calls the kernel, though.
    """

    def __init__(self) -> None:
        self._state: torch.Tensor | None = None
        self._heads_used = 0

    def record(self, state: torch.Tensor | None) -> None:
        """Keep what a layer read: [batch, channels, state_size], or [batch, heads, channels, state_size]."""
        self._state, self._heads_used = state, 0

    def next(self) -> torch.Tensor | None:
        """The state to start from; a layer with heads calls its kernel for one head after the other."""
        if self._state is None or self._state.ndim == _DIMENSIONS_WITHOUT_HEADS:
            return self._state
        self._heads_used += 1
        return self._state[:, self._heads_used - 1]


@contextmanager
def _recorded_state(cache: StaticCache) -> Iterator[_LastState]:
    """Record each state that is read from `cache`; undone on exit."""
    last_state = _LastState()
    get = cache.get_recurrent_state

    def get_and_record(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        state: torch.Tensor | None = get(*args, **kwargs)
        last_state.record(state)
        return state

    cache.get_recurrent_state = get_and_record  # type: ignore[method-assign]
    try:
        yield last_state
    finally:
        del cache.get_recurrent_state


def _gated_delta_rule(single: Kernel, _: _LastState) -> Kernel:
    """A scan in place of `chunk_gated_delta_rule` or `chunk_kda`; state [batch, heads, key_dim, value_dim], float32."""

    def scanned(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        chunk_size: int = 64,
        initial_state: torch.Tensor | None = None,
        output_final_state: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        options = {name: option for name, option in options.items() if not isinstance(option, torch.Tensor)}
        if initial_state is None:
            initial_state = value.new_zeros(value.shape[0], value.shape[2], key.shape[3], value.shape[3])

        def step(state: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            q, k, v, decay, strength = (part.unsqueeze(1) for part in token)
            output, state = single(
                q, k, v, g=decay, beta=strength, initial_state=state, output_final_state=True, **options
            )
            return state, output.squeeze(1)

        state, outputs = scan(step, initial_state.float().clone(), _by_token(query, key, value, g, beta))
        return outputs.transpose(0, 1).contiguous(), state if output_final_state else None

    return scanned


def _state_space_dual(single: Kernel, _: _LastState) -> Kernel:
    """A scan in place of `mamba_chunk_scan_combined`; state [batch, heads, head_dim, state_size], float32."""

    def scanned(
        hidden_states: torch.Tensor,
        dt: torch.Tensor,
        A: torch.Tensor,  # noqa: N803 - the kernel's own names
        B: torch.Tensor,  # noqa: N803
        C: torch.Tensor,  # noqa: N803
        chunk_size: int,
        D: torch.Tensor | None = None,  # noqa: N803
        dt_bias: torch.Tensor | None = None,
        initial_states: torch.Tensor | None = None,
        dt_softplus: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        return_final_states: bool = False,
        **_: Any,
    ) -> Any:
        batch_size, _length, heads, head_dim = hidden_states.shape
        state_size = B.shape[-1]
        if dt_bias is not None:
            dt = dt + dt_bias.to(dt.dtype)
        if dt_softplus:
            dt = nn.functional.softplus(dt)
        dt = torch.clamp(dt, min=dt_limit[0], max=dt_limit[1])
        if initial_states is None:
            initial_states = hidden_states.new_zeros(batch_size, heads, head_dim, state_size)

        def step(state: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            inputs, delta, b, c = token
            state = state.clone()  # the kernel updates it in place
            output = single(
                state,
                inputs,
                # Expanded here and not outside: ExecuTorch has no tensors with a stride of 0 between operators.
                delta.unsqueeze(-1).expand(-1, -1, head_dim),
                A[:, None, None].expand(-1, head_dim, state_size),
                b,
                c,
                None if D is None else D[:, None].expand(-1, head_dim),
                None,
                False,
                None,
            )
            return state, output

        tokens = _by_token(hidden_states.float(), dt, B, C)
        state, outputs = scan(step, initial_states.float().clone(), tokens)
        outputs = outputs.transpose(0, 1).contiguous()
        return (outputs, state) if return_final_states else outputs

    return scanned


def _selective_scan(single: Kernel, last_state: _LastState) -> Kernel:
    """A scan in place of `selective_scan_fn`, whose tensors are [batch, channels, seq]."""

    def scanned(
        hidden_states: torch.Tensor,
        dt: torch.Tensor,
        A: torch.Tensor,  # noqa: N803
        B: torch.Tensor,  # noqa: N803
        C: torch.Tensor,  # noqa: N803
        D: torch.Tensor | None = None,  # noqa: N803
        z: torch.Tensor | None = None,
        delta_bias: torch.Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
        **_: Any,
    ) -> Any:
        batch_size, channels, _length = hidden_states.shape
        state = last_state.next()
        if state is None:
            state = hidden_states.new_zeros(batch_size, channels, A.shape[-1])
        gate = torch.ones_like(hidden_states) if z is None else z

        def step(state: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            inputs, delta, b, c, gate = token
            state = state.clone()  # the kernel updates it in place
            options = {"z": None if z is None else gate, "dt_bias": delta_bias, "dt_softplus": delta_softplus}
            return state, single(state, inputs, delta, A, b, c, D, **options)

        tokens = tuple(part.permute(2, 0, 1).contiguous() for part in (hidden_states.float(), dt, B, C, gate))
        state, outputs = scan(step, state.float().clone(), tokens)
        outputs = outputs.permute(1, 2, 0).contiguous()
        return (outputs, state) if return_last_state else outputs

    return scanned


def _by_token(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[batch, seq, ...] to [seq, batch, ...], since a scan runs over the first dimension."""
    return tuple(part.transpose(0, 1).contiguous() for part in parts)


def _hub_name(value: object) -> str | None:
    """The name that a kernel was decorated with (`use_kernel_func_from_hub_with_fallback`)."""
    if not isinstance(value, types.FunctionType) or value.__closure__ is None:
        return None
    name = inspect.getclosurevars(value).nonlocals.get("func_name")
    return name if isinstance(name, str) else None


#: By chunked kernel: the kernel for one token, and the function that makes a scan of that.
_SCANS: dict[str, tuple[str, Callable[[Kernel, _LastState], Kernel]]] = {
    "chunk_gated_delta_rule": ("fused_recurrent_gated_delta_rule", _gated_delta_rule),
    "chunk_kda": ("fused_recurrent_kda", _gated_delta_rule),
    "selective_scan_fn": ("selective_state_update", _selective_scan),
    "mamba_chunk_scan_combined": ("selective_state_update", _state_space_dual),
}
