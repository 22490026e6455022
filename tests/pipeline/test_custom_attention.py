"""Programs with ExecuTorch's own operators: built, run, and not built where they do not fit."""

from __future__ import annotations

import sys

import pytest

from conformance.core import attention
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError
from conformance.decoding.custom_operators import CUSTOM_ATTENTION, register_operators_of
from conformance.exporters.resolve import Exporter
from conformance.pipeline.builder import Builder, BuiltProgram
from conformance.reference import convert_and_export_with_cache, runner_methods, settings
from tests.support.harness import judge, one_layer

pytestmark = pytest.mark.torch

_BACKEND = "xnnpack-custom-attention"
_REFERENCE = Exporter("reference", convert_and_export_with_cache, metadata=runner_methods)


def _program(
    architecture: str, exporter: Exporter = _REFERENCE, *, backend: str = _BACKEND, asked: str = "portable"
) -> BuiltProgram:
    builder = Builder({exporter.name: exporter}, attention=asked)
    return builder.program(Program(architecture, exporter.name, Mode.DECODE, backend))


@pytest.mark.parametrize("mode", Mode)
def test_programs_on_the_runtime_decode_and_say_what_they_call(mode: Mode) -> None:
    """All clauses share one lowering, of one layer."""
    builder = Builder({"reference": _REFERENCE}, build=one_layer)
    for clause in ("PAR-1", "PAR-7", "LOW-6", "LOW-12", "RUN-1"):
        case = judge(clause, "llama", _REFERENCE, mode=mode, backend=_BACKEND, builder=builder)
    partition = case.artifact.partition
    assert partition.undelegated["llama.update_cache.default"] == 2
    # Keys or values of one token, 2 heads of 8, are read and written in place: not the cache.
    assert partition.moved["llama.update_cache.default"] == 2 * 2 * 2 * 8 * 4
    assert {name for name in case.built.kernels if name.startswith("llama")} == {
        "llama::custom_sdpa.out",
        "llama::update_cache.out",
    }
    assert case.built.methods["use_sdpa_with_kv_cache"] is True


def test_what_it_does_not_fit_is_not_applicable_with_the_reason() -> None:
    with pytest.raises(NotApplicableError, match=r"keys are \d+ wide, values \d+"):
        _ = _program("deepseek_v3").exported


def test_where_it_is_asked_for_a_refusal_is_a_failure() -> None:
    for backend in (_BACKEND, "xnnpack", "exported"):
        with pytest.raises(CellFailedError, match=r"keys are \d+ wide, values \d+"):
            _ = _program("deepseek_v3", asked="custom", backend=backend).exported


def test_an_exporter_without_the_option_is_not_applicable() -> None:
    def export(model: object, ids: object = None, position: object = None) -> object:
        raise AssertionError

    with pytest.raises(NotApplicableError, match="mine takes no attention"):
        _ = _program("llama", Exporter("mine", export)).exported  # type: ignore[arg-type]  # it is not called


def test_metadata_without_the_option_is_not_applicable() -> None:
    exporter = Exporter("mine", convert_and_export_with_cache, metadata=lambda model, *, dynamic: {})
    with pytest.raises(NotApplicableError, match="mine takes no attention"):
        _ = _program("llama", exporter).methods


def test_without_the_library_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, CUSTOM_ATTENTION.module, None)
    with pytest.raises(NotRunError, match="no library of the operators llama::custom_sdpa"):
        _ = _program("llama").exported
    with pytest.raises(NotRunError, match="no library"):
        register_operators_of(b"..aten::add..llama::custom_sdpa..")
    register_operators_of(b"..aten::add..")


def test_its_programs_are_kept_apart() -> None:
    custom, portable = _program("llama"), _program("llama", backend="xnnpack")
    assert custom._store_key != portable._store_key
    assert custom.exported is not portable.exported


def test_names_are_those_of_the_reference() -> None:
    assert attention.ATTENTIONS == settings.ATTENTIONS
