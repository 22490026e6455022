"""Neutral fields are found, whatever makes them neutral; the others are exercised, or left out by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from conformance.core.verdicts import CellFailedError
from conformance.decoding.scripts import text
from conformance.matrix.schema import load_matrix
from conformance.models.config_fields import Rule
from conformance.models.fixtures import config_values
from conformance.models.neutral import Changes, Effects, effects
from conformance.models.variations import varied
from conformance.pipeline.backends import FLOAT32_TOLERANCE

pytestmark = pytest.mark.torch


def _effects(architecture: str, overrides: Sequence[Changes] = (), **changes: Any) -> Effects:
    values = varied(config_values(architecture), changes)
    limits = {"rounding": 10 * FLOAT32_TOLERANCE, "least": 100 * FLOAT32_TOLERANCE}
    return effects(values, text(0, 32, 64), overrides=overrides, **limits)


@pytest.mark.parametrize(
    ("architecture", "field", "neutral"),
    [
        pytest.param("granite", "residual_multiplier", 1.0, id="one"),
        pytest.param("laguna", "moe_router_logit_softcapping", 0.0, id="zero"),
        pytest.param("gemma2", "final_logit_softcapping", None, id="none"),
        pytest.param("gpt_neox", "attention_bias", False, id="false"),
        pytest.param("gemma2", "query_pre_attn_scalar", 8, id="the size of a head"),
        pytest.param("granite", "attention_multiplier", 8**-0.5, id="the root of the size of a head"),
        pytest.param("deepseek_v3", "topk_group", 2, id="all groups"),
        pytest.param("gpt_oss", "swiglu_limit", 100.0, id="a limit that nothing reaches"),
    ],
)
def test_a_neutral_value_is_found(architecture: str, field: str, neutral: Any) -> None:
    assert field in _effects(architecture).exercised
    found = _effects(architecture, **{field: neutral})
    assert field not in found.exercised
    assert found.neutral[field] < 100 * FLOAT32_TOLERANCE


def test_neutral_fields_within_others_are_found() -> None:
    shares = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    assert "rope_parameters.partial_rotary_factor" in _effects("gpt_neox", rope_parameters=shares).neutral
    multipliers = [0.35, 1.0, 0.45, 0.55, 0.7]
    found = _effects("falcon_h1", ssm_multipliers=multipliers)
    assert "ssm_multipliers.1" in found.neutral
    assert {f"ssm_multipliers.{index}" for index in (0, 2, 3, 4)} <= found.exercised.keys()
    assert "attn_config.clip_qkv" in _effects("mpt", attn_config={"softmax_scale": 0.3}).neutral


def test_a_variation_exercises_what_the_fixture_leaves_neutral() -> None:
    assert _effects("llama").neutral.keys() == {"attention_bias", "mlp_bias", "tie_word_embeddings"}
    varied_fields = _effects("llama", [{"attention_bias": True}, {"tie_word_embeddings": True}])
    assert varied_fields.neutral.keys() == {"mlp_bias"}
    assert varied_fields.exercised["attention_bias"] > 100 * FLOAT32_TOLERANCE


def test_a_variation_that_builds_no_model_is_an_error() -> None:
    with pytest.raises(CellFailedError, match="mlp_bias"):
        _effects("llama", [{"mlp_bias": "yes"}])


def test_fields_are_left_out_by_rules() -> None:
    left_out = _effects("gemma2").left_out
    rules = {name: rule for rule, names in left_out.items() for name in names}
    for rule, names in {
        Rule.TRAINING: ["attention_dropout", "initializer_range"],
        Rule.OUTPUT: ["use_cache"],
        Rule.TOKENS: ["pad_token_id"],
        Rule.EPSILON: ["rms_norm_eps"],
        Rule.LAYERS: ["layer_types", "sliding_window"],
        Rule.DIRECTION: ["use_bidirectional_attention"],
        Rule.NAMES: ["hidden_activation", "rope_parameters.rope_type"],
        Rule.SIZE: ["head_dim", "num_attention_heads", "num_hidden_layers", "vocab_size"],
        Rule.NOTHING: ["rope_parameters.partial_rotary_factor"],
    }.items():
        assert {name: rules[name] for name in names} == dict.fromkeys(names, rule)


def test_what_a_norm_undoes_does_not_count() -> None:
    # A norm follows Beam's experts, so that their scale shows only where it is zero.
    assert "routed_scaling_factor" in _effects("beam").left_out[Rule.NOTHING]


def test_overrides_of_a_row_are_those_of_its_variations() -> None:
    assert {"attention_bias": True, "mlp_bias": True} in load_matrix().overrides("llama")
    assert load_matrix().overrides("gpt_neo") == ()
