"""The exporter: from a model to a program, without a trace on the model."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.export import Dim

from conformance.checks.signature import assert_signature
from conformance.decoding.oracle import Oracle
from conformance.models.fixtures import MAX_CACHE_LEN, build_model, fixture_config
from conformance.reference import convert_and_export_with_cache
from tests.support.messages import refused

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "lfm2", "mixtral"])
def test_strict_and_not_strict_decode_alike_at_any_length(architecture: str, strict: bool) -> None:
    model = build_model(fixture_config(architecture))
    seq = Dim("seq", min=1, max=MAX_CACHE_LEN)
    shapes = {"input_ids": {1: seq}, "cache_position": {0: seq}}
    program = convert_and_export_with_cache(model, dynamic_shapes=shapes, strict=strict).module()
    oracle = Oracle(model, MAX_CACHE_LEN)
    tokens = tuple(range(MAX_CACHE_LEN))
    with torch.no_grad():
        whole = program(torch.tensor([tokens]), torch.arange(MAX_CACHE_LEN))[0, -1]
    assert float((whole - oracle.logits(tokens)).abs().max()) / oracle.scale < 1e-5


def test_two_rows_have_the_same_signature_and_do_not_mix() -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config.cache_config = {"batch_size": 2, "max_cache_len": MAX_CACHE_LEN}
    program = convert_and_export_with_cache(model)
    assert_signature(program, 64, rows=2)
    oracle = Oracle(build_model(fixture_config("llama")), MAX_CACHE_LEN)
    with torch.no_grad():
        logits = program.module()(torch.tensor([[3], [7]]), torch.tensor([0]))[:, 0]
    for row, token in zip(logits, (3, 7), strict=True):
        assert float((row - oracle.logits((token,))).abs().max()) / oracle.scale < 1e-5


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(fixture_config("mixtral"))
    model.train()
    model.model.layers[0].eval()
    before = _state(model)
    if fails:
        monkeypatch.setattr(torch.export, "export", _raise)
    with pytest.raises(RuntimeError, match="cannot trace") if fails else nullcontext():
        convert_and_export_with_cache(model)
    after = _state(model)
    for key in ("config", "experts", "attention", "generation", "training", "grad"):
        assert before[key] == after[key], key
    assert torch.equal(before["random"], after["random"])
    assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"use_cache": False}, "no-static-cache"),
        ({"cache_implementation": "dynamic"}, "no-static-cache"),
        ({"cache_config": None}, "invalid-cache-size"),
        ({"cache_config": {"batch_size": 1}}, "invalid-cache-size"),
        ({"cache_config": {"batch_size": 0, "max_cache_len": 8}}, "invalid-cache-size"),
        ({"cache_config": {"batch_size": 1, "max_cache_len": -8}}, "invalid-cache-size"),
        ({"cache_config": {"batch_size": True, "max_cache_len": 8}}, "invalid-cache-size"),
        ({"cache_config": {"batch_size": 1, "max_cache_len": 8.0}}, "invalid-cache-size"),
    ],
)
def test_misconfigured_model_is_refused(change: dict[str, Any], code: str) -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = copy.deepcopy(model.generation_config)
    for name, value in change.items():
        setattr(model.generation_config, name, value)
    with refused(code):
        convert_and_export_with_cache(model)


@pytest.mark.parametrize(
    "examples",
    [
        (torch.zeros(2, 1, dtype=torch.long), None),
        (torch.zeros(1, 1), None),
        (torch.zeros(1, 2, dtype=torch.long), torch.arange(3)),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples: tuple[Any, Any]) -> None:
    model = build_model(fixture_config("llama"))
    with refused("invalid-example"):
        convert_and_export_with_cache(model, *examples)


def _state(model: Any) -> dict[str, Any]:
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "config": model.config.to_dict(),
        "experts": model.config._experts_implementation,
        "attention": model.config._attn_implementation,
        "generation": model.generation_config.to_dict(),
        "training": [module.training for module in model.modules()],
        "grad": torch.is_grad_enabled(),
        "random": torch.get_rng_state(),
    }


def _raise(*_: Any, **__: Any) -> None:
    raise RuntimeError("cannot trace")
