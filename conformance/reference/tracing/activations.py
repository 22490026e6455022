"""Activations that a delegate computes wrongly, as elementary operators."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_TANH = {"approximate": "tanh"}
_SCALE = math.sqrt(2.0 / math.pi)


@contextmanager
def decomposed_activations(model: nn.Module) -> Iterator[None]:
    """Replace every tanh GELU of `model` by `tanh_gelu`; undone on exit.

    XNNPACK up to ExecuTorch 1.5.1 drops GELU's `approximate` argument and computes the exact GELU for the tanh one,
    4e-4 off at -2.7 (https://github.com/pytorch/executorch/pull/22851).
    """
    modules = [module for module in model.modules() if _is_tanh_gelu(getattr(module, "act", None))]
    originals = [module.act for module in modules]
    try:
        for module in modules:
            module.act = tanh_gelu  # type: ignore[assignment]  # a plain attribute, not a submodule
        yield
    finally:
        for module, act in zip(modules, originals, strict=True):
            module.act = act


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    """`torch.nn.functional.gelu(x, approximate="tanh")` in products, a sum and a tanh; same shape and dtype as `x`."""
    return 0.5 * x * (1.0 + torch.tanh(_SCALE * (x + 0.044715 * x * x * x)))


def _is_tanh_gelu(act: object) -> bool:
    return isinstance(act, functools.partial) and act.func is nn.functional.gelu and act.keywords == _TANH
