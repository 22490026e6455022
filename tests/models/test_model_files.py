"""What a directory holds in place of a model is named before torch is imported, and so is what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from conformance.models.checkpoints import read_checkpoint
from tests.support.messages import refused

pytestmark = pytest.mark.torch  # `transformers` and `safetensors` come with it

_CONFIG: dict[str, Any] = {"model_type": "llama", "max_position_embeddings": 64, "num_hidden_layers": 1}
_NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight")
_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_INDEX = dict(zip(_NAMES, (_SHARDS[0], _SHARDS[0], _SHARDS[1]), strict=True))


def _tensors(path: Path, *names: str) -> None:
    save_file({name: np.ones(2, np.float32) for name in names}, path)


def _config(directory: Path, **changes: object) -> None:
    values = {key: value for key, value in {**_CONFIG, **changes}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(values))


def _index(directory: Path, index: dict[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A config and the weights in one file."""
    _config(tmp_path)
    _tensors(tmp_path / "model.safetensors", *_NAMES)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A config and the weights in two files."""
    _config(tmp_path)
    _index(tmp_path, _INDEX)
    _tensors(tmp_path / _SHARDS[0], *_NAMES[:2])
    _tensors(tmp_path / _SHARDS[1], *_NAMES[2:])
    return tmp_path


def _problem(code: str, path: Path) -> str:
    with refused(code) as caught:
        read_checkpoint(path, 16)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "consolidated.00.pth",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "model.pte",
        "decoder_model.onnx",
    ],
)
def test_other_formats_are_named(tmp_path: Path, name: str, *, with_config: bool) -> None:
    if with_config:
        _config(tmp_path)
    (tmp_path / name).write_bytes(b"?")
    assert name in _problem("no-weights" if with_config else "not-a-model", tmp_path)


@pytest.mark.parametrize("place", ["", "model.gguf"])
def test_gguf_names_the_packages_that_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("conformance.models.checkpoints.importlib.util.find_spec", lambda name: None)
    _problem("missing-package", tmp_path / place)


def test_one_of_several_gguf_files_is_asked_for(tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    _problem("not-a-model", tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.pte", "model.bin", "notes.txt"])
def test_a_file_is_not_a_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"?")
    _problem("not-a-model", tmp_path / name)


def test_folder_of_checkpoints_names_the_last(whole: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for step in (500, 1000):
        shutil.copytree(whole, runs / f"checkpoint-{step}", ignore=shutil.ignore_patterns("runs"))
    assert f"pass {runs / 'checkpoint-1000'}" in _problem("not-a-model", runs)


def test_folder_of_the_hubs_cache_names_its_snapshot(whole: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--org--own"
    snapshot = cache / "snapshots" / "0123abc"
    shutil.copytree(whole, snapshot, ignore=shutil.ignore_patterns("models--*"))
    assert _problem("not-a-model", cache).endswith(f"pass {snapshot}")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_type": None}, "no-model-type"),
        ({"model_type": "t5"}, "not-causal"),
        ({"model_type": "clip"}, "not-causal"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "own", "auto_map": {"AutoModel": "modeling_own.Own"}}, "model-is-code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already-quantised"),
        ({"text_config": {"quantization_config": {}, "model_type": "llama"}}, None),
    ],
)
def test_config_is_of_a_decoder_of_floats(whole: Path, changes: dict[str, object], code: str | None) -> None:
    _config(whole, **changes)
    if code is None:
        read_checkpoint(whole, 16)
    else:
        _problem(code, whole)


def test_code_beside_a_known_model_is_not_run(whole: Path) -> None:
    _config(whole, auto_map={"AutoModelForCausalLM": "org/repo--modeling_own.Own"})
    assert read_checkpoint(whole, 16).notes == (
        "config.json names code (modeling_own.py), which is not run; Transformers' own llama is used",
    )


def _cut(directory: Path) -> None:
    path = directory / _SHARDS[1]
    path.write_bytes(path.read_bytes()[:-1])


def _pointer(directory: Path) -> None:
    (directory / _SHARDS[0]).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda directory: (directory / _SHARDS[1]).unlink(), "incomplete-weights"),
        (lambda directory: _index(directory, {**_INDEX, "model.more": _SHARDS[0]}), "incomplete-weights"),
        (lambda directory: _index(directory, dict.fromkeys(_NAMES[:2], _SHARDS[0])), "unread-weights"),
        (
            lambda directory: _index(directory, dict.fromkeys(_NAMES, "../other.safetensors")),
            "invalid-weight-index",
        ),
        (lambda directory: _index(directory, {}), "invalid-weight-index"),
        (_cut, "damaged-weights"),
        (_pointer, "damaged-weights"),
    ],
)
def test_shards_are_all_there(sharded: Path, damage: Callable[[Path], None], code: str) -> None:
    assert read_checkpoint(sharded, 16).weight_bytes > 0
    damage(sharded)
    _problem(code, sharded)


def test_weights_that_are_not_read_are_named(sharded: Path) -> None:
    _tensors(sharded / "consolidated.safetensors", "layers.0.attention.wq.weight")
    _tensors(sharded / "backup.safetensors", *_NAMES[:1])
    assert read_checkpoint(sharded, 16).notes == (
        f"backup.safetensors, consolidated.safetensors: not read; Transformers reads {', '.join(_SHARDS)}",
    )


def test_adapter_alone_names_its_base(tmp_path: Path) -> None:
    values = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    for _ in range(2):  # without a config, as peft saves it, and with one
        _problem("adapter-alone", tmp_path)
        _config(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_part_of_an_adapter_beside_a_model_is_not_ignored(whole: Path, name: str) -> None:
    (whole / name).write_text("{}")
    _problem("adapter-not-merged", whole)


def test_adapter_below_a_model_is_named(whole: Path) -> None:
    (whole / "vision-lora").mkdir()
    (whole / "vision-lora" / "adapter_config.json").write_text("{}")
    assert read_checkpoint(whole, 16).notes == (
        "vision-lora: an adapter in a folder below the model, which is not applied",
    )


@pytest.mark.parametrize(
    ("changes", "replaced"),
    [
        ({"_attn_implementation": "flash_attention_2"}, {"attn_implementation": "flash_attention_2"}),
        (
            {"attn_implementation": "kernels-community/flash-attn3"},
            {"attn_implementation": "kernels-community/flash-attn3"},
        ),
        ({"attn_implementation": {"": "flex_attention"}}, {"attn_implementation": '{"": "flex_attention"}'}),
        ({"experts_implementation": "deepgemm"}, {"experts_implementation": "deepgemm"}),
        ({"use_kernels": True}, {"use_kernels": "true"}),
        ({"text_config": {"_attn_implementation": "flash_attention_3"}}, {"attn_implementation": "flash_attention_3"}),
        ({"attn_implementation": "eager"}, {}),
        ({"attn_implementation": "sdpa", "use_kernels": False}, {}),
    ],
)
def test_what_computes_it_is_torch_alone(whole: Path, changes: dict[str, object], replaced: dict[str, str]) -> None:
    _config(whole, **changes)
    checkpoint = read_checkpoint(whole, 16)
    assert checkpoint.replaced == replaced
    kept = json.dumps(dict(checkpoint.values))
    assert not any(value in kept for value in ("flash", "flex", "deepgemm", "true"))


def test_model_larger_than_memory_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_checkpoint(whole, 16, "float32").notes == ()
    monkeypatch.setattr("conformance.models.checkpoints.os.sysconf", lambda name: 1)
    (note,) = read_checkpoint(whole, 16, "float32").notes
    assert "GiB in float32, and this machine has" in note
