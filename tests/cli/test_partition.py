"""`conformance inspect partition` as people use it."""

from __future__ import annotations

import pytest

from conformance.cli.main import main
from conformance.cli.partition import partition_page, show
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.verdicts import NotRunError, Stage, StageError
from conformance.pipeline.artifact import Artifact, EmissionReport, PartitionReport, UndelegatedNode
from conformance.pipeline.builder import Builder
from tests.support.messages import printed

pytestmark = pytest.mark.torch


def test_page_names_undelegated_operators_with_reason_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    source = "transformers/models/llama/modeling_llama.py:64 in forward: a_long_name = x.mean(-1)"
    reason = "keep_dim required"
    nodes = tuple(UndelegatedNode("aten.mean.dim", f"float32 [1, {size}]", source, reason) for size in (1, 2, 3))
    partition = PartitionReport({"XnnpackBackend": 2}, {"aten.mul.Tensor": 9}, nodes, (), (), (), (), (), {}, ())
    emission = EmissionReport((), 300, 280, 256, 1280, 1280, (), (), (), (), (), {})
    artifact = Artifact(bytes(4096), partition, emission, 12.5, 0.5)
    show(partition_page(Program("llama", "mine", Mode.DECODE, "xnnpack"), artifact))
    text = capsys.readouterr().out
    assert "2 × XnnpackBackend; 9 of 12 operators (75.0%)" in text
    assert "4,096 bytes, of them 1,280 for constants" in text
    assert "300 bytes planned, of them 256 for caches" in text
    assert "none lists this program" in text
    # Whole lines, though they are wider than the 80 columns of a pipe.
    assert (
        f"""\
not delegated  count  bytes a token
aten.mean.dim      3              0
  reason  keep_dim required
  source  float32 [1, 1]  {source}
  source  float32 [1, 2]  {source}
  source  and 1 more
"""
        in text
    )


@pytest.mark.parametrize(
    "error", [NotRunError("vulkan needs vulkan"), StageError(Stage.LOWER, RuntimeError("no such operator"))]
)
def test_a_program_that_cannot_be_lowered_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def program(*_: object) -> None:
        raise error

    monkeypatch.setattr(Builder, "program", program)
    assert main.run(["inspect", "partition", "llama"]) == 1
    printed(capsys.readouterr().err, "cannot-export")
