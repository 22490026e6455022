"""What is read off lowered and emitted programs, on a module small enough to count by hand."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from typing import Any

import pytest
import torch
from executorch.devtools.backend_debug import get_delegation_info
from executorch.exir import to_edge_transform_and_lower
from torch import nn

from conformance.core.cells import BackendTraits, Program, Selection, plan
from conformance.core.commands import install_command
from conformance.core.contract import CHECKED, Mode
from conformance.core.verdicts import ClauseViolationError, NotRunError
from conformance.exporters.resolve import Exporter
from conformance.pipeline import lowering
from conformance.pipeline.artifact import Artifact, PartitionReport
from conformance.pipeline.backends import BACKENDS, FLOAT32_TOLERANCE, XNNPACK, Backend
from conformance.pipeline.builder import Builder
from conformance.pipeline.lowering import Lowered
from conformance.reference import convert_and_export_with_cache
from tests.faults import lowerings, programs
from tests.support.harness import judge, one_layer

pytestmark = pytest.mark.torch


class _Counter(nn.Module):
    """A product that XNNPACK takes, a running sum that it does not, and a buffer that each call adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("total", torch.zeros(1, 8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.get_buffer("total")
        total.add_(self.linear(x))
        return torch.cumsum(total, 1)


class _Keys(nn.Module):
    """Puts keys together in a tensor of its own, as DeepSeek V3 does, and writes them into a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 4, 8), persistent=False)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        keys = x.new_zeros(1, 1, 8)
        keys[..., :4] = x
        self.get_buffer("cache").index_copy_(1, position, keys)
        return keys + 1


def _keys_lowered(backend: Backend) -> PartitionReport:
    program = torch.export.export(_Keys().eval(), (torch.ones(1, 1, 4), torch.tensor([2])))
    return lowering.lower(program, backend).partition


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    program = torch.export.export(_Counter().eval(), (torch.ones(1, 8),))
    return lowering.lower(copy.deepcopy(program), XNNPACK)


@pytest.fixture(scope="module")
def artifact(lowered: Lowered) -> Artifact:
    return lowering.emit(lowered, XNNPACK)


class _Moves(nn.Module):
    """One operator of each kind that counts differently; nothing of it is delegated."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 16, 8), persistent=False)
        self.register_buffer("table", torch.ones(100, 8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = torch.nn.functional.embedding(ids, self.get_buffer("table"))
        self.get_buffer("cache").index_copy_(1, ids[0], rows)
        return self.get_buffer("cache").cumsum(1)


@pytest.mark.parametrize("dynamic", [False, True])
def test_bytes_are_those_of_a_call_with_one_token(dynamic: bool) -> None:
    shapes = {"ids": {1: torch.export.Dim("seq", min=1, max=16)}} if dynamic else None
    ids = torch.arange(3 if dynamic else 1)[None]
    report = lowering.lower(torch.export.export(_Moves(), (ids,), dynamic_shapes=shapes), XNNPACK).partition
    assert report.moved["aten.cumsum.default"] == 2 * 16 * 8 * 4, "the whole cache, read and written"
    assert report.moved["aten.embedding.default"] == 2 * 8 * 4, "one row, and not the table"
    assert report.moved["aten.index_put.default"] == 2 * 8 * 4, "one row, in place"
    assert next(iter(report.moved)) == "aten.cumsum.default"


def test_a_program_that_repeats_its_caches_is_caught() -> None:
    # Its attention is Transformers' own: the trial of the reference's belongs to the reference's exporter.
    with pytest.raises(ClauseViolationError) as caught:
        judge("LOW-12", "llama", programs.trips_over_misuse, backend="xnnpack", make_model=one_layer)
    assert caught.value.signature.startswith("lower:moves-much:aten.")


def test_operators_are_counted_as_devtools_counts_them(lowered: Lowered) -> None:
    info = get_delegation_info(lowered.edge.exported_program().graph_module)
    picks = info.delegation_by_operator.get("getitem")
    report = lowered.partition
    assert sum(report.delegates.values()) == info.num_delegated_subgraphs == 1
    assert sum(report.delegated.values()) == info.num_delegated_nodes
    assert len(report.undelegated_nodes) == info.num_non_delegated_nodes - (picks.non_delegated if picks else 0)


def test_undelegated_operator_has_values_and_source(lowered: Lowered) -> None:
    (node,) = lowered.partition.undelegated_nodes
    assert node.operator == "aten.cumsum.default"
    assert node.values == "float32 [1, 8]"
    assert "test_partition.py" in node.source
    assert "torch.cumsum(total, 1)" in node.source
    assert str(node).startswith("aten.cumsum.default (float32 [1, 8]; ")


def test_sound_partition_has_nothing_to_say(lowered: Lowered) -> None:
    report = lowered.partition
    assert report.delegated["aten.linear.default"] == 1
    assert not any(
        (
            report.partitioner_would_take,
            report.undeclared_ops,
            report.weights_as_inputs,
            report.buffers_owned_by_delegate,
            report.buffers_frozen_in_delegate,
            report.cache_updates_in_delegate,
            report.nodes_missing_pass_mark,
        )
    )


def test_keys_put_together_in_a_delegate_are_not_a_cache_update() -> None:
    report = _keys_lowered(lowerings.ALL_BUT_CACHE_UPDATES)
    assert report.delegated["aten.slice_scatter.default"] == 1
    assert "aten.index_put.default" in report.undelegated
    assert not report.cache_updates_in_delegate


def test_cache_handed_through_a_delegate_is_named() -> None:
    report = _keys_lowered(lowerings.HANDS_CACHES_THROUGH)
    assert report.cache_updates_in_delegate == {"cache": "aten.index_put.default"}
    assert not report.buffers_owned_by_delegate


def test_memory_is_read_off_the_plan(artifact: Artifact) -> None:
    emission = artifact.emission
    assert emission.cache_bytes == 8 * 4
    assert emission.planned_bytes >= emission.alive_bytes >= emission.cache_bytes
    assert emission.constant_bytes == emission.exported_bytes == (8 * 8 + 8) * 4
    assert [(cache.name, cache.dtype, cache.size) for cache in emission.caches] == [("b_total", "float32", 8 * 4)]
    assert "aten::cumsum.out" in emission.operators
    assert not any((emission.unplanned, emission.copied, emission.returned, emission.repeated, emission.unread))


def test_the_suites_own_pass_changes_no_byte(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(program: Any, *, transform_passes: Any, **others: Any) -> Any:
        return to_edge_transform_and_lower(program, **others)

    monkeypatch.setattr("conformance.pipeline.lowering.to_edge_transform_and_lower", plain)
    torch.manual_seed(0)
    program = torch.export.export(_Counter().eval(), (torch.ones(1, 8),))
    unmarked = lowering.emit(lowering.lower(copy.deepcopy(program), XNNPACK), XNNPACK)
    monkeypatch.undo()
    marked = lowering.emit(lowering.lower(copy.deepcopy(program), XNNPACK), XNNPACK)
    assert marked.program == unmarked.program
    assert unmarked.partition.nodes_missing_pass_mark
    assert not marked.partition.nodes_missing_pass_mark


def test_missing_package_error_has_what_to_install() -> None:
    lacking = Backend("lacking", list, FLOAT32_TOLERANCE, delegating=True, requires=("torch", "no-such-package>=2"))
    message = f"lacking needs no-such-package>=2: {install_command('no-such-package')}"
    assert lacking.obstacle == message
    program = Program("llama", "mine", Mode.DECODE, "lacking")
    built = Builder({"mine": Exporter("mine", convert_and_export_with_cache)}, {"lacking": lacking}).program(program)
    with pytest.raises(NotRunError, match="no-such-package>=2"):
        _ = built.artifact
    rounding = dataclasses.replace(lacking, prepare=copy.deepcopy)
    built = Builder({"mine": Exporter("mine", convert_and_export_with_cache)}, {"lacking": rounding}).program(program)
    with pytest.raises(NotRunError, match="no-such-package>=2"):
        _ = built.expected


def test_a_version_that_does_not_fit_is_missing() -> None:
    old = Backend("old", list, FLOAT32_TOLERANCE, delegating=True, requires=("torch<1",))
    assert "torch<1" in old.obstacle
    assert not lowerings.PLAIN.obstacle


def test_a_backend_that_cannot_run_here_has_cells_of_lowering_only() -> None:
    ahead = BackendTraits("ahead", delegating=True, runs=False)
    cells = [cell for cell in plan(Selection(["llama"], ["reference"], [ahead], CHECKED)) if cell.backend == "ahead"]
    assert cells
    assert all(cell.clause.startswith("LOW-") for cell in cells)


def test_backends_have_their_own_names() -> None:
    assert all(name == backend.name for name, backend in BACKENDS.items())


def test_lowered_program_is_let_go() -> None:
    """ExecuTorch keeps the nodes that it compared, and with these every program that a process has lowered."""
    program = convert_and_export_with_cache(one_layer("llama"))
    lowered = lowering.lower(program, XNNPACK)
    lowering.emit(lowered, XNNPACK)
    kept = weakref.ref(lowered.edge.exported_program().graph_module)
    del program, lowered
    gc.collect()
    assert kept() is None
