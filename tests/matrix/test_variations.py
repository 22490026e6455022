"""Variations of fixtures: what their files say, the rows that they make, and which of them a run judges."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conformance.core.cells import EXPORTED, BackendTraits, Cell, Selection, plan, row_name, split_row
from conformance.core.contract import CHECKED, Mode
from conformance.core.paths import ROOT
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix.schema import CAUSES, Matrix, Tier, load_matrix, write_matrix
from conformance.matrix.update import updated_matrix
from conformance.matrix.variations import FOLDER, variation_text
from conformance.matrix.yaml_file import read_yaml
from conformance.records.run import CellRecord, Environment, RunInfo, RunRecord
from conformance.runner.judge import bare_record
from conformance.runner.options import with_variations
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_ROWS = """\
schema_version: 2
architectures:
  llama: {tier: smoke, caches: [full_attention], known: [tied], exercises: grouped-query attention}
  gpt2: {tier: core, caches: [full_attention], known: [tied], exercises: learned positions}
"""
_CAUSES = """\
tied:
  exporter: reference
  reason: a reason that is long enough
  fails:
    - {on: xnnpack, mode: decode, clauses: [LOW-4], signature: lower:stored-twice}
rounded:
  exporter: reference
  reason: another that is long enough
  fails:
    - {on: exported, mode: decode, clauses: [PAR-1], signature: execute:logits-differ}
"""
_LONG = """\
what: a long cache
cache_length: 320
core: [llama]
rows:
  llama: {config: {vocab_size: 300}, known: [rounded], without: [tied]}
  gpt2: {config: {vocab_size: 300}}
"""


def _load(path: Path, long: str = _LONG) -> Matrix:
    file = path / "models_matrix.yaml"
    file.write_text(_ROWS, encoding="utf-8")
    for folder, name, text in ((CAUSES, "owner", _CAUSES), (FOLDER, "long", long)):
        (path / folder).mkdir(parents=True, exist_ok=True)
        (path / folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return load_matrix(file)


def test_a_row_has_both_names() -> None:
    assert row_name("llama", "long") == "llama+long"
    assert split_row("llama+long") == ("llama", "long")
    assert split_row("llama") == ("llama", None)


def test_a_variation_is_a_row_with_causes_of_its_own(tmp_path: Path) -> None:
    matrix = _load(tmp_path)
    assert list(matrix.rows) == ["llama", "llama+long", "gpt2", "gpt2+long"]
    assert set(matrix.causes_of("llama+long")) == {"rounded"}
    assert set(matrix.causes_of("gpt2+long")) == {"tied"}
    assert matrix.rows["llama+long"].tier is Tier.CORE
    assert matrix.rows["gpt2+long"].tier is Tier.FULL
    assert matrix.row("gpt2+short") is None


@pytest.mark.parametrize(
    "wrong",
    [
        _LONG.replace("  gpt2:", "  gpt3:"),
        _LONG.replace("core: [llama]", "core: [mistral]"),
        _LONG.replace("known: [rounded]", "known: [rounded, runded]"),
        _LONG.replace("without: [tied]", "without: [rounded]"),
        _LONG.replace("cache_length", "cache_lenght"),
        _LONG + "dtype: float8\n",
        "[]\n",
    ],
)
def test_a_mistake_is_named_with_its_line(wrong: str, tmp_path: Path) -> None:
    with refused("invalid-matrix"):
        _load(tmp_path, wrong)


def test_the_committed_files_are_what_is_written() -> None:
    matrix = load_matrix()
    assert set(matrix.variations) == {path.stem for path in (ROOT / FOLDER).glob("*.yaml")}
    for name, variation in matrix.variations.items():
        file = read_yaml(ROOT / FOLDER / f"{name}.yaml")
        assert file.path.read_text(encoding="utf-8") == variation_text(variation, file.header), name


@pytest.mark.parametrize(
    ("arguments", "rows", "not_lowered"),
    [
        ((Tier.SMOKE, ("llama",), None, None), ("llama",), ()),
        ((Tier.CORE, ("llama", "gpt2"), None, None), ("llama", "llama+long", "gpt2"), ("llama+long",)),
        ((Tier.FULL, ("llama", "gpt2"), None, None), ("llama", "llama+long", "gpt2", "gpt2+long"), ()),
        ((Tier.CORE, ("gpt2",), None, "gpt2"), ("gpt2",), ()),
        ((Tier.CORE, ("gpt2",), "all", "gpt2"), ("gpt2+long",), ()),
        ((Tier.CORE, ("llama", "gpt2"), "long", None), ("llama+long", "gpt2+long"), ()),
        ((Tier.FULL, ("llama",), "none", None), ("llama",), ()),
        ((Tier.CORE, ("llama+long",), None, "llama+long"), ("llama+long",), ()),
    ],
)
def test_which_rows_a_run_judges(
    arguments: tuple[Tier, tuple[str, ...], str | None, str | None],
    rows: tuple[str, ...],
    not_lowered: tuple[str, ...],
    tmp_path: Path,
) -> None:
    assert with_variations(_load(tmp_path), *arguments) == (rows, not_lowered)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("lnog", "unknown-name"),
        ("long,none", "conflicting-options"),
        ("long", "conflicting-options"),
        ("all", "conflicting-options"),
    ],
)
def test_a_variation_that_does_not_exist_is_refused(text: str, code: str, tmp_path: Path) -> None:
    with refused(code):
        with_variations(_load(tmp_path), Tier.CORE, ("mistral",), text, "mistral")


def test_of_a_row_that_is_not_lowered_exported_programs_are_judged() -> None:
    xnnpack = BackendTraits("xnnpack", delegating=True)
    selection = Selection(["llama", "llama+long"], ["reference"], [xnnpack], CHECKED, not_lowered=["llama+long"])
    columns = {(cell.architecture, cell.backend) for cell in plan(selection)}
    assert columns == {
        ("llama", "eager"),
        ("llama", EXPORTED),
        ("llama", "xnnpack"),
        ("llama+long", "eager"),
        ("llama+long", EXPORTED),
    }


def _judged(clause: str, backend: str, verdict: Verdict, signature: str | None = None) -> CellRecord:
    cell = Cell("gpt2+long", "reference", backend, Mode.DECODE, clause)
    stage = Stage(signature.partition(":")[0]) if signature else None
    return dataclasses.replace(bare_record(cell, verdict), stage=stage, signature=signature)


def test_what_a_run_saw_of_a_variation_is_written_into_its_file(tmp_path: Path) -> None:
    matrix = _load(tmp_path)
    cells = (
        _judged("LOW-4", "xnnpack", Verdict.UNEXPECTED_PASS),
        _judged("PAR-1", "exported", Verdict.FAIL, "execute:logits-differ"),
    )
    information = RunInfo("1", "2026-01-01T00:00:00Z", None, True, {}, None)
    run = RunRecord(1, information, Environment("3.12", "Linux", "one", {"torch": "2.13.0"}), cells)
    write_matrix(updated_matrix(matrix, run).matrix, tmp_path / "models_matrix.yaml")
    varied = load_matrix(tmp_path / "models_matrix.yaml")
    assert set(varied.causes_of("gpt2+long")) == {"rounded"}
    assert set(varied.causes_of("gpt2")) == {"tied"}
    assert "gpt2: {config: {vocab_size: 300}, known: [rounded], without: [tied]}" in (
        tmp_path / FOLDER / "long.yaml"
    ).read_text(encoding="utf-8")
