"""XNNPACK with 8-bit activations and weights of 4 or 8 bits, quantised by torchao or on the exported program (PT2E).

Lowering is judged here, not quantisation: the oracle is the quantised model itself, run by torch. LOW-11 compares that
with the float model.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from conformance.pipeline.backends import xnnpack
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend, Precision, Quantisation
from conformance.pipeline.backends.recipes import in_place_emission

#: XNNPACK takes 4-bit weights in groups of a multiple of 32 only.
_GROUP_SIZE = 32
#: Over 9,216 calls (6 architectures, 24 texts, both torchao recipes) correct programs are at 118 dB or above, and at
#: most 7 perturbed oracles are needed; a script that rewinds three times (gemma3_text) holds more ties and needs more
#: than 16. The oracle alone gives 28.9 dB at a tie. Faults: a zeroed, shifted or swapped cache is at 13 dB or below, an
#: exact GELU for a tanh one at 32 to 50 dB, and below 100 dB in 121 of 128 calls.
AS_TORCH_DOES = Precision(least_sqnr=100.0, perturbation_std=1e-6, max_perturbed_oracles=64, tie_margin=1e-3)
#: Operators of one tensor, which change its shape or dtype alone.
_HANDING_ON = frozenset({"alias", "clone", "expand", "slice", "to", "unsqueeze", "view", "_to_copy"})
_TORCHAO = ("torchao>=0.17",)


def with_4_bit_weights(model: Any) -> Any:
    """A copy with 4-bit weights in groups and 8-bit activations, quantised anew for each token.

    Scales are bfloat16, as XNNPACK holds them: ExecuTorch's serialiser narrows them whatever they were
    (`get_quant_params` in backends/xnnpack/operators/node_visitor.py; https://github.com/google/XNNPACK/pull/6751).
    With float32 scales the oracle would compute with other weights: 36 dB on llama in place of 136 dB.
    """
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup

    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, "int4"),  # noqa: B009 - torch's stubs do not know it
        weight_granularity=PerGroup(_GROUP_SIZE),
        weight_scale_dtype=torch.bfloat16,
    )
    return _quantised(model, config, lambda linear: linear.in_features % _GROUP_SIZE == 0)


def with_8_bit_weights(model: Any) -> Any:
    """A copy with 8-bit weights, one scale for each output channel, and 8-bit activations, anew for each token."""
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis

    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0))
    return _quantised(model, config, lambda _: True)


def with_4_bit_weights_and_8_bit_embeddings(model: Any) -> Any:
    """The same, and 8-bit embeddings with a scale for each token, as optimum-executorch's `--qembedding 8w` has."""
    import torch
    from torchao.quantization import PerAxis

    return _with_embeddings(with_4_bit_weights(model), torch.int8, PerAxis(0), lambda _: True)


def with_4_bit_weights_and_embeddings(model: Any) -> Any:
    """The same with 4-bit embeddings in groups, as ExecuTorch's own export of Llama has with `-E 4,32`."""
    import torch
    from torchao.quantization import PerGroup

    int4 = getattr(torch, "int4")  # noqa: B009 - torch's stubs do not know it
    return _with_embeddings(
        with_4_bit_weights(model), int4, PerGroup(_GROUP_SIZE), lambda table: table.embedding_dim % _GROUP_SIZE == 0
    )


def _with_embeddings(model: Any, dtype: Any, granularity: Any, fits: Callable[[Any], bool]) -> Any:
    from torch import nn
    from torchao.quantization import IntxWeightOnlyConfig

    config = IntxWeightOnlyConfig(weight_dtype=dtype, granularity=granularity)
    return quantised_by_torchao(model, config, lambda module, _: isinstance(module, nn.Embedding) and fits(module))


def _quantised(model: Any, config: Any, fits: Callable[[Any], bool]) -> Any:
    """A copy, since torchao works in place. It unties a tied output projection, whose embedding stays float32.

    torchao knows `nn.Linear` alone: GPT-2's Conv1D is made one first, and experts get 8-bit weights in either recipe.
    """
    from torch import nn

    from conformance.pipeline.quantisable import quantise_experts, use_linear

    prepared = copy.deepcopy(model)
    use_linear(prepared)
    quantise_experts(prepared)
    return quantised_by_torchao(prepared, config, lambda module, _: isinstance(module, nn.Linear) and fits(module))


def quantised_by_torchao(model: Any, config: Any, chosen: Callable[[Any, str], bool] | None) -> Any:
    """The model itself, with the modules that are `chosen` quantised by torchao; without a choice, its linear ones."""
    from torchao.quantization import quantize_
    from torchao.utils import unwrap_tensor_subclass

    quantize_(model, config, filter_fn=chosen)
    return unwrap_tensor_subclass(model)  # exported as plain tensors, which can be hashed and looked for


def with_observed_ranges(program: Any, examples: Any, shapes: Any, texts: Iterable[tuple[int, ...]]) -> Any:
    """The program with 8-bit weights per channel, and activations by the ranges that `texts` showed.

    With ranges found anew on each call there would be no oracle: the graph then has one range for all tokens of a call,
    XNNPACK one for each token (`node_visitor.py`).
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(lambda node: not _adds_a_mask(node))
    return quantised_by_pt2e(quantizer, program, examples, shapes, texts)


def quantised_by_pt2e(
    quantizer: Any, program: Any, examples: Any, shapes: Any, texts: Iterable[tuple[int, ...]]
) -> Any:
    """The program as `quantizer` makes it of what `texts` showed.

    Input names, mutated buffers and the dynamic length survive. Calibrating fills the caches, which the second export
    would keep as initial values, so they are put back.

    Args:
        quantizer: One of torchao's for exported programs.
        program: The exporter's program, which is not changed.
        examples: Token ids and cache position to export with again, the same as the first time.
        shapes: Dynamic shapes, the same as the first time.
        texts: Token ids to decode for calibration, each from position 0.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with torch.no_grad():
        module = copy.deepcopy(program).module()
        initial = {name: buffer.clone() for name, buffer in module.named_buffers()}
        prepared = prepare_pt2e(module, quantizer)
        for tokens in texts:
            for position, token in enumerate(tokens):
                prepared(torch.tensor([[token]]), torch.tensor([position]))
        converted = convert_pt2e(prepared)
        for name, buffer in converted.named_buffers():
            if name in initial:
                buffer.copy_(initial[name])
        return torch.export.export(converted, examples, dynamic_shapes=shapes)


def _adds_a_mask(node: Any) -> bool:
    """Whether the node adds what a condition has chosen, as attention adds a mask to its scores.

    A mask has -3.4e38 where nothing is seen. In 8 bits its scale is 1.3e36, and all scores would round to 0.
    """
    return _short(node) == "add" and any(_short(_source(each)) == "where" for each in node.all_input_nodes)


def _source(node: Any) -> Any:
    """The node that `node` hands on, in another shape or dtype."""
    while _short(node) in _HANDING_ON:
        node = node.args[0]
    return node


def _short(node: Any) -> str:
    return str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""


def fused_emission() -> Any:
    """As of any backend, and a table with what makes it floating point becomes one lookup of a quantised table."""
    import executorch.kernels.quantized  # noqa: F401 - registers the lookup

    return dataclasses.replace(in_place_emission(), do_quant_fusion_and_const_prop=True)


def declares(operator: str) -> bool:
    """What XNNPACK takes, and the operators around it that quantise and come back."""
    return xnnpack.declares(operator) or operator.partition(".")[0] in (
        *("choose_qparams_affine", "quantize_affine", "dequantize_affine"),
        *("quantize_per_tensor", "dequantize_per_tensor", "quantize_per_channel", "dequantize_per_channel"),
    )


def _backend(name: str, **others: Any) -> Backend:
    return Backend(
        name,
        xnnpack.partitioners,
        FLOAT32_TOLERANCE,
        delegating=True,
        device="CPUs of phones and computers, where memory is short",
        requires=_TORCHAO,
        declares=declares,
        precision=AS_TORCH_DOES,
        **others,
    )


# What each quantises of the core architectures' fixtures, and at what cost, mode decode. Fixtures are small and random,
# so that rounding costs them more than it does a trained model. Shares leave little room, except with groups: widths of
# 16, 24 and 48, as fixtures have and published models have not, are up to 38 % of the bytes (deepseek_v3).
#   8da4w: 62 to 100 % of the bytes, 4.7 dB (lfm2) to 17.1 dB (gpt2)
#   8da8w: 95 to 100 % of the bytes, 26.3 dB (lfm2) to 38.1 dB (gpt2); 4.8 dB with scales a quarter too large (llama)
#   pt2e:  100 % of the bytes, 13.3 dB (lfm2) to 29.5 dB (gpt_neox), but for those that known_failures/ lists
XNNPACK_8DA4W = _backend(
    "xnnpack-8da4w",
    summary="XNNPACK, 8-bit activations and 4-bit weights in groups of 32",
    weights="4 bits in groups of 32, embeddings as they are",
    prepare=with_4_bit_weights,
    quantisation=Quantisation(least_share=0.5, least_sqnr=3.0, group_size=_GROUP_SIZE),
)
XNNPACK_8DA4W_EMBEDDINGS = _backend(
    "xnnpack-8da4w-embeddings",
    summary="the same, and 4-bit embeddings in groups of 32",
    weights="4 bits in groups of 32",
    prepare=with_4_bit_weights_and_embeddings,
    emission=fused_emission,
    quantisation=Quantisation(least_share=0.5, least_sqnr=3.0, group_size=_GROUP_SIZE, embeddings=True),
)
XNNPACK_8DA4W_EMBEDDINGS8 = _backend(
    "xnnpack-8da4w-embeddings8",
    summary="the same, with 8-bit embeddings, a scale for each token",
    weights="4 bits in groups of 32, embeddings in 8 bits",
    prepare=with_4_bit_weights_and_8_bit_embeddings,
    emission=fused_emission,
    quantisation=Quantisation(least_share=0.5, least_sqnr=3.0, group_size=_GROUP_SIZE, embeddings=True),
)
XNNPACK_8DA8W = _backend(
    "xnnpack-8da8w",
    summary="XNNPACK, 8-bit activations and 8-bit weights per channel",
    weights="8 bits, embeddings as they are",
    prepare=with_8_bit_weights,
    quantisation=Quantisation(least_share=0.9, least_sqnr=20.0),
)
XNNPACK_PT2E = _backend(
    "xnnpack-pt2e",
    summary="XNNPACK, the exported program quantised to 8 bits by PT2E",
    weights="8 bits, embeddings as they are",
    requantise=with_observed_ranges,
    quantisation=Quantisation(least_share=0.9, least_sqnr=10.0),
)
