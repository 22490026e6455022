"""Backends that are named on the command line and that the suite does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.core.contract import Mode
from conformance.core.verdicts import CellFailedError, NotRunError
from conformance.exporters.resolve import Exporter
from conformance.pipeline.backends import backend_called
from conformance.pipeline.backends.named import recipe_names
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from conformance.reference import convert_and_export_with_cache
from tests.support.harness import judge, one_layer, suite
from tests.support.messages import refused

pytestmark = pytest.mark.torch

_REFERENCE = Exporter("reference", convert_and_export_with_cache)
_SKELETON = "tests.backends.skeleton"


def _builder(store: Store | None = None) -> Builder:
    return Builder({_REFERENCE.name: _REFERENCE}, build=one_layer, store=store)


def _judge(clause: str, name: str, builder: Builder | None = None) -> object:
    return judge(clause, "llama", _REFERENCE, backend=name, builder=builder or _builder())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("xnpack", "unknown-name"),
        (f"{_SKELETON}:MIME", "unknown-name"),
        ("tests.backends.skeletons:MINE", "cannot-import"),
        (f"{_SKELETON}:FLOAT32_TOLERANCE", "unknown-name"),
        ("recipe:FP23", "unknown-name"),
        (f"{_SKELETON}:TRAINS", "unsupported-recipe"),
    ],
)
def test_a_name_that_is_not_a_backend_is_refused(name: str, code: str) -> None:
    with refused(code):
        backend_called(name)


@pytest.mark.parametrize("name", ["MINE", "RECIPE", "partitioners"])
def test_each_form_is_lowered_and_run(name: str) -> None:
    backend = backend_called(f"{_SKELETON}:{name}")
    assert (backend.name, backend.traits.delegating, backend.traits.runs) == (f"{_SKELETON}:{name}", True, True)
    builder = _builder()
    _judge("PAR-1", backend.name, builder)
    _judge("LOW-1", backend.name, builder)
    with pytest.raises(NotRunError, match=r"nothing is listed .* `conformance matrix partitions RUN.json` lists"):
        _judge("LOW-3", backend.name, builder)
    if backend.declares is None:
        with pytest.raises(NotRunError, match="has no `declares`"):
            _judge("LOW-10", backend.name, builder)
    else:
        _judge("LOW-10", backend.name, builder)


def test_recipes_of_the_installed_release_are_named() -> None:
    assert "recipe:FP32" in recipe_names()
    assert "recipe:PT2E_INT8_DYNAMIC_PER_CHANNEL" in recipe_names()
    _judge("PAR-1", "recipe:FP32")


@pytest.mark.parametrize(
    ("name", "clause", "signature"),
    [
        (
            "tests.faults.lowerings:without_matrix_products",
            "LOW-3",
            "lower:heavy-operator-left-out:aten.mm.default",
        ),
        (f"{_SKELETON}:QUANTISES_ONE", "LOW-11", "lower:little-quantised"),
    ],
)
def test_faulty_backend_that_is_named_is_caught(name: str, clause: str, signature: str) -> None:
    with pytest.raises(CellFailedError) as caught:
        _judge(clause, name)
    assert caught.value.signature == signature


def test_its_programs_are_not_kept(tmp_path: Path) -> None:
    """What made them may change without the store's knowing."""
    builder = _builder(Store(tmp_path, limit=100))
    _judge("LOW-1", f"{_SKELETON}:MINE", builder)
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_run_records_it_and_names_it_in_its_commands(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    name = f"{_SKELETON}:MINE"
    options = ["--arch", "llama", "--backend", name, "--mode", Mode.DECODE, "--clause", "LOW-3,LOW-10", "-n0"]
    ended = suite(*options, "--output", str(record))
    assert ended.returncode == 1, ended.stdout[-2000:]
    assert "nothing is listed" in ended.stdout
    assert f"llama/reference/{name}/decode/LOW-10" in record.read_text()
