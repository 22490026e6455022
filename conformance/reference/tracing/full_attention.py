"""Full attention in place of BigBird's block-sparse one, which has no cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def full_attention(model: nn.Module) -> Iterator[None]:
    """Have modules that can choose use full attention, with the same weights; undone on exit.

    BigBird's own forward pass makes this choice for short texts and never undoes it
    (https://github.com/huggingface/transformers/issues/20031), where it would change the model and stop TorchDynamo.
    """
    choosing: list[Any] = [module for module in model.modules() if hasattr(module, "set_attention_type")]
    before = [(module, module.attention_type, dict(module.named_children())) for module in choosing]
    try:
        for module in choosing:
            module.set_attention_type("original_full")
        yield
    finally:
        for module, attention_type, children in before:
            module.attention_type = attention_type
            for name, child in children.items():
                setattr(module, name, child)
