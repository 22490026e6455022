"""Rotary frequencies of the dynamic kind."""

from __future__ import annotations

import pytest

from conformance.core.contract import Mode
from conformance.models.variations import Space, Variation, build
from conformance.reference import convert_and_export_with_cache
from tests.support.harness import judge

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_dynamic_rotary_embedding_is_a_fixed_one_where_the_cache_is_short_enough(architecture: str) -> None:
    rope = Space(architecture).settled({"rope kind": "dynamic"})
    model = build(architecture, Variation(rope))
    (kinds,) = (module.rope_type for module in model.modules() if hasattr(module, "rope_type"))
    judge("PAR-6", architecture, convert_and_export_with_cache, mode=Mode.DYNAMIC, make_model=lambda _: model)
    (after,) = (module.rope_type for module in model.modules() if hasattr(module, "rope_type"))
    assert after is kinds
    assert "dynamic" in str(kinds)
