"""Weights that torchao's recipes pass over, made so that they can be quantised: GPT-2's Conv1D, and fused experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from conformance.reference.transformers_api import lets_choose_experts

#: Weights of experts, by the names that Transformers' `use_experts_implementation` goes by.
_PROJECTIONS = ("gate_up_proj", "up_proj", "down_proj")
#: Of Transformers' implementations, one that takes the chosen experts' weights by their index and no others.
_BY_INDEX = "batched_mm"
_LARGEST = 127


class EightBitExperts(nn.Module):
    """The weights of a layer's experts as 8-bit integers, with a scale for each output of each expert.

    Indexed, it gives the chosen experts' weights in floating point, so that no more than these are ever made.

    Args:
        weight: Floating point, shape [experts, out, in], or [experts, in, out] where it is transposed.
        inputs: The dimension of the inputs.
    """

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor, inputs: int) -> None:
        super().__init__()
        largest = weight.abs().amax(dim=inputs, keepdim=True)
        scales = (largest / _LARGEST).clamp(min=torch.finfo(weight.dtype).tiny)
        self.register_buffer("values", (weight / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """The weights of these experts, of the dtype that they had before; shape [*index.shape, ...]."""
        return self.values[index].to(self.scales.dtype) * self.scales[index]


def quantise_experts(model: PreTrainedModel) -> None:
    """Give experts in three-dimensional parameters 8-bit weights, in place, where Transformers lets the model choose.

    XNNPACK takes no product of quantised weights that are chosen at run time, so these are multiplied by in floating
    point, and 4 bits, which ExecuTorch's own kernels have no type for, would save nothing over 8.
    """
    if not any(isinstance(module, PreTrainedModel) and lets_choose_experts(module) for module in model.modules()):
        return
    found = False
    with torch.no_grad():
        for module in list(model.modules()):
            if not hasattr(module, "is_transposed"):
                continue
            for name in _PROJECTIONS:
                weight: Any = getattr(module, name, None)
                if isinstance(weight, nn.Parameter) and weight.ndim == 3:
                    delattr(module, name)
                    setattr(module, name, EightBitExperts(weight, -2 if module.is_transposed else -1))
                    found = True
    if found:
        model.set_experts_implementation(_BY_INDEX)


def use_linear(model: nn.Module) -> None:
    """Replace GPT-2's Conv1D, a linear layer whose weight is stored transposed, by `nn.Linear`, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                inputs, outputs = child.weight.shape
                linear = nn.Linear(inputs, outputs, dtype=child.weight.dtype)
                linear.weight = nn.Parameter(child.weight.detach().t().contiguous())
                linear.bias = child.bias
                setattr(parent, name, linear)
