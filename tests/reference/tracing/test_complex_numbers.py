"""Complex numbers as pairs of real tensors."""

from __future__ import annotations

import pytest
import torch

from conformance.models.fixtures import build_model, fixture_config
from conformance.reference import convert_and_export_with_cache
from conformance.reference.tracing.complex_numbers import RealPairs

pytestmark = pytest.mark.torch


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
