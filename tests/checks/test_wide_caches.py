"""LOW-7: caches of one shape, of which the model keeps some wider than others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.checks.test_lowering import _wide_caches
from conformance.pipeline.artifact import CacheBuffer

pytestmark = pytest.mark.torch

SHAPE = (1, 2, 4, 8)


def _wide(*dtypes: str, states: tuple[torch.dtype, ...]) -> list[str]:
    """What LOW-7 finds in buffers of these dtypes, beside a bfloat16 model with such states."""
    layers = [SimpleNamespace(state=torch.zeros(SHAPE, dtype=dtype)) for dtype in states]
    oracle = SimpleNamespace(new_cache=lambda: SimpleNamespace(layers=layers), step=lambda cache, token: None)
    architecture = SimpleNamespace(prepared=lambda backend: SimpleNamespace(dtype=torch.bfloat16))
    case: Any = SimpleNamespace(backend=SimpleNamespace(prepare=None), untried_oracle=oracle, architecture=architecture)
    buffers = [
        CacheBuffer(f"{at}", dtype, SHAPE, 64 * getattr(torch, dtype).itemsize) for at, dtype in enumerate(dtypes)
    ]
    return [text.split(":")[0] for text in _wide_caches(case, buffers)]


@pytest.mark.parametrize("states", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_wide_state_allows_one_buffer_and_not_each_of_its_shape(states: tuple[torch.dtype, ...]) -> None:
    assert _wide("float32", "bfloat16", states=states) == []
    assert _wide("bfloat16", "float32", states=states) == []
    assert _wide("float32", "float32", states=states) == ["1"]
    assert _wide("bfloat16", "bfloat16", "int64", states=states) == []


def test_more_buffers_than_states_are_no_wider_than_the_narrowest() -> None:
    assert _wide("float32", "bfloat16", "bfloat16", states=(torch.float32, torch.bfloat16)) == []
    assert _wide("float32", "float32", "float32", states=(torch.float32, torch.bfloat16)) == ["1", "2"]
