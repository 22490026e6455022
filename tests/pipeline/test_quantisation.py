"""What a program is made of is found by content; what quantising costs is measured against the float model."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from conformance.cli.export_model import export_for_runner
from conformance.cli.quantised import cost_lines, quantised_lines, refusal
from conformance.core.cells import BackendTraits, Selection, plan
from conformance.core.contract import CHECKED, Mode
from conformance.core.verdicts import ClauseViolationError, NotRunError
from conformance.decoding.custom_operators import QUANTISED, register_operators_of
from conformance.decoding.fidelity import EQUAL_DB, fidelity, own_text
from conformance.decoding.scripts import Vocabulary
from conformance.exporters.resolve import Exporter
from conformance.pipeline.backends import BACKENDS, quantised
from conformance.pipeline.builder import Builder
from conformance.pipeline.quantisable import EightBitExperts, quantise_experts, use_linear
from conformance.pipeline.quantisation import EMBEDDING, quantisation_record
from conformance.records.run import FloatWeight, QuantisationRecord
from conformance.reference import convert_and_export_with_cache
from tests.faults import lowerings
from tests.support.harness import judge, one_layer

pytestmark = pytest.mark.torch

_REFERENCE = Exporter("reference", convert_and_export_with_cache)


class _Model(nn.Module):
    """An embedding, a product by a weight, and products by the slices of a weight of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.linear = nn.Linear(8, 12, bias=False)
        self.experts = nn.Parameter(torch.randn(3, 12, 4))
        self.unread = nn.Parameter(torch.randn(5, 7))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.linear(self.embedding(tokens)), self.experts)


class _Integers(nn.Module):
    """What stands for a weight: integers of 8 bits, multiplied out when they are used."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", (weight * 10).round().to(torch.int8))

    @property
    def weight(self) -> torch.Tensor:
        values: Any = self.values
        product: torch.Tensor = values.float() / 10
        return product

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight.t()


class _Sliced(nn.Module):
    """The same model with each slice of its experts as a tensor of its own, made by `keep`."""

    def __init__(self, model: _Model, keep: Callable[[torch.Tensor], nn.Module]) -> None:
        super().__init__()
        self.embedding, self.linear = model.embedding, model.linear
        self.slices = nn.ModuleList(keep(part) for part in model.experts.detach())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.linear(self.embedding(tokens))
        weights: list[Any] = [part.weight for part in self.slices]
        return torch.stack([hidden[0] @ weight for weight in weights])


def _as_linear(weight: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(4, 12, bias=False)
    linear.weight = nn.Parameter(weight.clone())
    return linear


def _record(model: nn.Module, changed: nn.Module, group_size: int | None = None) -> QuantisationRecord:
    return quantisation_record(model, torch.export.export(changed, (torch.tensor([[1, 2]]),)), group_size)


def _kept(made: QuantisationRecord) -> dict[str, str]:
    return {each.name: each.why for each in made.kept}


def test_what_keeps_its_numbers_is_not_quantised() -> None:
    made = _record(model := _Model(), copy.deepcopy(model))
    assert (made.products, made.quantised, made.share) == (2, 0, 0.0)
    assert made.product_bytes == 4 * (8 * 12 + 3 * 12 * 4)
    assert [each.name for each in made.kept] == ["experts", "embedding.weight", "linear.weight"]
    assert _kept(made) == {
        "experts": "a parameter of 3 dimensions",
        "embedding.weight": "an embedding",
        "linear.weight": "",
    }
    assert _kept(_record(model, model, 32))["linear.weight"] == "width 8 is not a multiple of 32"


def test_integers_are_quantised_weights() -> None:
    changed = copy.deepcopy(model := _Model())
    changed.linear = _Integers(model.linear.weight.detach())  # type: ignore[assignment]
    made = _record(model, changed)
    assert (made.products, made.quantised, made.quantised_bytes) == (2, 1, 4 * 8 * 12)
    assert set(_kept(made)) == {"experts", "embedding.weight"}


@pytest.mark.parametrize(("keep", "quantised"), [(_as_linear, 0), (_Integers, 1)])
def test_slices_count_as_their_weight(keep: Callable[[torch.Tensor], nn.Module], quantised: int) -> None:
    made = _record(model := _Model(), _Sliced(model, keep))
    assert made.quantised == quantised
    assert ("experts" in _kept(made)) is (not quantised)


def test_changed_numbers_that_are_not_integers_are_not_quantised() -> None:
    changed = copy.deepcopy(model := _Model())
    with torch.no_grad():
        changed.linear.weight.copy_((changed.linear.weight * 10).round() / 10)
    made = _record(model, changed)
    assert made.quantised == 0
    assert _kept(made)["linear.weight"] == "its numbers have changed and are not integers"


def test_a_narrower_dtype_is_not_quantisation() -> None:
    made = _record(model := _Model(), copy.deepcopy(model).half())
    assert made.quantised == 0
    assert {each.dtype for each in made.kept} == {"float16"}
    assert made.kept[0].size == 2 * 3 * 12 * 4


def test_a_tied_embedding_and_its_projection_are_distinguished() -> None:
    embedding, projection = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
    projection.weight = embedding.weight
    model = nn.Sequential(embedding, projection)
    assert _kept(_record(model, copy.deepcopy(model))) == {"0.weight": "an embedding", "1.weight": ""}
    changed = nn.Sequential(copy.deepcopy(embedding), _Integers(embedding.weight.detach()))
    made = _record(model, changed)
    assert (made.products, made.quantised) == (1, 1)
    assert _kept(made) == {"0.weight": "an embedding"}
    assert made.model_bytes == 4 * 16 * 8


@pytest.mark.parametrize("inputs", [-1, -2])
def test_experts_of_8_bits_are_near_their_weights(inputs: int) -> None:
    weight = torch.randn(4, 6, 8)
    chosen = torch.tensor([[2, 0]])
    experts = EightBitExperts(weight, inputs)
    step = weight.abs().amax(dim=inputs, keepdim=True) / 127
    assert experts.values.dtype is torch.int8
    assert experts[chosen].shape == (1, 2, 6, 8)
    assert bool(((experts[chosen] - weight[chosen]).abs() <= 0.51 * step[chosen]).all())


def test_conv1d_becomes_the_same_linear() -> None:
    model = nn.Sequential(Conv1D(6, 4))
    expected = model(inputs := torch.randn(2, 4))
    use_linear(model)
    assert isinstance(model[0], nn.Linear)
    torch.testing.assert_close(model(inputs), expected)


def _small(kind: str, **changes: Any) -> PreTrainedModel:
    keys = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 40,
    }
    config = AutoConfig.for_model(kind, **{**keys, "num_key_value_heads": 2, "head_dim": 8, **changes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.cache_implementation = "static"
    model.generation_config.cache_config = {"batch_size": 1, "max_cache_len": 8}
    return model


def test_experts_of_a_model_are_quantised() -> None:
    model = _small("mixtral", num_local_experts=4, num_experts_per_tok=2)
    quantise_experts(changed := copy.deepcopy(model))
    names = [name for name, module in changed.named_modules() if isinstance(module, EightBitExperts)]
    assert [name.rpartition(".")[2] for name in names] in ([], ["gate_up_proj", "down_proj"])  # none in 4.57
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected, observed = (each(tokens).logits for each in (model, changed))
    assert float((expected - observed).abs().max()) < 0.05 * float(expected.abs().max())


def test_export_refuses_what_quantises_nothing() -> None:
    model = _small("llama")
    with pytest.raises(NotRunError) as caught:
        export_for_runner(model, BACKENDS["xnnpack-8da4w"], Mode.DECODE)
    assert str(caught.value) == (
        "xnnpack-8da4w quantised none of 8 weights of matrix products: width 16 is not a multiple of 32, width 24 is "
        "not a multiple of 32; --backend xnnpack-8da8w takes any width"
    )


_MADE = QuantisationRecord(
    products=8,
    product_bytes=520 << 10,
    quantised=7,
    quantised_bytes=412 << 10,
    model_bytes=628 << 10,
    kept=(
        FloatWeight("model.embed_tokens.weight", "float32", 108 << 10, "an embedding"),
        *(FloatWeight(f"model.layers.{n}.w", "float32", 27 << 10) for n in range(4)),
    ),
)


def test_two_lines_say_what_was_quantised() -> None:
    assert list(quantised_lines(_MADE, 3 << 19)) == [
        "quantised: 7 of 8 weights of matrix products, 412.0 KiB of 520.0 KiB; 628.0 KiB of parameters became 1.5 MiB "
        "of constants",
        "not quantised: model.embed_tokens.weight, 108.0 KiB of float32, an embedding; model.layers.0.w, 27.0 KiB of "
        "float32; model.layers.1.w, 27.0 KiB of float32; and 2 more, 54.0 KiB",
    ]
    metrics = {"float_sqnr_db": 24.2, "greedy_agreement": 0.93, "perplexity_float": 31.2, "perplexity_quantised": 33}
    assert list(cost_lines(metrics)) == [
        "against float32: 24 dB of signal over noise, greedy tokens agree at 93% of positions, perplexity 31.2 -> 33.0"
    ]
    assert list(cost_lines({})) == []


def test_only_a_backend_that_quantises_is_held_to_it() -> None:
    none = dataclasses.replace(_MADE, quantised=0, quantised_bytes=0, kept=())
    assert refusal(_MADE, BACKENDS["xnnpack-8da8w"]) == ""
    assert refusal(none, BACKENDS["xnnpack-fp16"]) == ""
    assert refusal(none, BACKENDS["xnnpack-8da8w"]).endswith(
        "products; leave out the quantisation with --backend xnnpack"
    )
    selection = Selection(
        ["llama"], ["reference"], [BackendTraits("a", delegating=True), BACKENDS["xnnpack-8da4w"].traits], CHECKED
    )
    assert {cell.backend for cell in plan(selection) if cell.clause == "LOW-11"} == {"xnnpack-8da4w"}


def _oracle(rows: torch.Tensor) -> Any:
    """Of a model whose logits depend on the last token alone."""
    vocabulary = Vocabulary(len(rows), left_out=(2,))
    return SimpleNamespace(logits=lambda prefix: rows[prefix[-1]].clone(), vocabulary=vocabulary, max_cache_len=64)


def test_fidelity_is_measured_on_a_text_of_the_model_itself() -> None:
    rows = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    rows[:, 5] += 3
    exact = _oracle(rows)
    text = own_text(exact)
    assert text == own_text(exact)
    assert len(text) == 64
    assert 2 not in text
    assert text.count(5) > 32
    same = fidelity(exact, exact)
    assert (same.sqnr_db, same.greedy_agreement) == (EQUAL_DB, 1.0)
    assert same.perplexity_float == same.perplexity_rounded
    assert fidelity(exact, _oracle(rows + 100)).sqnr_db > 90  # what all logits have in common is no noise
    assert fidelity(exact, _oracle(-rows)).sqnr_db == pytest.approx(-6.0, abs=0.1)
    flat = fidelity(exact, _oracle(torch.zeros_like(rows)))
    assert flat.perplexity_rounded == pytest.approx(6.0)
    assert flat.perplexity_rounded > flat.perplexity_float


def test_the_cost_for_a_checkpoint_is_reported_and_only_nonsense_fails() -> None:
    backends = {backend.name: backend for backend in (lowerings.SCALES_TOO_LARGE,)}
    case = judge(
        "LOW-11",
        "llama",
        convert_and_export_with_cache,
        backend="scales-too-large",
        backends=backends,
        is_checkpoint=True,
    )
    assert 0 < case.metrics["float_sqnr_db"] < 20
    assert case.metrics["perplexity_quantised"] != case.metrics["perplexity_float"]
    assert case.measured["quantisation"].share == 1.0
    nonsense = dataclasses.replace(lowerings.SCALES_TOO_LARGE, prepare=lowerings.with_scales_times(3.0))
    with pytest.raises(ClauseViolationError, match="at least 0 dB") as caught:
        judge(
            "LOW-11",
            "llama",
            convert_and_export_with_cache,
            backend="nonsense",
            backends={"nonsense": nonsense},
            is_checkpoint=True,
        )
    assert caught.value.signature == "lower:far-from-float"


def test_pt2e_quantises_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    judge("LOW-11", "llama", convert_and_export_with_cache, backend="xnnpack-pt2e", make_model=one_layer)
    monkeypatch.setattr(quantised, "_adds_a_mask", lambda node: False)
    with pytest.raises(ClauseViolationError) as caught:
        judge("LOW-11", "llama", convert_and_export_with_cache, backend="xnnpack-pt2e", make_model=one_layer)
    assert caught.value.signature == "lower:far-from-float"


@pytest.mark.parametrize(
    ("name", "lookup"),
    [("xnnpack-8da4w-embeddings", "embedding_4bit"), ("xnnpack-8da4w-embeddings8", "embedding_byte")],
)
def test_quantised_embeddings_are_looked_up_as_integers(name: str, lookup: str) -> None:
    builder = Builder({_REFERENCE.name: _REFERENCE}, build=one_layer)
    case = judge("LOW-11", "llama", _REFERENCE, backend=name, builder=builder)
    assert EMBEDDING not in {each.why for each in case.measured["quantisation"].kept}
    assert f"quantized_decomposed::{lookup}.out" in case.artifact.emission.operators
    assert "aten::embedding.out" not in case.artifact.emission.operators
    judge("LOW-12", "llama", _REFERENCE, backend=name, builder=builder)
    judge("PAR-1", "llama", _REFERENCE, backend=name, builder=builder)


def test_without_their_library_quantised_embeddings_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, QUANTISED.module, None)
    with pytest.raises(NotRunError, match="no library of the operators quantized_decomposed::embedding_byte"):
        register_operators_of(b"..aten::add..quantized_decomposed::embedding_4bit..")
