"""Deliberately faulty threading: the exporter's program is as it was, and what is carried to the next call is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from conformance.decoding.explicit_cache import Boundary, Call, ExplicitCacheDriver, ExplicitCacheSession
from conformance.exporters.resolve import Exporter
from conformance.exporters.transformers_exporters import SUBJECT


class ForgetsALayer(ExplicitCacheSession):
    """Hands the last layer empty keys and values, and its length as it came."""

    def carried(self, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `ExplicitCacheSession.carried`."""
        *before, keys, values, length = super().carried(outputs)
        return [*before, torch.zeros_like(keys), torch.zeros_like(values), length]


class SwapsLayers(ExplicitCacheSession):
    """Hands each of two layers the other's cache."""

    def carried(self, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `ExplicitCacheSession.carried`."""
        held = super().carried(outputs)
        half = len(held) // 2
        return [*held[half:], *held[:half]]


def never_moves_on(call: Call, known: Boundary) -> ExplicitCacheSession:
    """A session of a program that gives back the length it was given. A session must not make that good."""

    def stuck(inputs: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        before = [inputs[place].clone() for place in known.caches]
        outputs = list(call(inputs))
        for place, tensor in zip(known.carried, before, strict=True):
            if tensor.ndim == 0:
                outputs[place] = tensor
        return outputs

    return ExplicitCacheSession(stuck, known)


def threaded(session: Callable[[Call, Boundary], ExplicitCacheSession]) -> Exporter:
    """`transformers-exporters`, called by way of such sessions."""
    return dataclasses.replace(SUBJECT, driver=ExplicitCacheDriver(session))
