"""Products and convolutions of weights as they are stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance.reference.passes.stored_weights import use_stored_weights

pytestmark = pytest.mark.torch


def test_product_by_a_transposed_weight_is_linear() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight.T) @ x.new_ones(4, 5).T

    module, x = Product().eval(), torch.randn(2, 3)
    program = torch.export.export(module, (x,))
    use_stored_weights(program)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.linear.default") == 1
    assert targets.count("aten.matmul.default") == 1
    torch.testing.assert_close(program.module()(x), module(x))


def test_product_of_a_weight_by_inputs_is_linear() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight @ x.transpose(1, 2)

    module, x = Product().eval(), torch.randn(2, 4, 3)
    seq = torch.export.Dim("seq", min=1, max=8)
    program = torch.export.export(module, (x,), dynamic_shapes=({1: seq},))
    use_stored_weights(program)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "aten.matmul.default" not in targets
    for length in (1, 4, 8):
        x = torch.randn(2, length, 3)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("same", [True, False])
def test_convolution_reads_its_weight_as_stored(same: bool) -> None:
    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 1 if same else 2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight[:, 0].unsqueeze(1)
            return nn.functional.conv1d(x, weight, groups=4)

    module, x = Short().eval(), torch.randn(1, 4, 5)
    program = torch.export.export(module, (x,))
    use_stored_weights(program)
    (node,) = (node for node in program.graph.nodes if "conv1d" in str(node.target))
    assert (node.args[1].op == "placeholder") is same
    torch.testing.assert_close(program.module()(x), module(x))
