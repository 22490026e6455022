"""The matrix: what it says, and what it says when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from conformance.core.cells import Cell, Selection, plan
from conformance.core.contract import CHECKED, Mode
from conformance.core.paths import CONFIGS
from conformance.core.verdicts import Stage
from conformance.matrix.discovery import registered
from conformance.matrix.schema import MatrixError, Tier, load_matrix
from conformance.models.fixtures import fixture_config
from conformance.pipeline.backends import BACKENDS

_ROW = """\
schema_version: 1
architectures:
  llama:
    tier: smoke
    caches: [full_attention]
    exercises: grouped-query attention
"""
_EXPECT = """\
    expect:
      - clauses: [PAR-1]
        backends: [xnnpack]
        modes: [decode]
        subject: any
        stage: execute
        signature: execute:logits-differ
        reason: a reason that is long enough
        when: {executorch: "<=1.5.1"}
"""


def _written(path: Path, text: str) -> Path:
    file = path / "models_matrix.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_core_has_the_twelve_and_smoke_three() -> None:
    matrix = load_matrix()
    assert len(matrix.in_tier(Tier.CORE)) == 12
    assert len(matrix.in_tier(Tier.SMOKE)) == 3


def test_each_row_has_a_fixture_and_each_fixture_a_row() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(load_matrix().architectures)


@pytest.mark.parametrize("architecture", sorted(set(registered()) & set(load_matrix().architectures)))
def test_fixture_has_only_keys_that_its_config_class_knows(architecture: str) -> None:
    assert type(fixture_config(architecture)) is CONFIG_MAPPING[architecture]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_ROW.replace("tier: smoke", "tier: smoky"), ":4: architectures.llama.tier"),
        (_ROW.replace("exercises", "exercizes"), "did you mean 'exercises'?"),
        (_ROW.replace("    tier: smoke\n", ""), "architectures.llama.tier: this key is missing"),
        (_ROW + _EXPECT.replace("stage: execute", "stage: exekute"), ":12: architectures.llama.expect.0.stage"),
        (_ROW + _EXPECT.replace("<=1.5.1", "at most 1.5"), "is no version specifier"),
        (
            _ROW + "retired: {mega: {since: five, reason: gone from later releases}}\n",
            "mega.since: Value error, 'five' is no",
        ),
        (_ROW + _EXPECT.replace("a reason that is long enough", "flaky"), "expect.0.reason"),
        (_ROW + _EXPECT.replace("a reason that is long enough", "TODO"), "the reason is still to be found"),
        ("architectures: [", "models_matrix.yaml:1:"),
        ("", "expected a mapping"),
    ],
)
def test_error_says_where_and_what(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(MatrixError) as caught:
        load_matrix(_written(tmp_path, text))
    assert told in str(caught.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="No such file"):
        load_matrix(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("cell", "version", "expected"),
    [
        (Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1"), "1.5.1", True),
        (Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1"), "1.6.0", False),
        (Cell("llama", "reference", "xnnpack", Mode.DYNAMIC, "PAR-1"), "1.5.1", False),
        (Cell("llama", "reference", "portable", Mode.DECODE, "PAR-1"), "1.5.1", False),
        (Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-6"), "1.5.1", False),
    ],
)
def test_expectation_speaks_of_exact_cells_and_versions(
    tmp_path: Path, cell: Cell, version: str, expected: bool
) -> None:
    matrix = load_matrix(_written(tmp_path, _ROW + _EXPECT))
    assert (matrix.expectation(cell, {"executorch": version}) is not None) is expected


def test_expectation_that_names_no_cell_is_found(tmp_path: Path) -> None:
    text = _ROW + _EXPECT.replace("[PAR-1]", "[PAR-2]")  # which is for the dynamic mode only
    matrix = load_matrix(_written(tmp_path, text))
    backends = [backend.traits for backend in BACKENDS.values()]
    cells = list(plan(Selection(["llama"], ["reference"], backends, CHECKED)))
    assert matrix.unmatched(cells) == ["llama: expect[0] names no cell: clause PAR-2, backend xnnpack, mode decode"]


def _known(tmp_path: Path, clause: str, signature: str, asked: str) -> bool:
    """Whether a failure of another model in clause `asked` is known by a row's expectation of `clause`."""
    text = _EXPECT.replace("PAR-1", clause).replace("execute:logits-differ", signature).replace("execute", "lower")
    matrix = load_matrix(_written(tmp_path, _ROW + text))
    cell = Cell("somebodys", "reference", "xnnpack", Mode.DECODE, asked)
    return matrix.known_limit(cell, Stage.LOWER, "lower:stored-twice", {"executorch": "1.5.1"}) is not None


def test_what_a_backend_cannot_do_is_known_of_other_models_too(tmp_path: Path) -> None:
    assert _known(tmp_path, "LOW-4", "lower:stored-twice", "LOW-4")
    assert not _known(tmp_path, "LOW-4", "lower:stored-twice", "LOW-3")
    assert not _known(tmp_path, "LOW-4", "lower:another", "LOW-4")


def test_wrong_result_of_another_model_is_never_known(tmp_path: Path) -> None:
    assert not _known(tmp_path, "PAR-1", "lower:stored-twice", "PAR-1")
