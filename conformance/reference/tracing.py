"""Put a model into the state that export needs, and put it back exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.reference.activations import exact_activations
from conformance.reference.experts import EXPERTS_BY_SLOT, register_experts_by_slot
from conformance.reference.transformers_api import experts_by_part, lets_choose_experts, traceable_masks


@contextmanager
def ready_to_trace(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, no gradients, exportable experts, activations and masks; on leaving, all of it undone.

    Gradients must be off because lowering decomposes in-place cache updates, which autograd forbids on leaf tensors.
    Train or eval mode is restored module by module, since a caller may have frozen only a part. The global random
    number generator keeps its state.
    """
    training = [(module, module.training) for module in model.modules()]
    experts = _experts_implementation(model)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), exact_activations(model), traceable_masks():
            model.eval()
            if experts is not None:
                register_experts_by_slot()
                model.set_experts_implementation(EXPERTS_BY_SLOT)
            yield
    finally:
        if experts is not None:
            model.set_experts_implementation(experts)
        _restore(training)


def _experts_implementation(model: PreTrainedModel) -> dict[str, str | None] | None:
    """The model's experts implementation by sub-config, or None where the model has no choice of one."""
    can_set = any(isinstance(module, PreTrainedModel) and lets_choose_experts(module) for module in model.modules())
    return experts_by_part(model) if can_set else None


def _restore(training: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in training:
        module.training = mode
