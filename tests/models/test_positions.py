"""How long a text a model was made for, as its config says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.exporters.resolve import resolve
from conformance.models.checkpoints import load_model, read_checkpoint
from conformance.models.fixtures import build_model, cache_length, fixture_config
from conformance.models.positions import reach, shorten_cache, table_end
from conformance.pipeline.stages import build_own, example_inputs, export
from tests.support.messages import refused

pytestmark = pytest.mark.torch

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [4.0]}


@pytest.mark.parametrize(
    ("model_type", "config", "tokens", "what"),
    [
        ("llama", {"max_position_embeddings": 256}, 256, "256 positions (max_position_embeddings in"),
        ("gpt2", {"n_positions": 96}, 96, "96 positions (n_positions in"),
        ("gpt2", {"max_position_embeddings": 96}, 96, "max_position_embeddings"),
        ("gpt_bigcode", {"n_positions": 96}, 96, "n_positions"),
        ("mpt", {"max_seq_len": 96}, None, ""),  # a table without a name for all models: decoding finds its end
        ("roberta", {"max_position_embeddings": 98, "pad_token_id": 1}, 96, "96 positions (max_position_embeddings in"),
        ("xlm-roberta", {"max_position_embeddings": 98, "pad_token_id": 0}, 97, "less 1 for padding)"),
        ("data2vec-text", {"max_position_embeddings": 98}, 96, "less 2 for padding)"),
        ("bert", {"max_position_embeddings": 98, "pad_token_id": 1}, 98, "98 positions"),
        ("xlnet", {"max_position_embeddings": -1}, None, ""),
        ("qwen2", {"max_position_embeddings": 64, "rope_parameters": YARN}, 256, "yarn scaling by 4)"),
        ("deepseek_v3", {"max_position_embeddings": 1024, "rope_scaling": YARN}, 1024, "max_position_embeddings"),
        ("llama", {"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 2}}, 128, "linear"),
        ("llama", {"max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2}}, 64, "change"),
        # The factor of Llama 3.2 times its original length is twice what it was made for.
        (
            "llama",
            {"max_position_embeddings": 64, "rope_parameters": {**YARN, "rope_type": "llama3"}},
            64,
            "max_position_embeddings",
        ),
        (
            "phi3",
            {"max_position_embeddings": 256, "original_max_position_embeddings": 32, "rope_scaling": LONGROPE},
            32,
            "the 32 tokens after which the model's rotary frequencies change (longrope in config.json), while",
        ),
        (
            "minicpm3",
            {"max_position_embeddings": 256, "rope_scaling": {**LONGROPE, "short_factor": [4.0]}},
            256,
            "max_position_embeddings",
        ),
        # Its sliding layers have no scaling, and reach no further.
        (
            "gemma3_text",
            {
                "max_position_embeddings": 64,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default"},
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                },
            },
            64,
            "max_position_embeddings",
        ),
    ],
)
def test_reach_is_read_from_the_config(model_type: str, config: dict[str, Any], tokens: int | None, what: str) -> None:
    found = reach(model_type, config)
    assert (found.tokens if found else None) == tokens
    assert found is None or what in found.what


def test_it_is_read_without_torch() -> None:
    """Importing torch takes seconds, and a wrong length is answered in one."""
    read = "from conformance.models.positions import reach; reach('gpt2', {})"
    code = f"import sys; {read}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def offset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose config says 64 positions, of which it counts from the second."""
    directory = tmp_path_factory.mktemp("own") / "offset"
    build_model(fixture_config("roberta")).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 positions, which its config has no common name for."""
    directory = tmp_path_factory.mktemp("own") / "unnamed"
    build_model(fixture_config("mpt")).save_pretrained(directory)
    return directory


@pytest.mark.torch
def test_config_and_table_have_one_limit(offset: Path) -> None:
    with refused("cache-too-long"):
        read_checkpoint(offset, 64)
    model = load_model(read_checkpoint(offset, 63))
    assert table_end(model) is None
    shorten_cache(model, 64)
    assert table_end(model) == 63


@pytest.mark.torch
def test_cache_beyond_the_table_is_one_sentence(unnamed: Path) -> None:
    with refused("cache-too-long"):
        build_own(read_checkpoint(unnamed, 65))


@pytest.mark.torch
def test_cache_as_long_as_the_table_can_be_exported(unnamed: Path) -> None:
    """What the sentence says to take."""
    model = build_own(read_checkpoint(unnamed, 64)).model
    assert cache_length(model) == 64
    program = export(resolve("reference"), model, Mode.DYNAMIC).module()
    ids, positions = example_inputs(64)
    with torch.no_grad():
        torch.testing.assert_close(program(ids, positions), model(ids).logits)
