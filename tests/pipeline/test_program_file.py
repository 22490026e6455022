"""A program that is a file: what it says of itself, and that it is the one which is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.exir import to_edge
from transformers import PreTrainedModel

from conformance.cli.checkpoint_options import Asked, asked_of_file
from conformance.cli.export_model import export_for_runner, write_program
from conformance.core.call_shape import CallShape
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, NotApplicableError
from conformance.exporters.resolve import of_a_file
from conformance.pipeline.backends import BACKENDS
from conformance.pipeline.builder import Builder
from conformance.pipeline.program_file import ProgramFile, ProgramFileError, read_program
from conformance.pipeline.stages import build
from tests.support.harness import judge

pytestmark = pytest.mark.torch

#: Of the fixture's cache.
LENGTH = 32


def _written(path: Path, model: PreTrainedModel, mode: Mode, shape: CallShape) -> Path:
    write_program(export_for_runner(model, BACKENDS["portable"], mode, shape=shape), path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = CallShape(last_logits=True, prompt_chunk=8)
    return _written(tmp_path_factory.mktemp("file") / "model.pte", build("llama"), Mode.DYNAMIC, shape)


def test_file_says_what_it_is(program: Path) -> None:
    described = read_program(program)
    assert (described.mode, described.shape) == (Mode.DYNAMIC, CallShape(last_logits=True, prompt_chunk=8))
    assert (described.cache_length, described.rows, described.dtype) == (LENGTH, 1, "float32")
    assert (described.backend, described.delegates) == ("portable", ())
    assert described.size == program.stat().st_size
    assert described.planned_bytes > 0
    assert "aten::embedding.out" in described.operators


def _judge(program: Path, clause: str) -> None:
    described = read_program(program)
    exporter = of_a_file()
    builder = Builder({exporter.name: exporter}, shape=described.shape, program_file=program)
    judge(clause, "llama", exporter, mode=described.mode, backend="portable", builder=builder)


@pytest.mark.parametrize("clause", ["PAR-2", "PAR-11", "PAR-13", "RUN-1"])
def test_file_is_judged_and_nothing_is_exported(program: Path, clause: str) -> None:
    _judge(program, clause)


def test_file_of_other_weights_is_caught(tmp_path: Path) -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight.mul_(1.01)
    with pytest.raises(ClauseViolationError, match="off by"):
        _judge(_written(tmp_path / "other.pte", model, Mode.DECODE, CallShape()), "PAR-1")


def test_file_has_no_exported_program(program: Path) -> None:
    with pytest.raises(NotApplicableError, match="nothing is exported"):
        _judge(program, "EXP-1")


class _OneInput(torch.nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids + 1


def _another_program(path: Path) -> None:
    edge = to_edge(torch.export.export(_OneInput(), (torch.zeros(1, 3),)))
    path.write_bytes(bytes(edge.to_executorch().buffer))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"PK\3\4 and so on"), "not an ExecuTorch program"),
        (lambda path: path.write_bytes(b""), "not an ExecuTorch program"),
        (lambda path: None, "No such file"),
        (
            _another_program,
            r"`forward` has 1 inputs and 1 outputs, float32 \[1, 3\], float32 \[1, 3\]; expected token ids",
        ),
    ],
    ids=["another format", "empty", "missing", "another signature"],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, write: Any, message: str) -> None:
    write(tmp_path / "model.pte")
    with pytest.raises(ProgramFileError, match=message):
        read_program(tmp_path / "model.pte")


def test_damaged_file_ends_no_more_than_its_reader(program: Path, tmp_path: Path) -> None:
    content = program.read_bytes()
    (tmp_path / "model.pte").write_bytes(content[: len(content) // 3])
    with pytest.raises(ProgramFileError):
        read_program(tmp_path / "model.pte")


def _described(**changes: Any) -> ProgramFile:
    values: dict[str, Any] = {
        "path": Path("m.pte"),
        "size": 1,
        "rows": 1,
        "cache_length": 16,
        "mode": Mode.DYNAMIC,
        "shape": CallShape(),
        "vocab": 64,
        "dtype": "bfloat16",
        "delegates": ("XnnpackBackend",),
        "operators": (),
        "planned_bytes": 1,
    }
    return ProgramFile(**{**values, **changes})


def test_options_come_from_the_file() -> None:
    asked = asked_of_file(_described(), Asked(), 64)
    assert asked == Asked("xnnpack", 16, "bfloat16", "dynamic")
    assert asked_of_file(_described(backend="xnnpack-8da4w"), Asked(), None).dtype == "float32"
    assert asked_of_file(_described(delegates=()), Asked(), None).backend == "portable"
    bounded = asked_of_file(_described(rows=3, shape=CallShape(last_logits=True, prompt_chunk=4)), Asked(), 64)
    assert (bounded.batch_size, bounded.logits, bounded.prompt_chunk) == (3, "last", 4)


@pytest.mark.parametrize(
    ("described", "asked", "message"),
    [
        (_described(), Asked(mode="decode"), r"--mode is read from m\.pte; leave it out"),
        (_described(), Asked(cache_length=16), "--cache-length is read from"),
        (_described(cache_length=None), Asked(), "lacks the method get_max_seq_len"),
        (
            _described(vocab=65),
            Asked(),
            "65 logits a token, and the model has 64 token ids: it is the program of another",
        ),
        (_described(delegates=("VulkanBackend",)), Asked(), "delegates of VulkanBackend; say which --backend"),
    ],
)
def test_options_that_contradict_a_file_are_errors(described: ProgramFile, asked: Asked, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked_of_file(described, asked, 64)
