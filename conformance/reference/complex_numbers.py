"""Complex arithmetic as pairs of real tensors, since ExecuTorch has neither complex tensors nor `aten.polar`.

Rotary embeddings are where language models use it: angles become unit complex numbers, which queries and keys are
multiplied by. While the mode below is active, what would be a complex tensor is a `_Pair` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class RealPairs(TorchFunctionMode):
    """Let `torch.polar` and `torch.view_as_complex` give pairs of real tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = _MAKERS.get(func, func)
        return replacement(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """What a model's code takes for a complex tensor; `real` and `imag` have its shape."""

    real: torch.Tensor
    imag: torch.Tensor

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.view_as_real:
            return NotImplemented  # torch then says that this function does not know complex pairs
        (pair,) = args
        return torch.stack((pair.real, pair.imag), dim=-1)

    @property
    def device(self) -> torch.device:
        return self.real.device

    @property
    def shape(self) -> torch.Size:
        return self.real.shape

    def __mul__(self, other: _Pair | torch.Tensor | float) -> _Pair:
        if not isinstance(other, _Pair):
            return self._each(lambda part: part * other)
        return _Pair(
            self.real * other.real - self.imag * other.imag,
            self.real * other.imag + self.imag * other.real,
        )

    def __getitem__(self, index: Any) -> _Pair:
        return self._each(lambda part: part[index])

    def unsqueeze(self, dim: int) -> _Pair:
        return self._each(lambda part: part.unsqueeze(dim))

    def to(self, device: torch.device) -> _Pair:
        return self._each(lambda part: part.to(device))

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> _Pair:
        return _Pair(function(self.real), function(self.imag))


def _polar(magnitude: torch.Tensor, angle: torch.Tensor) -> _Pair:
    return _Pair(magnitude * angle.cos(), magnitude * angle.sin())


def _view_as_complex(parts: torch.Tensor) -> _Pair:
    return _Pair(parts[..., 0], parts[..., 1])


_MAKERS: dict[Any, Callable[..., _Pair]] = {torch.polar: _polar, torch.view_as_complex: _view_as_complex}
