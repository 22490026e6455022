"""Programs that round: judged by an oracle that rounds as they do, whatever way ties go."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from conformance.checks.case import Case
from conformance.checks.compare import assert_precise, sqnr
from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError
from conformance.decoding.oracle import perturbed_model
from conformance.decoding.scripts import token_by_token
from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.backends import BACKENDS, FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.base import Precision
from conformance.pipeline.builder import Builder
from conformance.reference import convert_and_export_with_cache
from tests.faults import lowerings, programs
from tests.support.harness import judge

pytestmark = pytest.mark.torch

PRECISION = Precision(least_sqnr=40.0, perturbation_std=1e-6, max_perturbed_oracles=2, tie_margin=0.05)
RIGHT = torch.tensor([1.0, 3.0, -2.0])
TIED = torch.tensor([1.0, 2.0, -2.0])


def _oracle(logits: torch.Tensor) -> Any:
    return SimpleNamespace(logits=lambda prefix: logits, scale=3.0)


def _case(*others: torch.Tensor) -> Any:
    return SimpleNamespace(expected=_oracle(RIGHT), perturbed_oracles=lambda: map(_oracle, others), metrics={})


def _judge(observed: torch.Tensor, *others: torch.Tensor, precision: Precision = PRECISION) -> dict[str, float]:
    case = _case(*others)
    assert_precise(case, precision, observed[None], [(7,)], token_by_token((7,)))
    metrics: dict[str, float] = case.metrics
    return metrics


def _caught(observed: torch.Tensor, *others: torch.Tensor, precision: Precision = PRECISION) -> str:
    with pytest.raises(ClauseViolationError) as caught:
        _judge(observed, *others, precision=precision)
    return caught.value.signature


def test_ratio_is_in_decibels() -> None:
    assert sqnr(torch.tensor([10.0]), torch.tensor([9.0])) == pytest.approx(20.0)
    assert sqnr(RIGHT, RIGHT) == math.inf


def test_agreement_is_measured() -> None:
    assert _judge(RIGHT) == {"sqnr_db": 300.0, "least_sqnr_db": 40.0}
    assert 60 < _judge(RIGHT * 1.0005)["sqnr_db"] < 70


def test_a_tie_may_go_the_other_way() -> None:
    assert _judge(TIED, RIGHT, TIED)["sqnr_db"] == 300.0
    assert _caught(TIED) == "execute:logits-differ"


def test_noise_is_not_taken_for_a_tie() -> None:
    assert _caught(torch.tensor([1.0, 2.5, -2.0]), TIED) == "execute:logits-differ"


def test_another_best_token_is_a_failure_unless_they_tie() -> None:
    loose = Precision(least_sqnr=-math.inf, perturbation_std=1e-6, max_perturbed_oracles=0, tie_margin=0.05)
    assert _caught(torch.tensor([3.0, 1.0, -2.0]), precision=loose) == "execute:greedy-differs"
    _judge(torch.tensor([1.0, 3.0, 2.99]), precision=loose)
    even = Precision(least_sqnr=-math.inf, perturbation_std=1e-6, max_perturbed_oracles=0, tie_margin=0.7)
    _judge(torch.tensor([3.0, 1.0, -2.0]), precision=even)


def test_nan_is_a_failure() -> None:
    assert _caught(torch.tensor([1.0, math.nan, 0.0])) == "execute:not-finite"


def test_a_perturbed_model_is_off_by_no_more_than_asked() -> None:
    model = build_model(fixture_config("llama"))
    other = perturbed_model(model, 1e-3, seed=0)
    before, after = (each.state_dict()["model.embed_tokens.weight"] for each in (model, other))
    assert 0 < float(((after - before) / before).abs().max()) < 1e-2
    assert torch.equal(model.state_dict()["lm_head.weight"], other.state_dict()["lm_head.weight"])


def _soon(backend: Backend) -> Backend:
    """The backend with fewer perturbed oracles: these faults are far from any of them, and each takes half a second."""
    assert backend.precision is not None
    return dataclasses.replace(backend, precision=dataclasses.replace(backend.precision, max_perturbed_oracles=8))


@pytest.mark.parametrize("backend", ["xnnpack-8da4w", "xnnpack-fp16"])
def test_zeroed_cache_is_caught_however_a_backend_rounds(backend: str) -> None:
    backends = {backend: _soon(BACKENDS[backend])}
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-1", "llama", programs.zeroes_cache, backend=backend, backends=backends)
    assert caught.value.signature == "execute:logits-differ"


def test_wrong_lowering_of_a_quantised_program_is_caught() -> None:
    # Not a faulty subject: what PT2E quantises is the subject's own program, and so is the oracle.
    wrong = dataclasses.replace(_soon(BACKENDS["xnnpack-pt2e"]), passes=lowerings.changes_numbers)
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-1", "llama", convert_and_export_with_cache, backend="wrong", backends={"wrong": wrong})
    assert caught.value.signature == "execute:logits-differ"


def test_each_rounding_backend_has_a_precision() -> None:
    rounding: Sequence[Any] = [backend for backend in BACKENDS.values() if backend.variant]
    assert rounding
    assert all(backend.precision for backend in rounding)


def test_tolerance_of_a_fixture_is_known_where_no_model_can_be_built() -> None:
    def build(architecture: str) -> PreTrainedModel:
        raise AssertionError(architecture)

    case = Case(Cell("llama", "reference", EXPORTED, Mode.DECODE, "PAR-1"), Builder(build=build), 1)
    assert case.tolerance == FLOAT32_TOLERANCE
