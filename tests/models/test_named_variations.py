"""Named variations: each builds another model than the fixture, and has what it is named for."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from conformance.core.cells import split_row
from conformance.matrix.schema import Tier, load_matrix
from conformance.models.fixtures import batch_size, cache_length, fixture_config
from conformance.models.variations import build, of_row
from conformance.pipeline import stages
from tests.support.messages import refused

pytestmark = pytest.mark.torch

MATRIX = load_matrix()
VARIED = [row for row in MATRIX.rows if split_row(row)[1] is not None]


def _logits(model: PreTrainedModel) -> torch.Tensor:
    vocab = model.config.get_text_config(decoder=True).vocab_size
    tokens = torch.arange(32)[None] % min(vocab, 61)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits[0, :, : min(vocab, 61)]
    return logits.float()


@pytest.mark.parametrize("architecture", sorted({split_row(row)[0] for row in VARIED}))
def test_each_variation_computes_something_else(architecture: str) -> None:
    fixture = _logits(stages.build(architecture))
    # In these, other texts are decoded, or longer ones, and short texts of few ids come out alike.
    same_numbers = {"batch", "long", "longest", "rope-dynamic", "rope-longrope"}
    for row in MATRIX.varied(architecture):
        model = stages.build(row)
        variation = of_row(row)
        assert cache_length(model) == variation.max_cache_len
        assert batch_size(model) == variation.settings.get("batch_size", 1)
        logits = _logits(model)
        if split_row(row)[1] not in same_numbers:
            assert logits.shape != fixture.shape or not torch.allclose(logits, fixture, rtol=0, atol=1e-6), row


def test_a_row_that_does_not_exist_is_refused() -> None:
    with refused("unknown-name"):
        of_row("llama+short")


def test_every_rotary_scaling_of_transformers_has_a_variation() -> None:
    kinds = {name.removeprefix("rope-").removesuffix("-past") for name in MATRIX.variations if name.startswith("rope-")}
    assert kinds == set(ROPE_INIT_FUNCTIONS)


@pytest.mark.parametrize(
    "name", sorted(set(MATRIX.variations) - {"options", "longest", "capped-logits", "gelu", "bias"})
)
def test_a_mechanism_is_varied_in_every_core_row_that_has_it(name: str) -> None:
    rows = set(MATRIX.variations[name].rows)
    core = set(MATRIX.in_tier(Tier.CORE))
    without = {
        row
        for row in core
        if name.startswith("rope-")
        and not getattr(fixture_config(row).get_text_config(decoder=True), "rope_parameters", None)
    }
    if name.startswith("rope-") and "longrope" not in name:
        without |= {"phi3"}  # takes LongRoPE alone
    if name.startswith("rope-dynamic"):
        without |= {"gpt_neox"}  # its two rotary dimensions are too few
    if name == "bfloat16":
        without |= {"mixtral", "deepseek_v3", "lfm2"}  # rounding hides a shifted position, so that SEN-1 fails
    if name == "large-logits":
        without |= {"gemma2"}  # caps them at 30: see capped-logits
    assert rows == core - without


def test_tier_core_has_one_variation_of_each_mechanism() -> None:
    core = {name for name, variation in MATRIX.variations.items() if variation.core}
    assert core >= {"rope-yarn", "long", "odd", "bfloat16", "capped-logits"}


def test_logits_are_large() -> None:
    largest = _logits(stages.build("llama+large-logits")).abs().max()
    assert largest > 100
    capped = stages.build("gemma2+capped-logits")
    uncapped = capped.config.final_logit_softcapping * torch.atanh(
        _logits(capped) / capped.config.final_logit_softcapping
    )
    assert uncapped.abs().max() > torch.finfo(torch.float16).max


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_leaves_rotary_frequencies_exact(dtype: str) -> None:
    model = stages.build(f"llama+{dtype}")
    assert model.dtype is getattr(torch, dtype)
    assert model.model.rotary_emb.inv_freq.dtype is torch.float32


def test_keys_that_would_run_code_are_refused() -> None:
    variation = of_row("llama+bias")
    object.__setattr__(variation, "overrides", {"auto_map": {}})
    with pytest.raises(Exception, match="a model can load code by it"):
        build("llama", variation)
