"""Programs that round: judged by an oracle that rounds as they do, whatever way ties go."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from conformance.checks.case import Case
from conformance.checks.compare import assert_precise
from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError
from conformance.decoding.fidelity import spread, sqnr
from conformance.decoding.oracle import Oracle, perturbed_model
from conformance.decoding.scripts import token_by_token
from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.backends import BACKENDS, FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.base import Precision
from conformance.pipeline.builder import Builder
from conformance.reference import convert_and_export_with_cache
from tests.faults import lowerings, programs
from tests.support.harness import judge, one_layer

pytestmark = pytest.mark.torch

PRECISION = Precision(least_sqnr=40.0, perturbation_std=1e-6, max_perturbed_oracles=2, tie_margin=0.05)
RIGHT = torch.tensor([1.0, 3.0, -2.0])
TIED = torch.tensor([1.0, 2.0, -2.0])
ONE_TOKEN = token_by_token((7,))


def _oracle(logits: torch.Tensor) -> Any:
    return SimpleNamespace(logits=lambda prefix: logits, scale=3.0)


def _case(*others: torch.Tensor, right: torch.Tensor = RIGHT) -> Any:
    return SimpleNamespace(
        expected=_oracle(right),
        perturbed_oracles=lambda: map(_oracle, others),
        precision_after=lambda prefix: PRECISION,
        metrics={},
    )


def _judge(observed: torch.Tensor, *others: torch.Tensor, precision: Precision = PRECISION) -> dict[str, float]:
    case = _case(*others)
    assert_precise(case, precision, observed[None], [(7,)], ONE_TOKEN)
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


def test_nan_of_the_oracle_is_a_failure() -> None:
    loose = dataclasses.replace(PRECISION, least_sqnr=-math.inf)
    with pytest.raises(ClauseViolationError) as caught:
        assert_precise(_case(right=torch.tensor([1.0, math.nan, 0.0])), loose, RIGHT[None], [(7,)], ONE_TOKEN)
    assert caught.value.signature == "eager:oracle-not-finite"


def test_a_ratio_that_is_not_finite_is_not_measured() -> None:
    case = _case(right=torch.zeros(3))
    with pytest.raises(ClauseViolationError, match="-inf dB"):
        assert_precise(case, PRECISION, RIGHT[None], [(7,)], ONE_TOKEN)
    assert case.metrics == {"least_sqnr_db": 40.0}


def test_a_perturbed_model_is_off_by_no_more_than_asked() -> None:
    model = build_model(fixture_config("llama"))
    other = perturbed_model(model, 1e-3, seed=0)
    tokens = torch.arange(64)
    before, after = (each.get_input_embeddings()(tokens) for each in (model, other))
    assert 0 < float(((after - before) / before).abs().max()) < 1e-2
    assert other.state_dict()["lm_head.weight"].data_ptr() == model.state_dict()["lm_head.weight"].data_ptr()


def _soon(backend: Backend) -> Backend:
    """The backend with fewer perturbed oracles: these faults are far from any of them, and each takes half a second."""
    assert backend.precision is not None
    return dataclasses.replace(backend, precision=dataclasses.replace(backend.precision, max_perturbed_oracles=8))


def test_spread_is_that_of_the_model_farthest_from_its_nearest_neighbour() -> None:
    far = torch.tensor([10.0, 0.0])
    near = torch.tensor([9.0, 0.0])
    assert spread([far, far.clone(), near]).sqnr_db == pytest.approx(20 * math.log10(9))
    assert spread([far, far.clone(), near]).largest == 1.0
    assert spread([far, far.clone()]).sqnr_db == math.inf


class _Checkpoint:
    """A quantised model in which some value ties at nearly every token, as in a checkpoint of many layers.

    Fixtures are too small for that, so its oracles are perturbed by a thousand times as much.
    """

    length = 12

    def __init__(self) -> None:
        model = build_model(fixture_config("llama"))
        backend = BACKENDS["xnnpack-8da4w"]
        assert backend.prepare is not None
        assert backend.precision is not None
        self.quantised = backend.prepare(model)
        self.precision = dataclasses.replace(backend.precision, perturbation_std=1e-3)
        self._backend = dataclasses.replace(backend, precision=self.precision)
        self._float = Oracle(model, self.length)
        self._oracles = [Oracle(self.quantised, self.length), *map(self.like, range(4))]
        self.text = self._float.vocabulary.text(0, self.length)

    def like(self, seed: int) -> Oracle:
        return Oracle(perturbed_model(self.quantised, self.precision.perturbation_std, seed), self.length)

    def case(self, *, is_checkpoint: bool = True) -> Case:
        """A case of a program of it, which is there in name only."""
        exporter = SimpleNamespace(require_clause=lambda clause: None)
        built = SimpleNamespace(
            exporter=exporter,
            expected=self._oracles[0],
            perturbed_oracles=lambda precision: iter(self._oracles[1 : 1 + precision.max_perturbed_oracles]),
        )
        builder: Any = SimpleNamespace(
            backend={self._backend.name: self._backend}.get,
            program=lambda program: built,
            architecture=lambda name: SimpleNamespace(oracle=self._float),
        )
        cell = Cell("llama", "reference", self._backend.name, Mode.DECODE, "PAR-1")
        return Case(cell, builder, 1, is_checkpoint=is_checkpoint)

    def judge(self, observed: Callable[[tuple[int, ...]], torch.Tensor], **options: bool) -> dict[str, float]:
        """Judge the logits that `observed` gives after each part of a text."""
        case = self.case(**options)
        assert case.precision is not None
        prefixes = [self.text[: end + 1] for end in range(self.length)]
        logits = torch.stack([observed(prefix) for prefix in prefixes])
        assert_precise(case, case.precision, logits, prefixes, token_by_token(self.text))
        return case.metrics

    def changed(self, change: Callable[[Any], object]) -> Callable[[tuple[int, ...]], torch.Tensor]:
        model = copy.deepcopy(self.quantised)
        change(model)
        return Oracle(model, self.length).logits


@pytest.fixture(scope="module")
def checkpoint() -> _Checkpoint:
    return _Checkpoint()


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_checkpoint_is_judged_by_how_far_its_own_ties_go(checkpoint: _Checkpoint, seed: int) -> None:
    right = checkpoint.like(seed).logits
    metrics = checkpoint.judge(right)
    assert metrics["sqnr_db"] >= metrics["least_sqnr_db"] > 20
    with pytest.raises(ClauseViolationError, match="100 dB"):
        checkpoint.judge(right, is_checkpoint=False)


def _with_another_activation(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


def _with_another_scaling(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.scaling *= 2


def _with_another_rotation(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(1.05)


def _with_larger_logits(model: Any) -> None:
    model.model.norm.weight.data.mul_(1.1)


@pytest.mark.parametrize(
    "change", [_with_another_activation, _with_another_scaling, _with_another_rotation, _with_larger_logits]
)
def test_a_wrong_program_of_a_checkpoint_is_caught(checkpoint: _Checkpoint, change: Callable[[Any], object]) -> None:
    with pytest.raises(ClauseViolationError) as caught:
        checkpoint.judge(checkpoint.changed(change))
    assert caught.value.signature == "execute:logits-differ"


def test_a_fixture_is_judged_as_strictly_after_any_prefix(checkpoint: _Checkpoint) -> None:
    assert checkpoint.case(is_checkpoint=False).precision_after(checkpoint.text) == checkpoint.precision


@pytest.mark.parametrize("backend", ["xnnpack-8da4w", "xnnpack-fp16"])
def test_zeroed_cache_is_caught_however_a_backend_rounds(backend: str) -> None:
    backends = {backend: _soon(BACKENDS[backend])}
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-1", "llama", programs.zeroes_cache, backend=backend, backends=backends, make_model=one_layer)
    assert caught.value.signature == "execute:logits-differ"


def test_wrong_lowering_of_a_quantised_program_is_caught() -> None:
    # Not a faulty subject: what PT2E quantises is the subject's own program, and so is the oracle.
    wrong = dataclasses.replace(_soon(BACKENDS["xnnpack-pt2e"]), passes=lowerings.changes_numbers)
    with pytest.raises(ClauseViolationError) as caught:
        judge(
            "PAR-1",
            "llama",
            convert_and_export_with_cache,
            backend="wrong",
            backends={"wrong": wrong},
            make_model=one_layer,
        )
    assert caught.value.signature == "execute:logits-differ"


def test_each_rounding_backend_has_a_precision() -> None:
    # Not `requantise` alone: QNN applies passes of its own to the exported program, and leaves it in float32.
    rounding: Sequence[Any] = [backend for backend in BACKENDS.values() if backend.prepare or backend.quantisation]
    assert rounding
    assert all(backend.precision for backend in rounding)


def test_tolerance_of_a_fixture_is_known_where_no_model_can_be_built() -> None:
    def build(architecture: str) -> PreTrainedModel:
        raise AssertionError(architecture)

    case = Case(Cell("llama", "reference", EXPORTED, Mode.DECODE, "PAR-1"), Builder(build=build), 1)
    assert case.tolerance == FLOAT32_TOLERANCE
