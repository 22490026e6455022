"""Methods that are replaced for a while, and what a module or a registry had before."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from conformance.reference.tracing.attention import grouped_attention
from conformance.reference.tracing.methods import replaced_methods

pytestmark = pytest.mark.torch


def test_a_method_that_a_module_had_of_its_own_comes_back() -> None:
    """Such as `forward`, which accelerate's hooks replace on a user's model."""
    hooked, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.forward = own = lambda x: x + 1  # type: ignore[method-assign]
    with replaced_methods({module: {"forward": torch.neg} for module in (hooked, plain)}):
        assert [int(module(torch.ones(()))) for module in (hooked, plain)] == [-1, -1]
    assert vars(hooked)["forward"] is own
    assert "forward" not in vars(plain)


def test_an_attention_function_that_a_user_had_set_comes_back() -> None:
    own, everywhere = torch.neg, ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = own
    try:
        with grouped_attention():
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not own
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is everywhere
