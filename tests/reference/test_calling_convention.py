"""How a model is called, so that it does not read the length of its cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import TorchExportableModuleWithStaticCache, calling_convention
from conformance.reference.calling_convention import CallingConvention, _candidates, _Observer
from conformance.reference.settings import CacheSettings
from conformance.reference.transformers_api import cache_argument

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("architecture", "first_position", "attention_mask", "integer_length"),
    [
        ("llama", None, False, False),  # with no arguments it reads nothing
        ("bert", 0, False, False),
        ("roberta", None, False, False),  # counts from its padding id + 1, without reading
        ("opt", 0, True, False),
        ("bart", None, True, False),
        ("xglm", 0, False, False),  # compares the length with its table's, but not while tracing
        ("bamba", 0, False, False),  # left to itself, it counts each call's positions from 0
        ("trocr", None, False, True),  # takes no positions, and computes them from the cache's length
    ],
)
def test_convention_spares_the_model_reading_its_cache(
    architecture: str, first_position: int | None, attention_mask: bool, integer_length: bool
) -> None:
    convention = TorchExportableModuleWithStaticCache(build_model(fixture_config(architecture)))._convention
    assert convention == CallingConvention("past_key_values", first_position, attention_mask, integer_length)


@pytest.mark.parametrize(
    ("architecture", "first_position"),
    [("git", 0), ("mpt", None)],  # MPT slices by max(0, 1 - length)
)
def test_cache_of_a_model_that_asks_only_whether_it_is_empty_is_in_progress(
    architecture: str, first_position: int | None
) -> None:
    wrapper = TorchExportableModuleWithStaticCache(build_model(fixture_config(architecture)))
    assert wrapper._convention == CallingConvention(first_position=first_position, in_progress=True)


def test_positions_that_change_the_logits_are_not_passed() -> None:
    wrapper = TorchExportableModuleWithStaticCache(build_model(fixture_config("bert")))
    assert CallingConvention(first_position=1) in _candidates(wrapper.model)  # tried, and found to differ
    assert wrapper._convention.first_position == 0


def test_mamba_is_given_its_cache_by_its_own_name() -> None:
    assert cache_argument(build_model(fixture_config("mamba"))) == "cache_params"


def test_what_was_observed_is_that_of_the_best_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of the last that was tried, which may take another path through the model."""
    wrapper = TorchExportableModuleWithStaticCache(build_model(fixture_config("llama")))

    def trial(model: object, convention: CallingConvention, *_: object) -> tuple[torch.Tensor, _Observer]:
        observer = _Observer()
        observer.integers = 1
        observer.complex_numbers = convention == plain
        return torch.full((1,), float(convention != plain)), observer

    plain = calling_convention._plain(wrapper.model)
    monkeypatch.setattr(calling_convention, "_trial", trial)
    monkeypatch.setattr(calling_convention, "_without_cache", lambda *_: None)
    found = calling_convention.find_convention(wrapper.model, wrapper.cache, CacheSettings(1, 32))
    assert found == dataclasses.replace(plain, integer_length=True, complex_numbers=True)
