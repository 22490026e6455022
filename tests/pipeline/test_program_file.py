"""A program that is a file: what it says of itself, and that it is the one which is judged."""

from __future__ import annotations

import time
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
from conformance.models.fixtures import EOS_IDS
from conformance.pipeline import program_file
from conformance.pipeline.backends import BACKENDS
from conformance.pipeline.builder import Builder
from conformance.pipeline.program_file import ProgramFile, ProgramFileError, delegates_of, read_program
from conformance.pipeline.stages import build
from tests.support.harness import judge
from tests.support.messages import refused

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


def test_file_is_described(program: Path) -> None:
    described = read_program(program)
    assert (described.mode, described.shape) == (Mode.DYNAMIC, CallShape(last_logits=True, prompt_chunk=8))
    assert (described.cache_length, described.rows, described.dtype) == (LENGTH, 1, "float32")
    assert (described.backend, described.ends) == ("portable", EOS_IDS)
    assert delegates_of(program) == ()


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


class _Logits(torch.nn.Module):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return ids.to(torch.float32).unsqueeze(-1) + position.unsqueeze(-1) + torch.zeros(9)


class _LastLogits(_Logits):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return super().forward(ids, position)[:, -1]


class _TwoOutputs(_Logits):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> Any:
        return super().forward(ids, position), ids + 1


class _TakesNumbers(_Logits):
    def forward(self, ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return super().forward(ids.to(torch.long), position)


def _program(path: Path, module: torch.nn.Module, dtype: torch.dtype = torch.long, **methods: Any) -> Path:
    examples = torch.ones((1, 1), dtype=dtype), torch.ones(1, dtype=dtype)
    to_edge(torch.export.export(module, examples), constant_methods=methods or None).to_executorch().save(str(path))
    return path


def test_metadata_are_read(tmp_path: Path) -> None:
    described = read_program(_program(tmp_path / "m.pte", _Logits(), get_max_seq_len=8, get_eos_ids=[3, 5]))
    assert (described.cache_length, described.vocab, described.ends) == (8, 9, (3, 5))
    assert (described.backend, described.mode, described.shape) == (None, Mode.DECODE, CallShape())
    described = read_program(_program(tmp_path / "m.pte", _LastLogits(), get_max_seq_len=8, get_max_context_len=16))
    assert (described.cache_length, described.logits, described.ends) == (16, (1, 9), ())


@pytest.mark.parametrize(
    ("module", "dtype", "methods"),
    [
        (_Logits, torch.long, {}),
        (_Logits, torch.long, {"get_max_seq_len": 8, "use_kv_cache": False}),
        (_TakesNumbers, torch.float32, {"get_max_seq_len": 8}),
        (_TwoOutputs, torch.long, {"get_max_seq_len": 8}),
    ],
)
def test_program_that_is_not_one_with_a_static_cache_is_one_sentence(
    tmp_path: Path, module: type[torch.nn.Module], dtype: torch.dtype, methods: dict[str, Any]
) -> None:
    with refused("unsupported-program"):
        read_program(_program(tmp_path / "m.pte", module(), dtype, **methods))


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda path: path.write_bytes(b"PK\3\4 and so on"), "invalid-program"),
        (lambda path: path.write_bytes(b""), "invalid-program"),
        (lambda path: None, "file-error"),
    ],
    ids=["another format", "empty", "missing"],
)
def test_a_file_that_is_not_a_program_is_refused(tmp_path: Path, write: Any, code: str) -> None:
    write(tmp_path / "model.pte")
    with refused(code):
        read_program(tmp_path / "model.pte")


def test_damaged_file_ends_no_more_than_its_reader(program: Path, tmp_path: Path) -> None:
    content = program.read_bytes()
    (tmp_path / "model.pte").write_bytes(content[: len(content) // 3])
    with pytest.raises(ProgramFileError):
        read_program(tmp_path / "model.pte")


def _described(**changes: Any) -> ProgramFile:
    values: dict[str, Any] = {
        "path": Path("m.pte"),
        "rows": 1,
        "cache_length": 16,
        "mode": Mode.DYNAMIC,
        "shape": CallShape(),
        "logits": (1, 16, 64),
        "dtype": "bfloat16",
        "backend": "xnnpack",
    }
    return ProgramFile(**{**values, **changes})


def test_options_come_from_the_file() -> None:
    asked = asked_of_file(_described(), Asked(), 64)
    assert asked == Asked("xnnpack", 16, "bfloat16", "dynamic")
    assert asked_of_file(_described(backend="xnnpack-8da4w"), Asked(), None).dtype == "float32"
    bounded = asked_of_file(_described(rows=3, shape=CallShape(last_logits=True, prompt_chunk=4)), Asked(), 64)
    assert (bounded.batch_size, bounded.logits, bounded.prompt_chunk) == (3, "last", 4)


@pytest.mark.parametrize(
    ("described", "asked", "code"),
    [
        (_described(), Asked(mode="decode"), "conflicting-options"),
        (_described(), Asked(cache_length=16), "conflicting-options"),
        (_described(logits=(1, 64)), Asked(), "unsupported-program"),
        (_described(logits=(1, 16, 65)), Asked(), "other-model"),
    ],
)
def test_options_that_contradict_a_file_are_errors(described: ProgramFile, asked: Asked, code: str) -> None:
    with refused(code):
        asked_of_file(described, asked, 64)


def test_backend_that_a_file_does_not_name_follows_from_its_delegates(monkeypatch: pytest.MonkeyPatch) -> None:
    found: tuple[str, ...] = ()
    monkeypatch.setattr(program_file, "delegates_of", lambda _: found)
    assert asked_of_file(_described(backend=None), Asked(), None).backend == "portable"
    found = ("XnnpackBackend",)
    assert asked_of_file(_described(backend=None), Asked(), None).backend == "xnnpack"
    found = ("OpenvinoBackend",)
    assert asked_of_file(_described(backend=None), Asked(dtype="float32"), None).backend == "openvino"
    found = ("VulkanBackend",)
    assert asked_of_file(_described(backend=None), Asked(backend="portable"), None).backend == "portable"
    with refused("backend-unclear"):
        asked_of_file(_described(backend=None), Asked(), None)


def test_delegates_declare_one_backend() -> None:
    declared = [backend.delegates for backend in BACKENDS.values() if backend.delegates is not None]
    assert len(declared) == len(set(declared))


def test_program_that_takes_too_long_to_load_is_not_called_damaged(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_file, "_SECONDS", 1)
    monkeypatch.setattr(program_file, "_read", lambda _: time.sleep(60))
    with refused("invalid-program"):
        read_program(program)
