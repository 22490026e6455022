"""`conformance inspect partition` as people use it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from conformance.cli.partition import partition_page
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.pipeline.emission import EmissionReport
from conformance.pipeline.lowering import Artifact
from conformance.pipeline.partition import PartitionReport, UndelegatedNode

pytestmark = pytest.mark.torch


def test_page_names_undelegated_operators_with_reason_and_source() -> None:
    source, reason = "modeling.py:64 in forward: x.mean(-1)", "keep_dim required"
    nodes = tuple(UndelegatedNode("aten.mean.dim", f"float32 [1, {size}]", source, reason) for size in (1, 2, 3))
    partition = PartitionReport({"XnnpackBackend": 2}, {"aten.mul.Tensor": 9}, nodes, (), (), (), (), (), {}, ())
    emission = EmissionReport((), 300, 280, 256, 1280, 1280, (), (), (), (), (), {})
    artifact = Artifact(bytes(4096), partition, emission, 12.5, 0.5)
    stream = io.StringIO()
    page = partition_page(Program("llama", "mine", Mode.DECODE, "xnnpack"), artifact)
    Console(file=stream, width=160, markup=False).print(page)
    text = stream.getvalue()
    assert "2 × XnnpackBackend; 9 of 12 operators (75.0%)" in text
    assert "4,096 bytes, of them 1,280 for constants" in text
    assert "300 bytes planned, of them 256 for caches" in text
    assert "none lists this program" in text
    assert "aten.mean.dim" in text
    assert "keep_dim required" in text
    assert "float32 [1, 2]  modeling.py:64 in forward: x.mean(-1)" in text
    assert "and 1 more" in text
