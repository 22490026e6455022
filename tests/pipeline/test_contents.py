"""A search for the bytes of many tensors in a file."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.pipeline import contents
from conformance.pipeline.contents import digest, occurrences

pytestmark = pytest.mark.torch


def content_of(value: torch.Tensor) -> bytes:
    return bytes(contents.content_of(value))


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    before=st.binary(max_size=70),
    between=st.binary(max_size=9),
    copies=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int8]),
)
def test_content_is_found_wherever_it_begins(before: bytes, between: bytes, copies: int, dtype: torch.dtype) -> None:
    value = (_random(0, 7, 5) * 40).to(dtype)
    file = before + copies * (content_of(value) + between)
    assert occurrences(file, [value])[digest(value)] == copies


def test_part_of_another_and_a_transpose_are_found() -> None:
    head, other = _random(1, 8, 6), _random(2, 8, 6)
    padded = torch.cat([head, torch.zeros(2, 6)])
    file = content_of(padded) + content_of(other.t()) + content_of(head)
    found = occurrences(file, [head, other, other.t(), padded])
    assert [found[digest(value)] for value in (head, other, other.t(), padded)] == [2, 0, 1, 1]


def test_tensors_that_begin_or_end_alike_are_distinguished() -> None:
    mask = torch.zeros(64)
    ends, begins = mask.clone(), mask.clone()
    ends[-1], begins[0] = 1, 1
    # Zeros follow the 1 of `ends`, and precede that of `begins`.
    file = content_of(ends) + content_of(mask) + content_of(begins)[:-1]
    found = occurrences(file, [ends, begins])
    assert (found[digest(ends)], found[digest(begins)]) == (2, 1)


def test_a_file_that_is_shorter_than_a_content_has_none() -> None:
    assert not occurrences(content_of(_random(3, 4)), [_random(3, 5)]).total()
    assert not occurrences(b"", [_random(3, 5)]).total()
