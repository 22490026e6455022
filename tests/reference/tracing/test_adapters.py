"""Adapters by language: the same numbers without picking rows."""

from __future__ import annotations

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference.tracing.adapters import dense_adapters

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("changes", [{}, {"ln_before_adapter": False}, {"adapter_layer_norm": True}])
def test_each_row_gets_the_adapter_of_its_language(changes: dict[str, bool]) -> None:
    config = fixture_config("xmod")
    config.languages = ["en_XX", "de_DE", "fr_FR"]
    for name, value in changes.items():
        setattr(config, name, value)
    model = build_model(config).eval()
    ids = torch.randint(config.vocab_size, (3, 5), generator=torch.Generator().manual_seed(0))
    languages = torch.tensor([2, 0, 1])
    with torch.no_grad():
        expected = model(ids, lang_ids=languages).logits
        other = model(ids, lang_ids=languages.flip(0)).logits
        with dense_adapters(model):
            logits = model(ids, lang_ids=languages).logits
    assert not torch.allclose(expected, other), "the adapters of this model differ"
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any("lang_adapter" in vars(module) for module in model.modules())
