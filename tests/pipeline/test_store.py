"""The artifact store: found again by content, never trusted blindly, never too big."""

from __future__ import annotations

import hashlib
import inspect
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.exporters.resolve import Exporter
from conformance.pipeline import lowering, store
from conformance.pipeline.artifact import Artifact, CacheBuffer, EmissionReport, PartitionReport, UndelegatedNode
from conformance.pipeline.backends import (
    BACKENDS,
    PORTABLE,
    XNNPACK,
    base,
    ethos_u,
    quantised,
    tosa,
    vgf,
    vulkan,
    webgpu,
    xnnpack,
)
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store, key_of, sources_of
from conformance.reference import convert_and_export_with_cache
from tests.faults import programs

pytestmark = pytest.mark.torch

_MIB = 1 << 20


class _Scaled(nn.Module):
    def __init__(self, weight: float = 1.0, function: Callable[..., Any] = torch.sin) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([weight]), persistent=False)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.function(x) * self.get_buffer("weight")
        return scaled


def _exported(module: nn.Module, length: int = 3, dim: Any = None) -> ExportedProgram:
    shapes = {"x": {0: dim}} if dim is not None else None
    return torch.export.export(module, (torch.zeros(length),), dynamic_shapes=shapes)


def _artifact(size: int = 10) -> Artifact:
    node = UndelegatedNode("aten.mean.dim", "float32 [1, 1, 64]", "modeling.py:1 in forward: x.mean(-1)", "")
    partition = PartitionReport(
        {"XnnpackBackend": 2},
        {"aten.mul.Tensor": 7},
        (node,),
        ("aten_add (aten.add.Tensor)",),
        (),
        (),
        (),
        ("b_state",),
        {"b_cache": "aten.index_put.default"},
        (),
    )
    emission = EmissionReport(
        ("aten::mean.out",),
        300,
        280,
        256,
        128,
        128,
        (CacheBuffer("b_cache", "float32", (1, 64), 256),),
        (),
        (),
        (),
        (),
        {},
    )
    return Artifact(b"\n\x00" * (size // 2), partition, emission, 1.5, 0.25)


def _signed(body: bytes) -> bytes:
    """An entry whose digest is right, and whose content no suite has written."""
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", limit=1)
    assert store.get("a") is None
    store.put("a", _artifact())
    assert store.get("a") == _artifact()
    assert store.get("b") is None


def test_equal_programs_have_equal_keys() -> None:
    assert key_of(_exported(_Scaled()), XNNPACK) == key_of(_exported(_Scaled()), XNNPACK)


@pytest.mark.parametrize(
    "other",
    [
        lambda: _exported(_Scaled(weight=1.0000001)),
        lambda: _exported(_Scaled(function=torch.cos)),
        lambda: _exported(_Scaled(), length=4),
        lambda: _exported(_Scaled(), dim=Dim("n", max=8)),
    ],
    ids=["weights", "operator", "shape", "dynamic"],
)
def test_another_program_has_another_key(other: Callable[[], ExportedProgram]) -> None:
    assert key_of(_exported(_Scaled()), XNNPACK) != key_of(other(), XNNPACK)


def test_a_range_and_a_backend_are_part_of_the_key() -> None:
    short, long = (_exported(_Scaled(), dim=Dim("n", max=most)) for most in (8, 16))
    assert key_of(short, XNNPACK) != key_of(long, XNNPACK)
    assert key_of(short, XNNPACK) != key_of(short, PORTABLE)


def test_what_a_program_tells_a_runner_is_part_of_the_key() -> None:
    program = _exported(_Scaled())
    keys = {key_of(program, XNNPACK, methods) for methods in ({}, {"get_max_seq_len": 8}, {"get_max_seq_len": 16})}
    assert len(keys) == 3
    assert key_of(program, XNNPACK) in keys


def test_what_is_edited_during_a_run_does_not_change_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs are those of the code that was imported, and would be found by a run of the new one."""
    before = sources_of(XNNPACK)
    edited = tmp_path / "lowering.py"
    edited.write_text("edited = True\n", encoding="utf-8")
    monkeypatch.setattr(lowering.__spec__, "origin", str(edited))
    assert sources_of(XNNPACK) == before


@pytest.mark.parametrize(
    ("backend", "modules"),
    [
        ("xnnpack-8da4w", [quantised, xnnpack]),
        ("xnnpack-8da8w", [quantised]),
        ("xnnpack-pt2e", [quantised]),
        ("webgpu", [webgpu, vulkan]),
        ("vgf", [vgf, tosa]),
        ("ethos-u55", [ethos_u, tosa]),
        ("xnnpack-fp16", [xnnpack]),
    ],
)
def test_what_a_backend_declares_is_among_its_sources(backend: str, modules: list[ModuleType]) -> None:
    sources = sources_of(BACKENDS[backend])
    assert all(inspect.getsource(module) in sources for module in modules)
    assert inspect.getsource(base) not in sources, "an edit of it would lower everything again"


def test_another_version_of_what_a_backend_needs_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    program, keys = _exported(_Scaled()), {}
    for version in ("2026.0", "2026.1", None):
        monkeypatch.setattr(store, "installed", lambda name, version=version: {"openvino": version}.get(name))
        keys[version] = [key_of(program, each) for each in (BACKENDS["openvino"], XNNPACK)]
    assert len({openvino for openvino, _ in keys.values()}) == 3
    assert len({other for _, other in keys.values()}) == 1


def test_an_environment_in_another_place_has_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def keyed(script: str, library: str, version: str = "1") -> str:
        installed = Mock(
            version=version, read_text=Mock(return_value=f"../../../bin/flatc,{script},1\ntorch/a.so,{library},1")
        )
        monkeypatch.setattr(metadata, "distribution", Mock(return_value=installed))
        return key_of(_exported(_Scaled()), XNNPACK)

    assert keyed("sha256=here", "sha256=built") == keyed("sha256=there", "sha256=built")
    assert keyed("sha256=here", "sha256=built") != keyed("sha256=here", "sha256=rebuilt")
    assert keyed("sha256=here", "sha256=built") != keyed("sha256=here", "sha256=built", version="2")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:70] + b"x" + content[71:],
        lambda _: b"",
        lambda _: b"not an artifact",
        lambda _: _signed(b"no JSON\nprogram"),
        lambda _: _signed(b"[1]\nprogram"),
        lambda _: _signed(b'{"partition": 1}\nprogram'),
        lambda content: content + b"x" * _MIB,
    ],
    ids=["cut", "changed", "empty", "foreign", "no-json", "no-object", "other-fields", "too-large"],
)
def test_a_damaged_entry_is_not_trusted(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = Store(tmp_path, limit=1)
    store.put("a", _artifact())
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert store.get("a") is None
    store.put("a", _artifact())
    assert store.get("a") == _artifact()


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.parent / "b.artifact")])
def test_only_an_ordinary_file_is_an_entry(tmp_path: Path, put: Callable[[Path], None]) -> None:
    store = Store(tmp_path, limit=1)
    store.put("b", _artifact())
    put(tmp_path / "a.artifact")
    assert store.get("a") is None


def test_one_too_large_for_the_store_removes_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=1)
    store.put("a", _artifact())
    store.put("b", _artifact(2 * _MIB))
    assert store.get("a") == _artifact()
    assert store.get("b") is None


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=1)
    for age, key in enumerate(("used", "old", "new")):
        store.put(key, _artifact(_MIB // 4))
        os.utime(next(tmp_path.glob(f"{key}*")), (age, age))
    store.get("used")
    store.put("last", _artifact(_MIB // 4))
    assert [key for key in ("used", "old", "new", "last") if store.get(key)] == ["used", "new", "last"]


def test_many_writers_leave_whole_entries_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=1)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda number: store.put(f"{number % 4}", _artifact(1000)), range(80)):
            pass
    assert [store.get(f"{number}") for number in range(4)] == [_artifact(1000)] * 4
    assert len(list(tmp_path.iterdir())) == 4


def _forked(job: Callable[[], None]) -> int:
    """The id of a process that does `job`, and whose exit code says whether it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            job()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def test_two_processes_share_a_store_and_keep_to_its_size(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=1)
    sizes = {str(number): _MIB // 8 + 2 * number for number in range(16)}  # twice what there is room for

    def use(seed: int) -> None:
        keys = random.Random(seed)
        for _ in range(150):
            key = keys.choice(list(sizes))
            found = store.get(key)
            assert found in (None, _artifact(sizes[key]))
            if found is None:
                store.put(key, _artifact(sizes[key]))

    children = [_forked(lambda seed=seed: use(seed)) for seed in (1, 2)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    store.put("last", _artifact())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= _MIB
    assert all(path.suffix == ".artifact" for path in tmp_path.iterdir())


def test_a_killed_writer_leaves_no_entry_that_is_wrong_and_nothing_for_long(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=8)
    moments = random.Random(0)

    def write() -> None:
        while True:
            store.put("a", _artifact(_MIB))

    for _ in range(40):
        child = _forked(write)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert store.get("a") in (None, _artifact(_MIB))
    (tmp_path / "left.partial").write_bytes(b"half")
    for path in tmp_path.glob("*.partial"):
        os.utime(path, (0, 0))
    store.put("b", _artifact())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.artifact", "b.artifact"]


def test_a_directory_that_cannot_be_written_costs_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store", limit=1)
    store.put("a", _artifact())
    assert store.get("a") is None


def test_nothing_is_lowered_twice_and_a_changed_subject_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = Mock(wraps=lowering.lower)
    monkeypatch.setattr(lowering, "lower", lower)

    def program(export: Callable[..., Any]) -> bytes:
        builder = Builder({"mine": Exporter("mine", export)}, store=Store(tmp_path, limit=10))
        return builder.program(Program("llama", "mine", Mode.DECODE, "portable")).artifact.program

    first = program(convert_and_export_with_cache)
    assert lower.call_count == 1
    assert program(convert_and_export_with_cache) == first
    assert lower.call_count == 1
    assert program(programs.off_by_one) != first
    assert lower.call_count == 2
