"""Numbers that are not finite: no program agrees with an oracle that has them, and no check measures them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.checks import test_lowering
from conformance.core.verdicts import ClauseViolationError
from conformance.decoding.fidelity import Fidelity
from conformance.decoding.vocabulary import vocabulary_of
from conformance.models.fixtures import cache_length
from conformance.pipeline.stages import build
from conformance.reference import convert_and_export_with_cache
from tests.faults.lowerings import QUANTISES_ONE_LAYER as BACKEND
from tests.support.harness import judge

pytestmark = pytest.mark.torch


def _nan_in_other_texts(architecture: str) -> PreTrainedModel:
    """Has finite logits for the text that the oracle is tried with, and NaN after ids that are not in it."""
    model = build(architecture)
    forward = model.forward
    tried = torch.tensor(vocabulary_of(model).text(0, cache_length(model)))

    @functools.wraps(forward)
    def wrong(*arguments: Any, **options: Any) -> Any:
        outputs: Any = forward(*arguments, **options)
        others = ~torch.isin(options["input_ids"], tried)
        outputs.logits = outputs.logits.masked_fill(others[..., None], float("nan"))
        return outputs

    model.forward = wrong
    return model


def _nan_without_cache(architecture: str) -> PreTrainedModel:
    model = build(architecture)
    forward = model.forward

    @functools.wraps(forward)
    def wrong(*arguments: Any, use_cache: bool | None = None, **options: Any) -> Any:
        outputs: Any = forward(*arguments, use_cache=use_cache, **options)
        outputs.logits = outputs.logits if use_cache else outputs.logits * float("nan")
        return outputs

    model.forward = wrong
    return model


def _finite(model: PreTrainedModel, *examples: torch.Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """The program of the model without the fault, whose logits are finite everywhere."""
    del model.forward
    return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)


@pytest.mark.parametrize("clause", ["PAR-1", "PAR-10"])
def test_nothing_agrees_with_an_oracle_that_is_not_finite(clause: str) -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge(clause, "llama", _finite, make_model=_nan_in_other_texts)
    assert caught.value.signature == "eager:oracle-not-finite"


def test_a_forward_pass_that_is_not_finite_is_caught_by_par_8() -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-8", "llama", make_model=_nan_without_cache)
    assert caught.value.signature == "eager:oracle-not-finite"


@pytest.mark.parametrize("number", ["sqnr_db", "greedy_agreement", "perplexity_float", "perplexity_rounded"])
def test_number_that_is_not_finite_is_caught_by_low_11(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataclasses.replace(Fidelity(20.0, 0.9, 30.0, 31.0), **{number: float("inf")})
    monkeypatch.setattr(test_lowering, "fidelity", lambda *_: found)
    with pytest.raises(ClauseViolationError, match=f"{number}=inf") as caught:
        judge("LOW-11", "llama", convert_and_export_with_cache, backend=BACKEND.name, backends={BACKEND.name: BACKEND})
    assert caught.value.signature == "lower:not-finite"
