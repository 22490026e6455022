"""What is judged of a model depends on its program's calls, and on whether it is a fixture."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from conformance.core.call_shape import CallShape
from conformance.core.cells import EXPORTED
from conformance.core.contract import Mode
from conformance.exporters.resolve import resolve
from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.builder import Builder
from conformance.pipeline.stages import build
from tests.support.harness import judge, one_layer

pytestmark = pytest.mark.torch


def _of_two_rows(architecture: str) -> PreTrainedModel:
    model = build(architecture)
    model.generation_config.cache_config["batch_size"] = 2
    return model


def test_two_rows_are_right_for_a_program_of_two() -> None:
    judge("PAR-7", "llama", resolve("reference"), make_model=_of_two_rows)


def test_rows_of_a_program_that_returns_the_last_logits_alone() -> None:
    builder = Builder({"reference": resolve("reference")}, build=_of_two_rows, shape=CallShape(last_logits=True))
    judge("PAR-2", "llama", resolve("reference"), mode=Mode.DYNAMIC, backend=EXPORTED, builder=builder)


def _window_beyond_the_cache(architecture: str) -> PreTrainedModel:
    config = fixture_config(architecture)
    config.sliding_window = 4096
    return build_model(config)


def test_a_window_that_the_cache_never_fills_need_not_show() -> None:
    case = judge("SEN-1", "gemma3_text", make_model=_window_beyond_the_cache, is_checkpoint=True)
    assert "effect_dropped_window" not in case.metrics


def test_a_checkpoint_is_not_compared_with_the_fixture_of_its_name() -> None:
    case = judge("LOW-3", "llama", resolve("reference"), backend="xnnpack", make_model=one_layer, is_checkpoint=True)
    assert case.metrics["has_baseline"] == 0
