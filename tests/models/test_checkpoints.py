"""A checkpoint is looked at before anything is loaded, and what is wrong with it is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conformance.decoding.oracle import ROUNDINGS, Oracle
from conformance.models.checkpoints import load_model, read_checkpoint
from conformance.models.fixtures import cache_length
from conformance.reference.metadata import eos_ids
from tests.support.checkpoints import END, write_checkpoint
from tests.support.messages import refused

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("own") / "my model", sliding_window=16, model_type="mistral")


def test_what_is_in_it_is_read_without_its_weights(saved: Path) -> None:
    checkpoint = read_checkpoint(saved, 32)
    assert checkpoint.name == "my-model"
    assert (checkpoint.model_type, checkpoint.context, checkpoint.windows) == ("mistral", 256, (16,))
    assert checkpoint.saved_dtype == "float32"


def test_model_is_made_of_all_its_shards_and_asks_for_the_cache(saved: Path) -> None:
    assert len(list(saved.glob("*.safetensors"))) > 1
    model = load_model(read_checkpoint(saved, 24))
    assert cache_length(model) == 24
    assert eos_ids(model) == [END]
    assert not model.training
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_dtype_is_the_one_that_was_asked_for(saved: Path) -> None:
    assert load_model(read_checkpoint(saved, 24, "bfloat16")).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_type": "lama"}, "unknown-name"),
        ({"model_type": None}, "no-model-type"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already-quantised"),
        (None, "invalid-json"),
    ],
)
def test_a_config_that_cannot_be_exported_is_refused(
    saved: Path, tmp_path: Path, change: dict[str, object] | None, code: str
) -> None:
    values = json.loads((saved / "config.json").read_text())
    text = "{" if change is None else json.dumps({**values, **change})
    (tmp_path / "config.json").write_text(text)
    with refused(code):
        read_checkpoint(tmp_path, 32)


def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with refused("no-weights"):
        read_checkpoint(tmp_path, 32)


def test_directory_has_to_be_there(tmp_path: Path) -> None:
    with refused("file-error"):
        read_checkpoint(tmp_path / "nowhere", 32)
    with refused("not-a-model"):
        read_checkpoint(tmp_path, 32)


def test_cache_is_no_longer_than_the_model_can_see(saved: Path) -> None:
    with refused("cache-too-long"):
        read_checkpoint(saved, 512)


def test_tolerance_goes_by_what_rounding_does(saved: Path) -> None:
    exact = Oracle(load_model(read_checkpoint(saved, 16)), 16)
    rounded = Oracle(load_model(read_checkpoint(saved, 16, "bfloat16")), 16)
    assert exact.rounding == 0
    assert 1e-8 < exact.noise < 1e-5  # of two layers; it grows with their number
    assert rounded.noise == rounded.rounding
    assert 1e-4 < rounded.rounding < 0.05
    tokens = tuple(range(3, 19))
    error = float((exact.logits(tokens) - rounded.logits(tokens)).abs().max()) / exact.scale
    assert error < ROUNDINGS * rounded.rounding
