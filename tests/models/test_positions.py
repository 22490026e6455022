"""How long a text a model was made for, as its config says it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.core.paths import ROOT
from conformance.core.verdicts import StageError
from conformance.models.checkpoints import load_model, read_checkpoint
from conformance.models.fixtures import build_model, cache_length, fixture_config
from conformance.models.positions import reach, shorten_cache, table_end
from conformance.pipeline.stages import build_own

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
def test_reach_is_what_the_config_says(model_type: str, config: dict[str, Any], tokens: int | None, what: str) -> None:
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


@pytest.mark.torch
def test_table_ends_where_the_model_says_otherwise(offset: Path) -> None:
    model = load_model(read_checkpoint(offset, 64))
    assert table_end(model) == 63
    shorten_cache(model, 63)
    assert cache_length(model) == 63
    assert table_end(model) is None


@pytest.mark.torch
def test_cache_beyond_the_table_is_one_sentence(offset: Path) -> None:
    with pytest.raises(
        StageError, match="a cache of 64 tokens is longer than the model's table of 63 positions; take at"
    ):
        build_own(read_checkpoint(offset, 64))
    assert cache_length(build_own(read_checkpoint(offset, 63)).model) == 63
