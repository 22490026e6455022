"""Complex arithmetic as pairs of real tensors, since ExecuTorch has neither complex tensors nor `aten.polar`.

Language models use complex numbers for rotary embeddings: angles become unit complex numbers, and queries and keys are
multiplied by these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class RealPairs(TorchFunctionMode):
    """While active, `torch.polar` and `torch.view_as_complex` return pairs of real tensors.

    A pair has what models use of a complex tensor: products, indexing, `unsqueeze`, `to`, `shape`, `device` and
    `torch.view_as_real`. Any other torch function of it raises TypeError.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func, func)
        return replacement(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """In place of a complex tensor; `real` and `imag` have its shape."""

    real: torch.Tensor
    imag: torch.Tensor

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.view_as_real:
            return NotImplemented  # torch then raises the TypeError
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
            return self._map(lambda part: part * other)
        return _Pair(
            self.real * other.real - self.imag * other.imag,
            self.real * other.imag + self.imag * other.real,
        )

    def __getitem__(self, index: Any) -> _Pair:
        return self._map(lambda part: part[index])

    def unsqueeze(self, dim: int) -> _Pair:
        return self._map(lambda part: part.unsqueeze(dim))

    def to(self, device: torch.device) -> _Pair:
        return self._map(lambda part: part.to(device))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> _Pair:
        return _Pair(function(self.real), function(self.imag))


def _polar(magnitude: torch.Tensor, angle: torch.Tensor) -> _Pair:
    return _Pair(magnitude * angle.cos(), magnitude * angle.sin())


def _view_as_complex(parts: torch.Tensor) -> _Pair:
    return _Pair(parts[..., 0], parts[..., 1])


_REPLACEMENTS: dict[Any, Callable[..., _Pair]] = {torch.polar: _polar, torch.view_as_complex: _view_as_complex}
