"""A backend of one's own in its three forms: `conformance run --backend tests.backends.skeleton:MINE`."""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.export import AOQuantizationConfig, ExportRecipe, LoweringRecipe, QuantizationRecipe
from torchao.quantization import Int8DynamicActivationIntxWeightConfig

from conformance.pipeline.backends import FLOAT32_TOLERANCE, Backend


def partitioners() -> list[Any]:
    """The partitioners are all that is required."""
    return [XnnpackPartitioner()]


#: The complete description. Its arguments are described at `Backend`.
MINE = Backend(
    name="mine",  # it is called as on the command line
    summary="XNNPACK, as an example",
    partitioners=partitioners,
    tolerance=FLOAT32_TOLERANCE,
    delegating=True,
    delegates=("XnnpackBackend",),
    declares=lambda operator: True,
)

#: A recipe of ExecuTorch's.
RECIPE = ExportRecipe(name="mine", lowering_recipe=LoweringRecipe(partitioners=[XnnpackPartitioner()]))


def _is_first_query(_: object, name: str) -> bool:
    return name.endswith("layers.0.self_attn.q_proj")


#: Faulty: it quantises one layer of all.
QUANTISES_ONE = ExportRecipe(
    name="one layer",
    quantization_recipe=QuantizationRecipe(
        ao_quantization_configs=[AOQuantizationConfig(Int8DynamicActivationIntxWeightConfig(), _is_first_query)]
    ),
    lowering_recipe=LoweringRecipe(partitioners=[XnnpackPartitioner()]),
)

#: It asks for what the suite does not do.
TRAINS = ExportRecipe(quantization_recipe=QuantizationRecipe(is_qat=True))
