"""BigBird decodes with full attention, and is left with the attention that it had."""

from __future__ import annotations

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.model_snapshot import changes, footprint
from conformance.reference.tracing import ready_to_trace

pytestmark = pytest.mark.torch


def test_choice_of_attention_is_undone() -> None:
    model = build_model(fixture_config("big_bird"))
    before = footprint(model)
    with ready_to_trace(model):
        assert {type(each.self).__name__ for each in model.modules() if hasattr(each, "self")} == {
            "BigBirdSelfAttention"
        }
        model(input_ids=torch.tensor([[1, 2]]))
    assert not changes(before, footprint(model))


def test_forward_pass_by_itself_changes_the_model() -> None:
    model = build_model(fixture_config("big_bird"))
    before = footprint(model)
    with torch.no_grad(), torch.random.fork_rng():
        model(input_ids=torch.tensor([[1, 2]]))
    assert changes(before, footprint(model))
