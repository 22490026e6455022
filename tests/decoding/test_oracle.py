"""What judges programs where Transformers' own decoding with a static cache is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.checks.case import Case, require_undecodable
from conformance.core.cells import EAGER, Cell
from conformance.core.verdicts import ClauseViolationError, Stage, StageError
from conformance.decoding.oracle import CacheFreeOracle, Oracle, ProgramOracle
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


class _Session:
    """Logits that only the tokens in its cache decide, and one call that fails."""

    def __init__(self, failing: list[tuple[int, ...]], started: list[_Session]) -> None:
        self._failing = failing
        self._held: tuple[int, ...] = ()
        started.append(self)

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        position = int(cache_position)
        assert position <= len(self._held), "a gap"
        held = (*self._held[:position], int(input_ids))
        if held in self._failing:
            self._failing.remove(held)
            raise StageError(Stage.EXECUTE, RuntimeError("refused"))
        self._held = held
        return torch.tensor([[_logits(held)]])


def _logits(held: tuple[int, ...]) -> list[float]:
    return [float(sum(token * 10**place for place, token in enumerate(held)))] * 64


def test_oracle_of_a_program_goes_on_after_a_refused_call() -> None:
    started: list[_Session] = []
    failing: list[tuple[int, ...]] = [(1, 2)]
    oracle = ProgramOracle(lambda: _Session(failing, started), (1, 2, 3))
    with pytest.raises(StageError):
        oracle.logits((1, 2, 3))
    for prefix in ((1, 2, 3), (1, 2), (1, 2, 3, 4)):
        assert oracle.logits(prefix).tolist() == _logits(prefix)
    assert len(started) == 2


def test_oracle_of_a_program_keeps_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.decoding.oracle._KEPT_BYTES", 3 * 64 * 4)
    started: list[_Session] = []
    oracle = ProgramOracle(lambda: _Session([], started), (1,))
    for _ in range(2):
        for prefix in ((1, 2, 3, 4, 5), (1, 2), (1,), (2, 3), (1, 2, 3, 4, 5, 6)):
            assert oracle.logits(prefix).tolist() == _logits(prefix)
            assert len(oracle._known) <= 3
