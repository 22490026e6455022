"""What judges programs where Transformers' own decoding with a static cache is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.checks.case import Case, require_undecodable
from conformance.core.cells import EAGER, Cell
from conformance.core.verdicts import ClauseViolationError
from conformance.decoding.oracle import CacheFreeOracle, Oracle
from conformance.matrix.schema import Expectation
from conformance.models.fixtures import build_model, cache_length, fixture_config
from conformance.pipeline.builder import Builder

pytestmark = pytest.mark.torch

_CELL = Cell("bamba", None, EAGER, None, "SEN-1")


def test_forward_pass_without_cache_agrees_with_decoding() -> None:
    model = build_model(fixture_config("llama"))
    decoding, free = (kind(model, cache_length(model)) for kind in (Oracle, CacheFreeOracle))
    text = decoding.vocabulary.text(1, 9)
    for length in (9, 3, 1):
        difference = (decoding.logits(text[:length]) - free.logits(text[:length])).abs().max()
        assert float(difference) < 1e-5 * decoding.scale
    free.agree_without_cache()


def test_forward_pass_that_looks_ahead_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(fixture_config("llama"))
    oracle = CacheFreeOracle(model, cache_length(model))
    causal: Any = oracle.without_cache
    monkeypatch.setattr(oracle, "without_cache", lambda tokens: causal(tokens) + torch.tensor(sum(tokens)))
    with pytest.raises(ClauseViolationError) as violation:
        oracle.agree_without_cache()
    assert violation.value.signature == "eager:forward-pass-not-causal"


def test_only_named_architectures_are_judged_without_cache() -> None:
    known = Expectation("cause", "eager:static-cache-decoding-differs", "counts from 0", without_cache=True)
    case = Case(_CELL, Builder(without_cache={"bamba"}), examples=1)
    require_undecodable(case, known)
    assert type(case.oracle) is CacheFreeOracle
    assert type(case.architecture.static_oracle) is Oracle
    with pytest.raises(ClauseViolationError) as violation:
        _ = Case(_CELL, Builder(), examples=1).oracle
    assert violation.value.signature == known.signature


def test_model_that_decodes_has_one_oracle() -> None:
    """RecurrentGemma keeps a state of its own, which a second oracle would find as the first one left it."""
    architecture = Builder(without_cache={"bamba"}).architecture("llama")
    assert architecture.static_oracle is architecture.oracle


def test_model_whose_logits_are_all_zero_has_no_oracle() -> None:
    model = build_model(fixture_config("llama"))
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    with pytest.raises(ClauseViolationError) as violation:
        Oracle(model, cache_length(model))
    assert violation.value.signature == "eager:logits-all-zero"
