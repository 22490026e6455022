"""What timing measures beside time: whether logits are right, what a token reads, and that a wrong program is void."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from benchmarks.programs.cases import OPTIMUM, PROMPT, REFERENCE, Case, Shape, Side
from benchmarks.programs.making import make
from benchmarks.programs.results import Row, made_of, row_of, values_of
from benchmarks.programs.timing import Comparison, EagerRunner, measured, oracle, read_bandwidth, weight_bytes
from conformance.core.contract import Mode
from conformance.models.fixtures import build_model, config_of

pytestmark = pytest.mark.torch

_VALUES = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": PROMPT,
    "tie_word_embeddings": True,
    "pad_token_id": None,
}
_CASE = Case(Shape("tiny", _VALUES), "float32", PROMPT, Mode.DYNAMIC)
_FAULT = Side("fault", "each call begins with an empty cache", exporter="tests.faults.programs:zeroes_cache")
#: Weights of the layer's products: queries and output, keys and values, gate, up and down.
_PRODUCTS = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
_NORMS = 3 * 32


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """The reference's program, one with a fault, and one that is not a program."""
    folder = tmp_path_factory.mktemp("programs")
    programs = {}
    for each in (REFERENCE, _FAULT):
        path = folder / f"{each.name}.pte"
        programs[each.name] = (path, made_of(make(_CASE, each, path)))
    broken = folder / "broken.pte"
    broken.write_bytes(b"\0" * 64)
    programs["broken"] = (broken, programs[REFERENCE.name][1])
    return measured(_CASE, programs, {"optimum": "not measured: missing"}, eager=True, rounds=1)


def test_a_right_program_has_all_its_figures(row: Row) -> None:
    for name in ("reference", "eager"):
        side = row.sides[name]
        assert side.error is not None
        assert side.error < 1e-5
        assert not side.absent
        assert not side.void
        assert all(timing is not None and timing.cpu_s > 0 for timing in (side.start, side.end, side.prompt))
    prompt, peak = row.sides["reference"].prompt, row.sides["reference"].peak_bytes
    assert prompt is not None
    assert prompt.tokens == _CASE.prompt == PROMPT - 1
    assert peak is not None
    assert peak > 0


def test_a_program_with_wrong_logits_is_void(row: Row) -> None:
    side = row.sides["fault"]
    assert side.void
    assert side.absent.startswith("void: its logits are off by ")
    assert (side.start, side.end, side.prompt) == (None, None, None)


def test_a_program_that_does_not_load_is_reported(row: Row) -> None:
    assert row.sides["broken"].absent.startswith("fails: ")
    assert row.sides["optimum"].absent == "not measured: missing"


def test_what_a_token_reads_is_counted(row: Row) -> None:
    assert row.weight_bytes == 4 * (64 * 32 + _PRODUCTS + _NORMS)
    assert row.end_cache_bytes == 4 * 2 * 2 * 8 * PROMPT
    assert row.start_cache_bytes == row.end_cache_bytes * 16 // PROMPT


def test_a_row_comes_back_from_another_process(row: Row) -> None:
    assert row_of(values_of(row)) == row


@pytest.mark.parametrize(("tied", "rows"), [(True, 64), (False, 65)])
def test_an_embedding_counts_one_row_unless_the_output_projection_is_the_same(tied: bool, rows: int) -> None:
    model = build_model(config_of({**_VALUES, "tie_word_embeddings": tied}, "tiny"), PROMPT)
    assert weight_bytes(model, quantised=False) == 4 * (rows * 32 + _PRODUCTS + _NORMS)


def test_quantised_weights_count_four_bits_and_their_scales() -> None:
    model = build_model(config_of(_VALUES, "tiny"), PROMPT)
    down = 32 * 48  # 48 inputs are no multiple of 32
    quantised = (64 * 32 + _PRODUCTS - down) * (4 + 16 / 32) / 8
    assert weight_bytes(model, quantised=True) == quantised + 4 * (down + _NORMS)


def test_a_side_that_quantises_otherwise_is_compared_with_its_own_model() -> None:
    model = build_model(config_of(_VALUES, "tiny"), PROMPT)
    case = dataclasses.replace(_CASE, dtype="8da4w")
    assert oracle(model, _CASE) is model
    ids = torch.arange(64)[None]
    ours, theirs, floats = (
        each(ids).logits for each in (oracle(model, case), oracle(model, case, OPTIMUM.scales), model)
    )
    assert not torch.allclose(ours, theirs, rtol=1e-2)
    for each in (ours, theirs):
        assert (each - floats).norm() < 0.5 * floats.norm()


def test_an_error_is_a_share_of_the_logits_and_never_nan() -> None:
    expected = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    seen = Comparison(expected)
    seen.see(expected[None], 0)
    assert seen.error == 0
    seen.see(torch.tensor([[[0.0, 10.0]]]), 1)
    assert seen.error == pytest.approx(math.sqrt(25 / 75))
    seen.see(torch.full((1, 1, 2), math.nan), 0)
    assert seen.error == math.inf


def test_an_eager_cache_can_be_rewound_to_where_it_was() -> None:
    runner = EagerRunner(build_model(config_of(_VALUES, "tiny"), PROMPT))
    ids = torch.arange(8)[None]
    runner.rewind(0)
    runner.call(ids[:, :4], 0)
    runner.rewind(4)
    first = runner.call(ids[:, 4:], 4)
    runner.rewind(4)
    assert torch.equal(runner.call(ids[:, 4:], 4), first)


def test_memory_is_read_at_gigabytes_a_second() -> None:
    assert 1e8 < read_bandwidth() < 1e12


def test_an_exporter_without_the_argument_is_not_measured(tmp_path: Path) -> None:
    side = dataclasses.replace(REFERENCE, attention="custom", exporter="tests.faults.programs:zeroes_cache")
    assert make(_CASE, side, tmp_path / "a.pte")["absent"].startswith("not measured: ")
