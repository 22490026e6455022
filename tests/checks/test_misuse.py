"""What PAR-7 takes for a misuse depends on the program."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from conformance.exporters.resolve import resolve
from conformance.pipeline.stages import build
from tests.support.harness import judge

pytestmark = pytest.mark.torch


def _of_two_rows(architecture: str) -> PreTrainedModel:
    model = build(architecture)
    model.generation_config.cache_config["batch_size"] = 2
    return model


def test_two_rows_are_right_for_a_program_of_two() -> None:
    judge("PAR-7", "llama", resolve("reference"), make_model=_of_two_rows)
