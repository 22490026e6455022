"""What is judged of a program depends on the calls that it takes."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from conformance.core.call_shape import CallShape
from conformance.core.cells import EXPORTED
from conformance.core.contract import Mode
from conformance.exporters.resolve import resolve
from conformance.pipeline.builder import Builder
from conformance.pipeline.stages import build
from tests.support.harness import judge

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
