"""The matrix: what it says, and what it says when it is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from conformance.core import cells
from conformance.core.cells import Cell, Selection, plan
from conformance.core.contract import CHECKED, CLAUSES, Clause, Mode, Scope
from conformance.core.paths import CONFIGS
from conformance.core.verdicts import Stage
from conformance.matrix.known_failures import Blocker, Cause, Limit, Violation
from conformance.matrix.schema import (
    CAUSES,
    MATRIX_PATH,
    Matrix,
    Tier,
    causes_text,
    load_matrix,
    rows_text,
    write_matrix,
)
from conformance.pipeline.backends import BACKENDS
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_ROW = """\
schema_version: 2
architectures:
  llama: {tier: smoke, caches: [full_attention], known: [wrong], exercises: grouped-query attention}
"""
_CAUSE = """\
wrong:
  exporter: any
  when: {executorch: "<=1.5.1"}
  reason: a reason that is long enough
  fails:
    - {on: xnnpack, mode: decode, clauses: [PAR-1], signature: execute:logits-differ}
"""
_BLOCKER = "{on: [exported, xnnpack], mode: dynamic, blocks: export, signature: export:UserError}"
_LATEST = {"torch": "2.13.0", "transformers": "5.23.0", "executorch": "1.5.1"}


def _written(path: Path, rows: str, causes: str = _CAUSE) -> Path:
    file = path / "models_matrix.yaml"
    file.write_text(rows, encoding="utf-8")
    (path / CAUSES).mkdir(exist_ok=True)
    (path / CAUSES / "owner.yaml").write_text(causes, encoding="utf-8")
    return file


def _with(path: Path, *patterns: str) -> Matrix:
    head = _CAUSE.partition("    - ")[0]
    return load_matrix(_written(path, _ROW, head + "".join(f"    - {pattern}\n" for pattern in patterns)))


def _all_cells() -> tuple[Cell, ...]:
    backends = [backend.traits for backend in BACKENDS.values()]
    return tuple(plan(Selection(["llama"], ["reference"], backends, CHECKED)))


def test_smoke_is_within_core_and_core_within_full() -> None:
    smoke, core, full = (set(load_matrix().in_tier(tier)) for tier in Tier)
    assert smoke < core < full


def test_each_row_has_a_fixture_and_each_fixture_a_row() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(load_matrix().architectures)


def test_the_committed_files_are_what_is_written() -> None:
    matrix = load_matrix()
    text = MATRIX_PATH.read_text(encoding="utf-8")
    header = text[: text.index("schema_version")]
    assert rows_text(matrix, header) == text
    for owner in set(matrix.owners.values()):
        causes = (MATRIX_PATH.parent / CAUSES / f"{owner}.yaml").read_text(encoding="utf-8")
        title = causes.partition("\n")[0] + "\n"
        assert title.startswith("# ")
        assert causes_text(matrix, owner, title) == causes


def test_each_pattern_of_the_committed_causes_names_cells() -> None:
    assert load_matrix().patterns_without_cells(_all_cells()) == []


@pytest.mark.parametrize(
    ("rows", "causes", "code"),
    [
        (_ROW.replace("tier: smoke", "tier: smoky"), _CAUSE, "invalid-matrix"),
        (_ROW.replace("exercises", "exercizes"), _CAUSE, "invalid-matrix"),
        (_ROW.replace("tier: smoke, ", ""), _CAUSE, "invalid-matrix"),
        (_ROW.replace("[wrong]", "[wrogn]"), _CAUSE.replace("wrong", "wrong"), "invalid-matrix"),
        (
            _ROW.replace("[wrong]", "[wrong, wrogn]"),
            _CAUSE,
            "invalid-matrix",
        ),
        (_ROW.replace("[wrong]", "[wrong, wrong]"), _CAUSE, "invalid-matrix"),
        (_ROW.replace("known: [wrong], ", ""), _CAUSE, "invalid-matrix"),
        (_ROW, _CAUSE + _CAUSE.splitlines()[-1].replace("{", "{rows: llama, ") + "\n", "invalid-matrix"),
        (_ROW, _CAUSE.replace("execute:logits", "exekute:logits"), "invalid-matrix"),
        (
            _ROW,
            _CAUSE.replace("clauses: [PAR-1]", "blocks: export"),
            "invalid-matrix",
        ),
        (_ROW, _CAUSE.replace("clauses: [PAR-1], ", ""), "invalid-matrix"),
        (_ROW, _CAUSE.replace("mode: decode", "mod: decode"), "invalid-matrix"),
        (_ROW, _CAUSE.replace("on: xnnpack", "rows: gemma2, on: xnnpack"), "invalid-matrix"),
        (_ROW, _CAUSE.replace("<=1.5.1", "at most 1.5"), "invalid-matrix"),
        (_ROW, _CAUSE.replace("a reason that is long enough", "flaky"), "invalid-matrix"),
        (_ROW, _CAUSE.replace("a reason that is long enough", "TODO"), "invalid-matrix"),
        (_ROW, _CAUSE.replace("wrong:", "Wrong!:"), "invalid-matrix"),
        (_ROW, _CAUSE + _CAUSE, "invalid-yaml"),
        (_ROW, _CAUSE.replace("wrong:", "wrong: &wrong") + "other: *wrong\n", "invalid-yaml"),
        (
            _ROW + "retired: [{names: [mega], since: five, reason: gone from later releases}]\n",
            _CAUSE,
            "invalid-matrix",
        ),
        ("architectures: [", _CAUSE, "invalid-yaml"),
        ("", _CAUSE, "invalid-matrix"),
    ],
)
def test_error_has_the_place_and_the_problem(tmp_path: Path, rows: str, causes: str, code: str) -> None:
    with refused(code):
        load_matrix(_written(tmp_path, rows, causes))


def test_two_files_cannot_have_a_cause_of_the_same_id(tmp_path: Path) -> None:
    path = _written(tmp_path, _ROW)
    (tmp_path / CAUSES / "second.yaml").write_text(_CAUSE, encoding="utf-8")
    with refused("invalid-matrix"):
        load_matrix(path)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with refused("file-error"):
        load_matrix(tmp_path / "none.yaml")


def test_what_is_written_reads_as_the_same(tmp_path: Path) -> None:
    matrix = load_matrix()
    path = _written(tmp_path, "# The head.\nschema_version: 2\narchitectures:\n", "# Of nobody.\n{}\n")
    write_matrix(matrix, path)
    assert load_matrix(path) == matrix
    assert path.read_text(encoding="utf-8").startswith("# The head.\nschema_version: 2\n")
    assert not (tmp_path / CAUSES / "owner.yaml").exists(), "a file without causes goes"


def test_a_comment_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path, _ROW, _CAUSE.replace("  fails:", "  # why\n  fails:"))
    before = path.read_text(encoding="utf-8")
    with refused("comment-lost"):
        write_matrix(Matrix({}), path)
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("cell", "version", "expected"),
    [
        (Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1"), "1.5.1", True),
        (Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1"), "1.6.0", False),
        (Cell("llama", "reference", "xnnpack", Mode.DYNAMIC, "PAR-1"), "1.5.1", False),
        (Cell("llama", "reference", "portable", Mode.DECODE, "PAR-1"), "1.5.1", False),
        (Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-6"), "1.5.1", False),
        (Cell("gemma2", "reference", "xnnpack", Mode.DECODE, "PAR-1"), "1.5.1", False),
    ],
)
def test_a_violation_is_about_exact_cells_and_versions(
    tmp_path: Path, cell: Cell, version: str, expected: bool
) -> None:
    matrix = load_matrix(_written(tmp_path, _ROW))
    assert (matrix.expectation(cell, {"executorch": version}) is not None) is expected


def test_a_blocker_is_about_each_cell_that_needs_the_stage(tmp_path: Path) -> None:
    matrix = _with(tmp_path, _BLOCKER)
    known = {cell: matrix.expectation(cell, _LATEST) for cell in _all_cells()}
    blocked = {cell for cell in known if cell.backend in ("exported", "xnnpack") and cell.mode is Mode.DYNAMIC}
    assert {cell for cell, expectation in known.items() if expectation is not None} == blocked
    assert all(expectation.required for expectation in known.values() if expectation)


def test_a_blocked_export_may_leave_clauses_that_export_by_themselves(tmp_path: Path) -> None:
    matrix = _with(tmp_path, _BLOCKER.replace("dynamic", "decode"))
    known = {
        clause.id: matrix.expectation(Cell("llama", "reference", "exported", Mode.DECODE, clause.id), _LATEST)
        for clause in CHECKED
        if Scope.EXPORTED in clause.scopes and Mode.DECODE in clause.modes
    }
    optional = {clause for clause, expectation in known.items() if expectation and not expectation.required}
    assert optional == {"EXP-4", "EXP-6", "EXP-9", "EXP-11"}
    assert None not in known.values()


def test_a_new_clause_needs_no_edit_of_a_blocker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Clause("LOW-99", "New.", (Scope.LOWERED,))
    monkeypatch.setattr(cells, "_BY_ID", {clause.id: clause for clause in (*CLAUSES, new)})
    matrix = _with(tmp_path, _BLOCKER)
    assert matrix.expectation(Cell("llama", "reference", "xnnpack", Mode.DYNAMIC, "LOW-99"), _LATEST)
    assert not matrix.expectation(Cell("llama", "reference", "portable", Mode.DYNAMIC, "LOW-99"), _LATEST)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            "{on: xnnpack, blocks: lower, signature: lower:E}",
            "{on: xnnpack, clauses: [PAR-1], signature: execute:logits-differ}",
            id="an earlier stage counts first",
        ),
        pytest.param(
            "{rows: llama, on: xnnpack, clauses: [PAR-1], signature: execute:a}",
            "{on: xnnpack, clauses: [PAR-1], signature: execute:b}",
            id="the row's own counts first",
        ),
        pytest.param(
            "{on: xnnpack, blocks: lower, signature: lower:E}",
            "{on: xnnpack, clauses: [PAR-1], signature: lower:stored-twice}",
            id="what is blocked counts first",
        ),
    ],
)
def test_of_several_patterns_one_counts(tmp_path: Path, first: str, second: str) -> None:
    cell = Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1")
    alone = _with(tmp_path, first).expectation(cell, _LATEST)
    assert alone is not None
    assert alone == _with(tmp_path, first, second).expectation(cell, _LATEST)
    assert alone == _with(tmp_path, second, first).expectation(cell, _LATEST)


def test_a_clause_that_exports_by_itself_fails_in_its_own_way(tmp_path: Path) -> None:
    own = "{on: exported, clauses: [EXP-4], signature: export:Unsupported}"
    matrix = _with(tmp_path, _BLOCKER.replace("dynamic", "decode"), own)
    known = matrix.expectation(Cell("llama", "reference", "exported", Mode.DECODE, "EXP-4"), _LATEST)
    assert known is not None
    assert (known.signature, known.required) == ("export:Unsupported", True)


@pytest.mark.parametrize(
    "pattern",
    [
        "{on: xnnpack, mode: decode, clauses: [PAR-2], signature: execute:a}",  # which is for the dynamic mode only
        "{on: xnnpak, clauses: [PAR-1], signature: execute:a}",
        "{on: [xnnpack, exported], clauses: [LOW-1], signature: lower:a}",
        "{on: exported, blocks: lower, signature: lower:a}",
        "{on: xnnpack, clauses: [PAR-1, PAR-99], signature: execute:a}",
    ],
)
def test_a_pattern_that_names_no_cell_is_found(tmp_path: Path, pattern: str) -> None:
    problems = _with(tmp_path, pattern).patterns_without_cells(_all_cells())
    assert len(problems) == 1
    assert problems[0].startswith("wrong: fails.0 names no cell: ")


def test_undecodable_depends_on_versions_and_rows(tmp_path: Path) -> None:
    matrix = _with(tmp_path, "{undecodable: 'eager:KeyError'}")
    known = matrix.undecodable("llama", {"executorch": "1.5.1"})
    assert known is not None
    assert known.signature == "eager:KeyError"
    assert matrix.undecodable("llama", {"executorch": "1.6.0"}) is None
    assert matrix.undecodable("gemma2", {"executorch": "1.5.1"}) is None
    assert not matrix.judged_without_cache({"executorch": "1.5.1"})


def test_architectures_that_the_forward_pass_without_cache_judges_are_named(tmp_path: Path) -> None:
    matrix = _with(tmp_path, "{undecodable: 'eager:logits-differ', without_cache: true}")
    assert matrix.judged_without_cache({"executorch": "1.5.1"}) == {"llama"}
    assert not matrix.judged_without_cache({"executorch": "1.6.0"})
    assert matrix.expectation(Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1"), _LATEST) is None


def _known_limit(
    pattern: Violation | Blocker,
    asked: str,
    signature: str = "lower:stored-twice",
    limit: Limit = Limit.ANY_MODEL,
    exporter: str = "any",
) -> bool:
    """Whether a failure of another model in the clause `asked` is known by a row's cause."""
    cause = Cause((exporter,), "a reason that is long enough", (pattern,), limit=limit)
    matrix = dataclasses.replace(Matrix({}), causes={"wrong": cause})
    cell = Cell("another", "mine:export", "xnnpack", Mode.DECODE, asked)
    return matrix.known_limit(cell, Stage.LOWER, signature, _LATEST, {Limit.ANY_MODEL}) is not None


def test_what_a_backend_cannot_do_is_known_of_other_models_too() -> None:
    stored_twice = Violation(("xnnpack",), ("LOW-4",), "lower:stored-twice")
    assert _known_limit(stored_twice, "LOW-4")
    assert not _known_limit(stored_twice, "LOW-3")
    assert not _known_limit(stored_twice, "LOW-4", "lower:another")
    assert not _known_limit(stored_twice, "LOW-4", limit=Limit.TIED_EMBEDDINGS)
    assert not _known_limit(stored_twice, "LOW-4", exporter="reference"), "it is of another exporter"
    blocked = Blocker(("xnnpack",), Stage.LOWER, "lower:SpecViolationError")
    assert _known_limit(blocked, "LOW-1", "lower:SpecViolationError")
    assert not _known_limit(blocked, "PAR-1", "lower:SpecViolationError"), "a model's result is never known"


@pytest.mark.parametrize(
    ("backend", "clause", "signature", "limit", "cause"),
    [
        ("xnnpack", "LOW-4", "lower:stored-twice", Limit.TIED_EMBEDDINGS, "tied-weights"),
        ("xnnpack", "LOW-4", "lower:stored-twice", Limit.EXPERTS, None),
        ("xnnpack", "LOW-12", "lower:moves-much:aten.index.Tensor", Limit.EXPERTS, "gathered-experts"),
        ("xnnpack", "LOW-12", "lower:moves-much:aten.index.Tensor", Limit.TIED_EMBEDDINGS, None),
        (
            "xnnpack",
            "LOW-3",
            "lower:heavy-operator-left-out:aten.bmm.default:bfloat16",
            Limit.ANY_MODEL,
            "bfloat16-batch-products",
        ),
        ("ethos-u55", "LOW-3", "lower:heavy-operator-left-out:aten.mm.default", Limit.ANY_MODEL, "attention-left-out"),
        ("ethos-u55", "LOW-3", "lower:heavy-operator-left-out:aten.addmm.default", Limit.ANY_MODEL, None),
        ("ethos-u55", "LOW-12", "lower:moves-much:aten.index.Tensor", Limit.ANY_MODEL, None),
        ("ethos-u55", "LOW-11", "lower:little-quantised", Limit.ANY_MODEL, None),
    ],
)
def test_a_checkpoint_has_the_limits_of_its_backend_and_not_the_causes_of_rows(
    backend: str, clause: str, signature: str, limit: Limit, cause: str | None
) -> None:
    cell = Cell("own", "reference", backend, Mode.DECODE, clause)
    versions = {"torch": "2.13.0", "transformers": "5.23.0", "executorch": "1.5.1"}
    known = load_matrix().known_limit(cell, Stage.LOWER, signature, versions, {Limit.ANY_MODEL, limit})
    assert (known and known.cause) == cause


def test_a_limit_is_of_an_exporter_of_checkpoints() -> None:
    with pytest.raises(ValueError, match="exporter has to be any or reference"):
        Cause(
            ("transformers",),
            "a reason that is long enough",
            (Violation(("xnnpack",), ("LOW-4",), "lower:a"),),
            limit=Limit.ANY_MODEL,
        )
