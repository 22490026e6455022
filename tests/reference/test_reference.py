"""The reference wrapper and exporter by themselves."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import GenerationConfig

from conformance.core.contract import Mode
from conformance.decoding.oracle import Oracle
from conformance.models.fixtures import MAX_CACHE_LEN, build_model, fixture_config
from conformance.models.variations import Space, Variation, build
from conformance.reference import (
    ModelNotExportableError,
    TorchExportableModuleWithStaticCache,
    convert_and_export_with_cache,
)
from conformance.reference.activations import exact_activations, tanh_gelu
from conformance.reference.calling import CallingConvention, _conventions
from conformance.reference.complex_numbers import RealPairs
from conformance.reference.constants import use_known_numbers
from conformance.reference.masks import use_masked_fill
from conformance.reference.maxima import use_amax
from conformance.reference.slices import use_slices
from conformance.reference.transformers_api import cache_argument
from conformance.reference.weights import use_weights_as_stored
from tests.support.harness import judge


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


def test_model_is_left_as_it_was() -> None:
    model = build_model(fixture_config("mixtral"))
    model.train()
    model.model.layers[0].eval()
    before = _state(model)
    convert_and_export_with_cache(model)
    after = _state(model)
    for key in ("config", "experts", "attention", "generation", "training", "grad"):
        assert before[key] == after[key], key
    assert torch.equal(before["random"], after["random"])
    assert all(torch.equal(tensor, after["weights"][name]) for name, tensor in before["weights"].items())


def test_wrapper_decodes_without_being_exported() -> None:
    model = build_model(fixture_config("llama"))
    wrapper = TorchExportableModuleWithStaticCache(model, batch_size=2, max_cache_len=8)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        logits = wrapper(ids, torch.arange(3))
        expected = model(input_ids=ids, use_cache=False).logits
    assert logits.shape == (2, 3, 64)
    assert torch.allclose(logits, expected, atol=1e-4)


def test_state_that_overflowed_is_forgotten_at_0() -> None:
    model = build_model(fixture_config("lfm2"))
    wrapper = TorchExportableModuleWithStaticCache(model)
    with torch.no_grad():
        right = wrapper(torch.tensor([[3]]), torch.tensor([0])).clone()
        for name, buffer in wrapper.named_buffers():
            if "conv_states" in name:
                buffer.fill_(float("nan"))
        again = wrapper(torch.tensor([[3]]), torch.tensor([0]))
    assert torch.equal(right, again)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"use_cache": False}, "use_cache is False"),
        ({"cache_implementation": "dynamic"}, "'dynamic', not 'static'"),
        ({"cache_config": None}, "batch_size is not given"),
        ({"cache_config": {"batch_size": 1}}, "max_cache_len is not given"),
        ({"cache_config": {"batch_size": 0, "max_cache_len": 8}}, "batch_size is 0; it must be a positive integer"),
        ({"cache_config": {"batch_size": 1, "max_cache_len": -8}}, "max_cache_len is -8"),
        ({"cache_config": {"batch_size": True, "max_cache_len": 8}}, "batch_size is True"),
        ({"cache_config": {"batch_size": 1, "max_cache_len": 8.0}}, "max_cache_len is 8.0"),
    ],
)
def test_misconfigured_model_is_refused(change: dict[str, Any], told: str) -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = copy.deepcopy(model.generation_config)
    for name, value in change.items():
        setattr(model.generation_config, name, value)
    with pytest.raises(ModelNotExportableError) as caught:
        convert_and_export_with_cache(model)
    assert told in str(caught.value)


def test_model_without_generation_config_is_refused() -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = None  # type: ignore[assignment]  # which is what is wrong with it
    with pytest.raises(ModelNotExportableError, match="generation_config is None"):
        TorchExportableModuleWithStaticCache(model)


def test_arguments_win_over_the_cache_config() -> None:
    model = build_model(fixture_config("llama"))
    model.generation_config = GenerationConfig(use_cache=True, cache_implementation="static")
    wrapper = TorchExportableModuleWithStaticCache(model, batch_size=1, max_cache_len=4)
    assert wrapper.get_buffer("cache_0_keys").shape == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        ((torch.zeros(2, 1, dtype=torch.long), None), "example_input_ids"),
        ((torch.zeros(1, 1), None), "example_input_ids"),
        ((torch.zeros(1, 2, dtype=torch.long), torch.arange(3)), "example_cache_position"),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples: tuple[Any, Any], told: str) -> None:
    model = build_model(fixture_config("llama"))
    with pytest.raises(ModelNotExportableError, match=told):
        convert_and_export_with_cache(model, *examples)


@pytest.mark.parametrize(
    ("architecture", "first_position", "attention_mask", "integer_length"),
    [
        ("llama", None, False, False),  # told nothing, it reads nothing
        ("bert", 0, False, False),
        ("roberta", None, False, False),  # counts from its padding id + 1, without reading
        ("opt", 0, True, False),
        ("bart", None, True, False),
        ("trocr", None, False, True),  # takes no positions, and computes them from the cache's length
    ],
)
def test_convention_spares_the_model_reading_its_cache(
    architecture: str, first_position: int | None, attention_mask: bool, integer_length: bool
) -> None:
    convention = TorchExportableModuleWithStaticCache(build_model(fixture_config(architecture)))._convention
    assert convention == CallingConvention("past_key_values", first_position, attention_mask, integer_length)


def test_positions_that_change_the_logits_are_not_passed() -> None:
    wrapper = TorchExportableModuleWithStaticCache(build_model(fixture_config("bert")))
    conventions = list(_conventions(wrapper.model))
    assert CallingConvention(first_position=1) in conventions  # tried, and found to differ
    assert wrapper._convention.first_position == 0


def test_mamba_is_given_its_cache_by_its_own_name() -> None:
    assert cache_argument(build_model(fixture_config("mamba"))) == "cache_params"


def test_tanh_gelu_is_spelt_out_while_tracing_only() -> None:
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert torch.allclose(tanh_gelu(x), torch.nn.functional.gelu(x, approximate="tanh"), rtol=0, atol=1e-12)
    model = build_model(fixture_config("gemma3_text"))
    before = [module.act for module in model.modules() if hasattr(module, "act")]
    with exact_activations(model):
        assert [module.act for module in model.modules() if hasattr(module, "act")] == [tanh_gelu] * len(before)
    assert [module.act for module in model.modules() if hasattr(module, "act")] == before
    assert before


def test_complex_numbers_are_pairs_while_the_mode_lasts() -> None:
    def rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        unit = torch.polar(torch.ones_like(angles), angles) * 0.5
        numbers = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(numbers * unit[:, None].unsqueeze(0).to(numbers.device)).flatten(3)

    x, angles = torch.randn(1, 5, 2, 8), torch.randn(5, 4)
    with RealPairs():
        pairs = rotated(x, angles)
    torch.testing.assert_close(pairs, rotated(x, angles))
    with RealPairs(), pytest.raises(TypeError):
        torch.exp(torch.polar(angles, angles))


@pytest.mark.parametrize("architecture", ["deepseek_v2", "llama4_text"])
def test_program_has_no_complex_tensor(architecture: str) -> None:
    graph = convert_and_export_with_cache(build_model(fixture_config(architecture))).graph
    values = [node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    assert values
    assert not [value for value in values if value.is_complex()]


def test_maximum_whose_indices_are_not_read_is_amax() -> None:
    program = torch.export.export(_Maxima(), (torch.randn(1, 2, 3, 5),))
    use_amax(program)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.amax.default) == 1
    assert targets.count(torch.ops.aten.max.dim) == 1
    x = torch.randn(1, 2, 3, 5)
    for observed, expected in zip(program.module()(x), _Maxima()(x), strict=True):
        assert torch.equal(observed, expected)


def test_cutting_along_a_dynamic_first_dimension_is_slicing() -> None:
    seq = Dim("seq", min=2, max=8)
    program = torch.export.export(_Cuts(), (torch.randn(3, 6),), dynamic_shapes={"x": {0: seq}})
    use_slices(program)
    targets = {node.target for node in program.graph.nodes}
    assert not targets & {torch.ops.aten.chunk.default, torch.ops.aten.split_with_sizes.default}
    assert torch.ops.aten.split.Tensor in targets  # cut along the first dimension of the weight, which is static
    for rows in (2, 8):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(program.module()(x), _Cuts()(x))


def test_product_by_a_transposed_weight_is_linear() -> None:
    class CellSelector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight.T) @ x.new_ones(4, 5).T

    module, x = CellSelector().eval(), torch.randn(2, 3)
    program = torch.export.export(module, (x,))
    use_weights_as_stored(program)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.linear.default") == 1
    assert targets.count("aten.matmul.default") == 1
    torch.testing.assert_close(program.module()(x), module(x))


def test_product_of_a_weight_by_inputs_is_linear() -> None:
    class CellSelector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight @ x.transpose(1, 2)

    module, x = CellSelector().eval(), torch.randn(2, 4, 3)
    seq = torch.export.Dim("seq", min=1, max=8)
    program = torch.export.export(module, (x,), dynamic_shapes=({1: seq},))
    use_weights_as_stored(program)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "aten.matmul.default" not in targets
    for length in (1, 4, 8):
        x = torch.randn(2, length, 3)
        torch.testing.assert_close(program.module()(x), module(x))


def test_places_of_a_mask_are_filled() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x.clone()
            kept[x == 2] = 0
            kept[torch.arange(2)] = x[0]  # by index, which stays
            return kept

    x = torch.tensor([[1, 2], [2, 3], [2, 2]])
    program = torch.export.export(Masked(), (x,))
    use_masked_fill(program)
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.aten.masked_fill_.Tensor in targets
    assert targets.count(torch.ops.aten.index_put_.default) == 1
    assert torch.equal(program.module()(x), Masked()(x))


@pytest.mark.parametrize("same", [True, False])
def test_convolution_takes_its_weight_as_it_is_stored(same: bool) -> None:
    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 1 if same else 2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight[:, 0].unsqueeze(1)
            return nn.functional.conv1d(x, weight, groups=4)

    module, x = Short().eval(), torch.randn(1, 4, 5)
    program = torch.export.export(module, (x,))
    use_weights_as_stored(program)
    (node,) = (node for node in program.graph.nodes if "conv1d" in str(node.target))
    assert (node.args[1].op == "placeholder") is same
    torch.testing.assert_close(program.module()(x), module(x))


def test_inverse_error_function_of_a_constant_is_a_number() -> None:
    x = torch.tensor(0.25)
    program = torch.export.export(_Quantiles(), (x,))
    use_known_numbers(program)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.erfinv.default) == 1  # of the input
    torch.testing.assert_close(program.module()(x), _Quantiles()(x))


@pytest.mark.parametrize(
    ("architecture", "clause"),
    [("qwen3_next", "EXP-5"), ("kimi_linear", "EXP-5"), ("mamba2", "PAR-2"), ("nemotron_h", "PAR-2")],
)
def test_recurrences_take_chunks_of_any_length(architecture: str, clause: str) -> None:
    kernels = {name: dict(vars(sys.modules[name])) for name in _own_modules(architecture)}
    judge(clause, architecture, convert_and_export_with_cache, mode=Mode.DYNAMIC)
    for name, before in kernels.items():
        assert dict(vars(sys.modules[name])) == before, "a kernel was left replaced"


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_dynamic_rotary_embedding_is_a_fixed_one_where_the_cache_is_short_enough(architecture: str) -> None:
    rope = Space(architecture).settled({"rope kind": "dynamic"})
    model = build(architecture, Variation(rope))
    (kinds,) = (module.rope_type for module in model.modules() if hasattr(module, "rope_type"))
    judge("PAR-6", architecture, convert_and_export_with_cache, mode=Mode.DYNAMIC, make_model=lambda _: model)
    (after,) = (module.rope_type for module in model.modules() if hasattr(module, "rope_type"))
    assert after is kinds
    assert "dynamic" in str(kinds)


class _Maxima(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x - x.max(dim=-1, keepdim=True).values, x.max(dim=2).indices


class _Cuts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        one, other = x.split([2, 4], dim=1)
        first, _ = torch.arange(6.0).split(3)
        return torch.cat([gate * up * first, one, other], dim=-1)


class _Quantiles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantile: torch.Tensor = torch.distributions.Normal(0, 1).icdf(torch.tensor(0.95))
        return quantile + torch.erfinv(x)


def _own_modules(architecture: str) -> set[str]:
    return {type(module).__module__ for module in build_model(fixture_config(architecture)).modules()}
