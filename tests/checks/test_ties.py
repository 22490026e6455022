"""PAR-10 where tokens tie: rounding chooses among these, and no other token is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.core.verdicts import ClauseViolationError, NotApplicableError
from conformance.pipeline.stages import build
from conformance.reference import convert_and_export_with_cache
from tests.faults import programs
from tests.support.harness import judge

pytestmark = pytest.mark.torch


def _all_tie(architecture: str) -> PreTrainedModel:
    """Each two ids have the same logits."""
    return _tied(architecture, 0)


def _some_tie(architecture: str) -> PreTrainedModel:
    """Each two ids from 40 on have the same logits."""
    return _tied(architecture, 40)


def _tied(architecture: str, first: int) -> PreTrainedModel:
    model = build(architecture)
    weight: Any = model.get_output_embeddings().weight
    with torch.no_grad():
        weight[first::2] = weight[first + 1 :: 2]
    return model


def _chooses_the_other(inner: Any, ids: torch.Tensor, position: torch.Tensor) -> Any:
    """Has the logits of each two ids the other way round, which changes nothing where they tie."""
    logits = inner(ids, position)
    nudged = torch.arange(logits.shape[-1]) % 2 * 1e-6
    return logits + nudged


chooses_the_other = programs._subject(_chooses_the_other)


@pytest.mark.parametrize("make_model", [_all_tie, _some_tie])
def test_token_that_does_not_tie_is_caught(make_model: Callable[[str], PreTrainedModel]) -> None:
    with pytest.raises(ClauseViolationError, match="token 0 after the call") as caught:
        judge("PAR-10", "llama", programs.returns_constant, make_model=make_model)
    assert caught.value.signature == "execute:tokens-differ"


@pytest.mark.parametrize("export", [convert_and_export_with_cache, chooses_the_other])
def test_either_of_two_that_tie_is_right_and_the_text_goes_on(export: Callable[..., ExportedProgram]) -> None:
    case = judge("PAR-10", "llama", export, make_model=_some_tie)
    whole = judge("PAR-10", "llama", export)
    assert 0 < case.metrics["tokens_compared"] < whole.metrics["tokens_compared"]


def test_a_text_without_a_token_to_compare_is_not_a_pass() -> None:
    with pytest.raises(NotApplicableError, match="tie"):
        judge("PAR-10", "llama", convert_and_export_with_cache, make_model=_all_tie)
