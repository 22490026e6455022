"""A cache is no longer than the model's table of positions, whatever the table is and however it ends."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.model_snapshot import changes, footprint
from conformance.reference import (
    ModelNotExportableError,
    PositionsEndError,
    TorchExportableModuleWithStaticCache,
    convert_and_export_with_cache,
)

pytestmark = pytest.mark.torch

#: Rows of the fixtures' tables of positions.
ROWS = 64


def _longest(model: PreTrainedModel, max_cache_len: int = 200) -> int | None:
    try:
        TorchExportableModuleWithStaticCache(model, max_cache_len=max_cache_len)
    except PositionsEndError as error:
        return error.longest
    return None


@pytest.mark.parametrize(
    ("architecture", "longest"),
    [
        ("gpt2", ROWS),
        ("opt", ROWS),  # counts from 2, in a table of two rows more
        ("roberta", ROWS - 1),  # counts from its padding id + 1, here 1
        ("ctrl", ROWS),  # sinusoids in a buffer
        ("gptj", ROWS),  # sines for rotary embeddings in a buffer
        ("mpt", ROWS),  # biases for ALiBi, sliced by the length of the cache
        ("xglm", ROWS),  # sinusoids that are made anew for more positions
        ("qwen4_exp_text", None),  # its indexer cannot begin in the middle of a text
        ("bloom", None),  # biases computed for each call
        ("llama", None),
    ],
)
def test_limit_is_that_of_the_table(architecture: str, longest: int | None) -> None:
    model = build_model(fixture_config(architecture))
    before = footprint(model)
    assert _longest(model) == longest
    assert not list(changes(before, footprint(model)))
    assert _longest(model, ROWS - 1) is None


@pytest.mark.parametrize("length", [ROWS, ROWS + 1])
def test_error_comes_before_tracing_and_names_the_limit(length: int) -> None:
    model = build_model(fixture_config("gpt2"), length)
    with mock.patch("torch.export.export", side_effect=AssertionError("tracing began")):
        expected, message = (AssertionError, "tracing began") if length == ROWS else (PositionsEndError, "at most 64$")
        with pytest.raises(expected, match=message):
            convert_and_export_with_cache(model)


class _Table(nn.Module):
    """A table of positions that has an answer for any."""

    def __init__(self, table: nn.Embedding, index: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.table, self.index = table, index

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.table(self.index(position_ids))
        return rows


@pytest.mark.parametrize(
    "index",
    [lambda positions: positions.clamp(max=ROWS - 1), lambda positions: positions % ROWS],
    ids=["last", "wraps"],
)
def test_table_that_answers_past_its_end_ends_all_the_same(index: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = build_model(fixture_config("gpt2"))
    transformer = model.get_submodule("transformer")
    transformer.wpe = _Table(transformer.get_submodule("wpe"), index)  # type: ignore[arg-type]
    assert _longest(model) == ROWS


def _unused(_: torch.Tensor) -> None:
    """A hook that returns nothing changes nothing."""


def test_the_choices_of_a_router_are_not_positions() -> None:
    """Its choices may follow the first positions by chance."""
    model = build_model(fixture_config("gpt2"))
    choices = nn.Embedding(8, 4)
    wpe = model.get_submodule("transformer.wpe")
    wpe.register_forward_pre_hook(lambda _, arguments: _unused(choices(arguments[0].clamp(max=1))))
    assert _longest(model, ROWS) is None


def test_model_that_fails_with_any_cache_fails_with_its_own_error() -> None:
    model = build_model(fixture_config("llama"))
    model.model.layers[0].self_attn.q_proj = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        TorchExportableModuleWithStaticCache(model)


def test_model_that_decodes_in_order_only_is_left_to_the_export() -> None:
    """Where it ends cannot be tried: the trial is no reason to refuse it."""
    model = build_model(fixture_config("gpt2"))
    last = [-1]

    def in_order(_: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        positions = arguments[0].flatten().tolist()
        if positions not in ([0], [last[0] + 1]):
            raise RuntimeError("not in order")
        last[:] = positions

    model.get_submodule("transformer.wpe").register_forward_pre_hook(in_order)
    assert _longest(model, ROWS) is None


def test_error_is_one_that_callers_handle() -> None:
    assert issubclass(PositionsEndError, ModelNotExportableError)
