"""Rotary frequencies that change with the length of the text."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import pytest
import torch
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel, StaticCache

from conformance.core.contract import Mode
from conformance.models.fixtures import cache_length
from conformance.models.variations import Space, Variation, build, of_row
from conformance.pipeline.model_snapshot import changes, footprint
from conformance.reference import convert_and_export_with_cache
from tests.support.harness import judge

pytestmark = pytest.mark.torch

#: Length past which the frequencies of these rows change; their caches have 32 positions.
ORIGINAL = 16
PAST = ["llama+rope-longrope-past", "llama+rope-dynamic-past", "gemma3_text+rope-dynamic-past"]


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_dynamic_rotary_embedding_is_a_fixed_one_where_the_cache_is_short_enough(architecture: str) -> None:
    rope = Space(architecture).settled({"rope kind": "dynamic"})
    model = build(architecture, Variation(rope))
    (kinds,) = (module.rope_type for module in model.modules() if hasattr(module, "rope_type"))
    judge("PAR-6", architecture, convert_and_export_with_cache, mode=Mode.DYNAMIC, make_model=lambda _: model)
    (after,) = (module.rope_type for module in model.modules() if hasattr(module, "rope_type"))
    assert after == kinds
    assert "dynamic" in str(kinds)


@functools.cache
def _program(row: str, *, strict: bool = False) -> tuple[PreTrainedModel, ExportedProgram]:
    model = build(row.split("+")[0], of_row(row))
    before = footprint(model)
    seq = Dim("seq", min=1, max=cache_length(model))
    shapes = {"input_ids": {1: seq}, "cache_position": {0: seq}}
    program = convert_and_export_with_cache(model, dynamic_shapes=shapes, strict=strict)
    assert not list(changes(before, footprint(model)))
    return model, program


def _tokens(lengths: Sequence[int]) -> list[torch.Tensor]:
    return list((torch.arange(sum(lengths)) * 7 % 60 + 3).unsqueeze(0).split(list(lengths), dim=1))


def _eager(model: PreTrainedModel, lengths: Sequence[int]) -> torch.Tensor:
    """The logits of a text in calls of these lengths; of a copy, since rotary embeddings keep their frequencies."""
    model = copy.deepcopy(model)
    cache = StaticCache(config=model.config, max_cache_len=cache_length(model))
    with torch.no_grad():
        return torch.cat([model(input_ids=ids, past_key_values=cache).logits for ids in _tokens(lengths)], dim=1)


@pytest.mark.parametrize("row", PAST)
@pytest.mark.parametrize(
    "lengths",
    [[1] * 32, [ORIGINAL, 1, 1], [ORIGINAL + 1, 1], [10, 10, 1], [20, 12]],
    ids=lambda n: "+".join(map(str, n)),
)
def test_past_the_original_length_it_decodes_as_eager_decoding_does(row: str, lengths: list[int]) -> None:
    model, program = _program(row)
    assert torch.allclose(_decoded(program, lengths), _eager(model, lengths), atol=1e-4)


def _decoded(program: ExportedProgram, lengths: Sequence[int]) -> torch.Tensor:
    run, begin, logits = program.module(), 0, []
    for ids in _tokens(lengths):
        logits.append(run(ids, torch.arange(begin, begin + ids.shape[1])))
        begin += ids.shape[1]
    return torch.cat(logits, dim=1)


def test_frequencies_are_no_state() -> None:
    """A call below the original length is right after one beyond it, in the same session."""
    model, program = _program("llama+rope-dynamic-past")
    run, lengths = program.module(), [1] * 4
    run(torch.full((1, 30), 5), torch.arange(30))
    again = torch.cat([run(ids, torch.tensor([at])) for at, ids in enumerate(_tokens(lengths))], dim=1)
    assert torch.allclose(again, _eager(model, lengths), atol=1e-4)
    assert not [target for target in program.graph_signature.buffers_to_mutate.values() if "inv_freq" in target]


def test_strict_program_chooses_too() -> None:
    model, program = _program("llama+rope-longrope-past", strict=True)
    lengths = [10, 10, 1]
    assert torch.allclose(_decoded(program, lengths), _eager(model, lengths), atol=1e-4)


@pytest.mark.parametrize("row", ["llama+rope-longrope", "llama+rope-dynamic"])
def test_program_of_a_short_cache_has_no_choice(row: str) -> None:
    _, program = _program(row)
    assert not [node for node in program.graph.nodes if node.target is torch.ops.aten.max.default]
