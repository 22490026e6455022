"""All of a checkpoint's weights are loaded, or what is left out is refused or named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from conformance.models.checkpoints import load_model, read_checkpoint
from conformance.models.fixtures import fill_weights, fixture_config
from conformance.models.loading import Loaded, load_checkpoint
from tests.support.messages import refused

pytestmark = pytest.mark.torch

Tensors = dict[str, torch.Tensor]
_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "vocab_size": 24,
    "tie_word_embeddings": True,
}
_UP, _NORM, _EMBEDDING = "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"


def _saved(directory: Path, model_type: str = "llama", **changes: object) -> Path:
    config = AutoConfig.for_model(model_type, **{**_SIZES, **changes})
    return _save(AutoModelForCausalLM.from_config(config), directory)


def _save(model: PreTrainedModel, directory: Path) -> Path:
    fill_weights(model)
    model.tie_weights()
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with tied embeddings."""
    return _saved(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def model_dir(base: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "model"))


def _edit(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def _change(directory: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrite the weights; `change` edits them in place."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def _load(directory: Path, dtype: str = "float32") -> Loaded:
    return load_checkpoint(read_checkpoint(directory, 16, dtype))


def _problem(code: str, directory: Path, dtype: str = "float32") -> str:
    checkpoint = read_checkpoint(directory, 16, dtype)
    with refused(code) as caught:
        load_checkpoint(checkpoint)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    return message


def test_whole_checkpoint_has_nothing_to_say(base: Path) -> None:
    loaded = _load(base)
    assert loaded.notes == ()
    assert type(loaded.model) is type(load_model(read_checkpoint(base, 16)))
    for name, tensor in load_file(base / "model.safetensors").items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("kind", "saved_with", "config"),
    [
        ("llama", {"attention_bias": True}, {"attention_bias": None}),
        ("llama", {"attention_bias": True, "mlp_bias": True}, {"attention_bias": False, "mlp_bias": None}),
        ("llama", {}, {"num_hidden_layers": 1}),
        ("llama", {}, {"num_hidden_layers": 3}),
        ("llama", {}, {"attention_bias": True}),
        ("llama", {}, {"tie_word_embeddings": False}),
        ("llama", {}, {"intermediate_size": 64}),
        ("qwen3", {}, {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}),
    ],
)
def test_config_that_does_not_describe_the_weights(
    tmp_path: Path, kind: str, saved_with: dict[str, object], config: dict[str, object]
) -> None:
    directory = _saved(tmp_path / "model", kind, **saved_with)
    _edit(directory, **config)
    _problem("weights-do-not-fit", directory)


def _scaled(name: str, value: float) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[3] = value

    return change


@pytest.mark.parametrize(
    ("change", "dtype", "code"),
    [
        (lambda tensors: tensors.pop(_UP), "float32", "weights-do-not-fit"),
        (
            lambda tensors: tensors.update({"score.weight": torch.ones(2, 16)}),
            "auto",
            "weights-do-not-fit",
        ),
        (
            lambda tensors: tensors.update({"lm_head.weight": tensors[_EMBEDDING] + 1}),
            "float32",
            "tied-weights-differ",
        ),
        (_scaled(_UP, float("nan")), "float32", "weights-not-finite"),
        (_scaled(_NORM, float("-inf")), "bfloat16", "weights-not-finite"),
        (_scaled(_UP, 1e6), "float16", "weights-not-finite"),
    ],
)
def test_weights_that_make_another_model(
    model_dir: Path, change: Callable[[Tensors], object], dtype: str, code: str
) -> None:
    _change(model_dir, change)
    _problem(code, model_dir, dtype)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of four experts, which Transformers stacks when it loads them."""
    more: dict[str, object] = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "decoder_sparse_step": 1,
    }
    more |= {"num_hidden_layers": 1, "head_dim": 8, "mlp_only_layers": []}
    return _saved(tmp_path_factory.mktemp("experts") / "moe", "qwen3_moe", **more)


_EXPERT = "model.layers.0.mlp.experts.{}.{}_proj.weight"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda tensors: tensors.pop(_EXPERT.format(2, "up")), "model-not-loaded"),
        (
            lambda tensors: [tensors.pop(_EXPERT.format(3, kind)) for kind in ("up", "gate", "down")],
            "weights-do-not-fit",
        ),
        (
            lambda tensors: tensors.update({"model.layers.0.mlp.experts.1.up_proj.bias": torch.ones(8)}),
            "weights-do-not-fit",
        ),
    ],
)
def test_experts_are_all_there(experts: Path, tmp_path: Path, change: Callable[[Tensors], object], code: str) -> None:
    assert _load(experts).notes == ()
    directory = Path(shutil.copytree(experts, tmp_path / "model"))
    _change(directory, change)
    _problem(code, directory)


def _old_buffers(tensors: Tensors) -> None:
    """As releases before 4.40 saved them."""
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors[f"model.layers.{layer}.self_attn.masked_bias"] = torch.tensor(-1e4)
        tensors[f"model.layers.{layer}.self_attn.bias"] = torch.ones(1, 1, 32, 32)
    tensors["model.position_ids"] = torch.arange(32)
    tensors["model.embed_tokens.mask"] = torch.ones(32, dtype=torch.bool)


@pytest.mark.parametrize(
    "change",
    [
        _old_buffers,
        lambda tensors: tensors.update({"lm_head.weight": tensors[_EMBEDDING].clone()}),
        lambda tensors: tensors.update({name: tensor.double() for name, tensor in tensors.items()}),
    ],
)
def test_nothing_is_lost_where_no_weight_is(base: Path, model_dir: Path, change: Callable[[Tensors], object]) -> None:
    _change(model_dir, change)
    loaded, plain = _load(model_dir), _load(base)
    assert loaded.notes == ()
    assert all(map(torch.equal, loaded.model.parameters(), plain.model.parameters()))


def test_class_that_is_loaded_is_not_the_one_saved(model_dir: Path) -> None:
    _edit(model_dir, architectures=["LlamaForSequenceClassification"])
    assert _load(model_dir).notes == ()
    _change(model_dir, lambda tensors: tensors.update({"score.weight": torch.ones(2, 16)}))
    _problem("weights-do-not-fit", model_dir)


@pytest.mark.parametrize("layer", [2, 3])
def test_layer_that_predicts_more_tokens_is_named(model_dir: Path, layer: int) -> None:
    """The config says that there is one, after the two of the decoder."""
    _edit(model_dir, num_nextn_predict_layers=1)
    name = f"model.layers.{layer}.eh_proj.weight"
    _change(model_dir, lambda tensors: tensors.update({name: torch.ones(16, 16)}))
    if layer == 2:
        assert _load(model_dir).notes == ("left out: 1 tensor of model.layers.2, which LlamaForCausalLM does not have",)
    else:
        _problem("weights-do-not-fit", model_dir)


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text and vision, of which Transformers loads the text decoder alone."""
    config: Any = fixture_config("mllama")
    vision = config.vision_config
    for name, value in {
        "hidden_size": 16,
        "intermediate_size": 16,
        "attention_heads": 2,
        "num_hidden_layers": 1,
    }.items():
        setattr(vision, name, value)
    vision.num_global_layers = 1
    model = AutoModelForImageTextToText.from_config(config)
    directory = tmp_path_factory.mktemp("multimodal") / "mllama"
    model.save_pretrained(directory)
    return directory


def test_a_vision_tower_is_left_out_and_named(multimodal: Path, tmp_path: Path) -> None:
    (note,) = _load(multimodal).notes
    assert note.startswith("left out: ")
    assert note.endswith("tensors of multi_modal_projector, vision_model, which MllamaForCausalLM does not have")
    directory = Path(shutil.copytree(multimodal, tmp_path / "more"))
    name = "language_model.model.layers.0.self_attn.q_proj.bias"
    _change(directory, lambda tensors: tensors.update({name: torch.ones(16)}))
    assert "q_proj.bias" in _problem("weights-do-not-fit", directory)


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({"_attn_implementation": "flash_attention_2"}, ("attn_implementation flash_attention_2", "replaced by sdpa")),
        ({"attn_implementation": "kernels-community/flash-attn3"}, ("flash-attn3", "replaced by sdpa")),
        ({"attn_implementation": "eager"}, ()),
        ({"experts_implementation": "nowhere"}, ("experts_implementation nowhere",)),
        ({"use_kernels": True}, ("use_kernels true", "left out")),
    ],
)
def test_implementation_that_is_not_here_is_replaced(
    model_dir: Path, changes: dict[str, object], notes: tuple[str, ...]
) -> None:
    _edit(model_dir, **changes)
    loaded = _load(model_dir)
    assert loaded.model.config._attn_implementation in ("sdpa", *changes.values())
    assert len(loaded.notes) == bool(notes)
    for part in notes:
        assert part in loaded.notes[0]


@pytest.mark.parametrize("is_decoder", [False, True])
def test_an_encoder_is_refused(tmp_path: Path, *, is_decoder: bool) -> None:
    sizes = {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"}
    config = AutoConfig.for_model("bert", **sizes, is_decoder=is_decoder)
    directory = _save(AutoModelForCausalLM.from_config(config), tmp_path / "bert")
    if is_decoder:
        assert _load(directory).notes == ()
    else:
        _problem("not-causal", directory)


def _write_adapter(directory: Path, *, layer: int = 1) -> Tensors:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": ["up_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number in {0, 1, layer}:
        name = f"base_model.model.model.layers.{number}.mlp.up_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, 16, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(32, 2, generator=generator)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    return tensors


def test_adapter_without_peft_is_refused(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_adapter(model_dir)
    monkeypatch.setattr("conformance.models.checkpoints.has_peft", lambda: False)
    with refused("adapter-not-merged"):
        read_checkpoint(model_dir, 16)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_adapter_is_merged_whole(model_dir: Path) -> None:
    tensors = _write_adapter(model_dir)
    loaded = _load(model_dir)
    assert loaded.notes == ("the LORA adapter beside the model is merged into it, 4 tensors, by peft",)
    name = f"base_model.model.{_UP.removesuffix('.weight')}"
    merged = load_file(model_dir / "model.safetensors")[_UP]
    merged += 3 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    torch.testing.assert_close(loaded.model.state_dict()[_UP], merged, rtol=1e-4, atol=1e-4)
    assert sorted(loaded.model.state_dict()) == sorted(
        AutoModelForCausalLM.from_config(loaded.model.config).state_dict()
    )
    _write_adapter(model_dir, layer=7)
    _problem("adapter-not-merged", model_dir)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gguf", "accelerate"))), reason="gguf or accelerate is not installed"
)
@pytest.mark.parametrize("quantised", [False, True])
def test_gguf_is_the_same_model(tmp_path: Path, *, quantised: bool) -> None:
    import gguf

    directory = _saved(tmp_path / "plain", hidden_size=64, intermediate_size=64, num_hidden_layers=1)
    plain = _load(directory).model
    config: Any = plain.config
    path = tmp_path / "own model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in plain.named_parameters():
        weight = parameter.detach().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp has the halves of rotary embeddings in turns
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape).copy()
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and "mlp" in name else gguf.GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, (".weight",)), gguf.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    checkpoint = read_checkpoint(path, 16, "float32")
    assert (checkpoint.name, checkpoint.context, checkpoint.model_type) == ("own-model", 32, "llama")
    loaded = load_checkpoint(checkpoint)
    assert len(loaded.notes) == quantised
    tokens = torch.arange(3, 13)[None]
    error = (loaded.model(tokens).logits - plain(tokens).logits).abs().max() / plain(tokens).logits.abs().max()
    assert 1e-4 < error < 0.1 if quantised else error < 1e-5
    assert not hasattr(loaded.model, "hf_quantizer")
