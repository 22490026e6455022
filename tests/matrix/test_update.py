"""The matrix as rewritten from a run: what fails is listed, what is stale is gone, and all else is as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.cells import Selection, plan
from conformance.core.contract import CHECKED, Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix.known_failures import TODO, Blocker, Cause, Undecodable, Violation
from conformance.matrix.schema import CAUSES, Matrix, Row, Tier, load_matrix, write_matrix
from conformance.matrix.update import UNEXPLAINED, updated_matrix
from conformance.pipeline.backends import BACKENDS, PORTABLE, XNNPACK
from conformance.records.run import CellRecord, Environment, RunInfo, RunRecord
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_DIFFERS = "execute:logits-differ"
_VERSIONS = {"torch": "2.13.0", "transformers": "5.14.1", "executorch": "1.5.1"}
_OTHERWISE = (Stage.LOWER, "lower:Error:at a: 'b' #c")
_REASON = "A reason that is long enough."


def _record(name: str, verdict: Verdict, failure: tuple[Stage, str] | None = None) -> CellRecord:
    """From an id such as ``llama/reference/xnnpack/decode/PAR-1`` or ``llama/eager/SEN-1``."""
    architecture, *between, clause = name.split("/")
    column: Any = between if len(between) == 3 else (None, *between, None)
    subject, backend, mode = column
    return CellRecord(name, architecture, subject, backend, mode, clause, verdict, *(failure or ()))


def _fails(*names: str, signature: str = _DIFFERS) -> list[CellRecord]:
    stage = Stage(signature.partition(":")[0])
    return [_record(name, Verdict.FAIL, (stage, signature)) for name in names]


def _passes(*names: str) -> list[CellRecord]:
    return [_record(name, Verdict.UNEXPECTED_PASS) for name in names]


def _run(cells: Iterable[CellRecord], versions: Mapping[str, str] = _VERSIONS) -> RunRecord:
    return RunRecord(
        schema_version=1,
        run=RunInfo("1", "2026-01-01T00:00:00Z", None, True, {}, None),
        environment=Environment("3.12", "Linux", "one", dict(versions)),
        cells=tuple(cells),
    )


def _cause(*patterns: Violation | Blocker | Undecodable, exporter: str = "any", reason: str = _REASON) -> Cause:
    return Cause((exporter,), reason, patterns, when={"executorch": "<=1.5.1"})


_GELU = Violation(("xnnpack",), ("PAR-1", "PAR-3"), _DIFFERS, at_most=0.001)
_CHUNKS = Violation(("xnnpack",), ("PAR-2",), _DIFFERS)
_NO_EXPORT = Blocker(("exported", "xnnpack"), Stage.EXPORT, "export:Error", Mode.DYNAMIC)


def _matrix(rows: Mapping[str, Sequence[str]], **causes: Cause) -> Matrix:
    return Matrix(
        {name: Row(Tier.SMOKE, ("full_attention",), "it", tuple(known)) for name, known in rows.items()},
        {name.replace("_", "-"): cause for name, cause in causes.items()},
        owners={name.replace("_", "-"): "xnnpack" for name in causes},
    )


_SHARED = _matrix(
    {"gemma2": ["gelu", "chunks"], "gemma3_text": ["gelu", "chunks"], "llama": ["gelu", "no-export"], "lfm2": []},
    gelu=_cause(_GELU),
    chunks=_cause(_CHUNKS),
    no_export=_cause(_NO_EXPORT),
)


@pytest.fixture(autouse=True)
def _two_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what `any` is spelt out to does not change with each exporter that the suite gets to know."""
    monkeypatch.setattr("conformance.matrix.update.KNOWN", dict.fromkeys(("reference", "transformers")))


def _every(row: str, *clauses: str, modes: Iterable[str] = ("decode", "dynamic")) -> list[str]:
    exporters = ("reference", "transformers")
    return [f"{row}/{name}/xnnpack/{mode}/{clause}" for name in exporters for mode in modes for clause in clauses]


def _patterns(matrix: Matrix, row: str) -> list[tuple[str, ...]]:
    """What a row's causes say, short: exporters, backends, mode, what fails, signature, whether it is explained."""
    return [
        (
            " ".join(cause.exporter),
            " ".join(pattern.on),
            str(pattern.mode or "any"),
            f"blocks {pattern.blocks}" if isinstance(pattern, Blocker) else " ".join(pattern.clauses),
            pattern.signature,
            TODO if cause.reason == TODO else "known",
        )
        for cause in matrix.causes_of(row).values()
        for pattern in cause.fails
        if not isinstance(pattern, Undecodable)
    ]


# Nothing to do


@pytest.mark.parametrize(
    ("cells", "changes"),
    [
        ([], 0),
        ([_record("llama/reference/xnnpack/decode/PAR-1", Verdict.PASS)], 0),
        (_fails("nobody/reference/xnnpack/decode/PAR-1", "nobody/eager/SEN-1"), 1),
        ([_record("llama/eager/SEN-1", verdict) for verdict in (Verdict.CRASH, Verdict.NOT_RUN)], 1),
        # Only the bound is exceeded.
        (_fails("gemma2/transformers/xnnpack/decode/PAR-1", "gemma2/transformers/xnnpack/dynamic/PAR-2"), 2),
    ],
)
def test_the_committed_matrix_stays(cells: list[CellRecord], changes: int) -> None:
    matrix = load_matrix()
    update = updated_matrix(matrix, _run(cells))
    assert update.matrix == matrix
    assert len(update.changes) == changes


def test_variations_inherit_what_is_added_to_their_architecture() -> None:
    """But for one that was judged as well, and did not fail so."""
    matrix, signature = load_matrix(), "export:misconfiguration-traced"
    assert {"arcee", "helium"} <= matrix.variations["options"].rows.keys()
    cells = _fails(*(f"{row}/transformers/exported/decode/EXP-9" for row in ("arcee", "helium")), signature=signature)
    passed = _record("helium+options/transformers/exported/decode/EXP-9", Verdict.PASS)
    updated = updated_matrix(
        dataclasses.replace(matrix, architectures=_unlisted(matrix)), _run([*cells, passed])
    ).matrix
    assert "batch-size-zero" in updated.architectures["arcee"].known
    rows = updated.variations["options"].rows
    assert rows["arcee"].without == ()
    assert rows["helium"].without == ("batch-size-zero",)


def _unlisted(matrix: Matrix) -> dict[str, Row]:
    """The rows of two architectures without what this is tested with, whether or not they have it today."""
    rows = dict(matrix.architectures)
    for name in ("arcee", "helium"):
        known = tuple(each for each in rows[name].known if each != "batch-size-zero")
        rows[name] = dataclasses.replace(rows[name], known=known)
    return rows


def test_verdicts_without_a_signature_are_counted_and_left_alone() -> None:
    verdicts = [Verdict.CRASH, Verdict.TIMEOUT, Verdict.CRASH, Verdict.HARNESS_ERROR, Verdict.NOT_APPLICABLE]
    update = updated_matrix(_matrix({"llama": []}), _run(_record("llama/eager/SEN-1", v) for v in verdicts))
    summary = "4 cells left alone, because these are never expected: 2 crash, 1 timeout, 1 harness-error"
    assert update.changes == (summary,)


def test_a_cause_for_other_versions_is_not_stale() -> None:
    cells = _passes("gemma2/reference/xnnpack/decode/PAR-1")
    assert updated_matrix(_SHARED, _run(cells, {**_VERSIONS, "executorch": "1.6.0"})).matrix == _SHARED


# New failures


def test_failures_become_an_entry_that_a_person_has_to_explain() -> None:
    names = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-3", "PAR-1")]
    update = updated_matrix(_matrix({"llama": [], "mistral": []}), _run(_fails(*names)))
    cause = "llama-execute-logits-differ"
    assert update.matrix.causes == {
        cause: Cause(("reference",), TODO, (Violation(("xnnpack",), ("PAR-1", "PAR-3"), _DIFFERS),))
    }
    assert update.matrix.owners == {cause: UNEXPLAINED}
    assert update.matrix.architectures["llama"].known == (cause,)
    assert update.matrix.architectures["mistral"].known == ()
    assert update.changes == tuple(
        f"llama: PAR-3, PAR-1 on xnnpack {mode} (reference) fails with {_DIFFERS}: {cause} added, reason TODO"
        for mode in Mode
    )


def test_rows_that_fail_alike_share_an_entry() -> None:
    matrix = _matrix({"llama": [], "mistral": []})
    names = [f"{row}/reference/xnnpack/decode/PAR-1" for row in matrix.architectures]
    update = updated_matrix(matrix, _run(_fails(*names)))
    assert len(update.matrix.causes) == 1
    assert {row.known for row in update.matrix.architectures.values()} == {tuple(update.matrix.causes)}


def test_an_update_can_be_written_and_read_as_a_draft(tmp_path: Path) -> None:
    path = tmp_path / "models_matrix.yaml"
    path.write_text("# Head.\nschema_version: 2\narchitectures: {}\n", encoding="utf-8")
    stage, signature = _OTHERWISE  # which YAML would misread without quotes
    update = updated_matrix(_SHARED, _run([_record("llama/eager/SEN-1", Verdict.FAIL, (stage, signature))]))
    write_matrix(update.matrix, path)
    assert (tmp_path / CAUSES / f"{UNEXPLAINED}.yaml").exists()
    assert load_matrix(path, drafted=True).causes == update.matrix.causes
    with refused("invalid-matrix"):
        load_matrix(path)


def test_failure_of_the_fixture_alone_has_any_exporter_and_mode_and_goes_as_a_whole() -> None:
    matrix = _matrix({"llama": []})
    update = updated_matrix(matrix, _run(_fails("llama/eager/SEN-1", signature=_OTHERWISE[1])))
    assert _patterns(update.matrix, "llama") == [("any", "eager", "any", "SEN-1", _OTHERWISE[1], TODO)]
    assert updated_matrix(update.matrix, _run(_passes("llama/eager/SEN-1"))).matrix == matrix


def test_columns_with_the_same_clauses_share_a_pattern() -> None:
    every = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    names = [*every, "llama/reference/xnnpack/dynamic/PAR-2", "llama/reference/portable/decode/PAR-1"]
    found = _patterns(updated_matrix(_matrix({"llama": []}), _run(_fails(*names))).matrix, "llama")
    assert len(found) == 3
    assert ("reference", "xnnpack", "dynamic", "PAR-1 PAR-2 PAR-3", _DIFFERS, TODO) in found


@pytest.mark.parametrize(
    ("passing", "expected"), [([], "blocks lower"), (["LOW-9"], "LOW-1 LOW-2 LOW-4 PAR-1")], ids=["all", "one passes"]
)
def test_what_fails_with_all_that_needs_it_is_a_blocked_stage(passing: list[str], expected: str) -> None:
    clauses = ["LOW-1", "LOW-2", "LOW-4", "PAR-1"]
    cells = _fails(*(f"llama/reference/xnnpack/decode/{clause}" for clause in clauses), signature="lower:Error")
    cells += [_record(f"llama/reference/xnnpack/decode/{clause}", Verdict.PASS) for clause in passing]
    cells.append(_record("llama/reference/xnnpack/decode/PAR-5", Verdict.NOT_APPLICABLE))
    update = updated_matrix(_matrix({"llama": []}), _run(cells))
    assert _patterns(update.matrix, "llama") == [("reference", "xnnpack", "decode", expected, "lower:Error", TODO)]


@pytest.mark.parametrize(
    ("known", "versions", "backend", "modes", "reused"),
    [
        (_cause(_GELU), _VERSIONS, "xnnpack", Mode, True),
        (_cause(_GELU, exporter="transformers"), _VERSIONS, "xnnpack", Mode, False),
        (_cause(_GELU), {**_VERSIONS, "executorch": "1.6.0"}, "xnnpack", Mode, False),  # it is for others
        (_cause(_GELU), _VERSIONS, "portable", Mode, False),
        (_cause(_GELU), _VERSIONS, "xnnpack", [Mode.DECODE], False),  # the other mode passes
        (_cause(_GELU, reason=TODO), _VERSIONS, "xnnpack", Mode, False),
    ],
)
def test_a_cause_that_explains_all_that_was_seen_is_named(
    known: Cause, versions: dict[str, str], backend: str, modes: Iterable[Mode], reused: bool
) -> None:
    matrix = _matrix({"gemma2": ["gelu"], "llama": []}, gelu=known)
    both = [(mode, clause) for mode in Mode for clause in ("PAR-1", "PAR-3")]
    cells = [
        _record(f"llama/reference/{backend}/{mode}/{clause}", Verdict.FAIL, (Stage.EXECUTE, _DIFFERS))
        if mode in modes
        else _record(f"llama/reference/{backend}/{mode}/{clause}", Verdict.PASS)
        for mode, clause in both
    ]
    update = updated_matrix(matrix, _run(cells, versions))
    assert (update.matrix.architectures["llama"].known == ("gelu",)) is reused
    assert update.changes[0].endswith("gelu added" if reused else f"added, reason {TODO}")


@pytest.mark.parametrize(
    ("known", "rows", "versions", "explained"),
    [
        (_cause(_NO_EXPORT), ["llama"], _VERSIONS, True),
        (_cause(_NO_EXPORT), ["llama", "lfm2"], _VERSIONS, False),  # another row's is not changed
        (_cause(_NO_EXPORT), ["llama"], {**_VERSIONS, "executorch": "1.6.0"}, False),
        (_cause(_NO_EXPORT, exporter="transformers"), ["llama"], _VERSIONS, False),
        (_cause(_NO_EXPORT, reason=TODO), ["llama"], _VERSIONS, False),
        (_cause(_CHUNKS), ["llama"], _VERSIONS, False),
    ],
)
def test_what_keeps_a_program_from_being_made_is_why_more_fails(
    known: Cause, rows: list[str], versions: dict[str, str], explained: bool
) -> None:
    cells = _fails("llama/reference/portable/dynamic/PAR-1", signature="export:Error")
    update = updated_matrix(_matrix({row: ["known"] for row in rows}, known=known), _run(cells, versions))
    assert len(update.changes) == 1
    assert update.changes[0].endswith("added to known") is explained
    assert len(update.matrix.causes) == (1 if explained else 2)


def test_a_wrong_result_may_have_any_cause() -> None:
    known = _cause(Violation(("exported",), ("PAR-1",), _DIFFERS))
    cells = _fails("llama/reference/exported/dynamic/PAR-2")
    update = updated_matrix(_matrix({"llama": ["known"]}, known=known), _run(cells))
    assert update.changes[0].endswith(f"added, reason {TODO}")


def test_a_part_of_what_a_cause_lists_may_be_wrong_for_another_reason() -> None:
    matrix = _matrix({"gemma2": ["gelu"], "llama": []}, gelu=_cause(_GELU))
    *part, last = (f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3"))
    for unseen in ([], [_record(last, Verdict.NOT_RUN)]):
        update = updated_matrix(matrix, _run([*_fails(*part), *unseen]))
        assert update.matrix.architectures["llama"].known == ("llama-execute-logits-differ",)
        assert update.changes[0].endswith(f"added, reason {TODO}")
    inapplicable = _record(last, Verdict.NOT_APPLICABLE)
    assert updated_matrix(matrix, _run([*_fails(*part), inapplicable])).matrix.architectures["llama"].known == ("gelu",)


# Stale causes


def test_stale_cells_are_taken_out() -> None:
    matrix = _matrix({"gemma2": ["gelu"], "llama": []}, gelu=_cause(_GELU))
    update = updated_matrix(matrix, _run(_passes(*_every("gemma2", "PAR-3"))))
    narrower = dataclasses.replace(_GELU, clauses=("PAR-1",))
    assert update.matrix == _matrix({"gemma2": ["gelu"], "llama": []}, gelu=_cause(narrower))
    assert update.changes == tuple(
        f"gemma2: PAR-3 on xnnpack {mode} ({exporter}) passes: taken out of gelu"
        for exporter in ("reference", "transformers")
        for mode in Mode
    )


def test_any_exporter_is_spelt_out_where_one_of_them_passes() -> None:
    matrix = _matrix({"gemma2": ["gelu"]}, gelu=_cause(_GELU))
    update = updated_matrix(matrix, _run(_passes("gemma2/reference/xnnpack/decode/PAR-3")))
    assert sorted(_patterns(update.matrix, "gemma2")) == [
        ("reference", "xnnpack", "decode", "PAR-1", _DIFFERS, "known"),
        ("reference", "xnnpack", "dynamic", "PAR-1 PAR-3", _DIFFERS, "known"),
        ("transformers", "xnnpack", "any", "PAR-1 PAR-3", _DIFFERS, "known"),
    ]


def test_a_cause_of_nothing_goes_with_its_id() -> None:
    matrix = _matrix({"gemma2": ["gelu"], "llama": []}, gelu=_cause(_GELU))
    update = updated_matrix(matrix, _run(_passes(*_every("gemma2", "PAR-1", "PAR-3"))))
    assert update.matrix == _matrix({"gemma2": [], "llama": []})


def test_a_stage_that_one_clause_passes_is_not_blocked() -> None:
    matrix = _matrix({"llama": ["no-export"]}, no_export=_cause(_NO_EXPORT, exporter="reference"))
    known = [
        _record(f"llama/reference/xnnpack/dynamic/{clause}", Verdict.EXPECTED_FAILURE, (Stage.EXPORT, "export:Error"))
        for clause in ("LOW-1", "PAR-1")
    ]
    update = updated_matrix(matrix, _run([*known, *_passes("llama/reference/xnnpack/dynamic/PAR-2")]))
    assert _patterns(update.matrix, "llama") == [
        ("reference", "exported", "dynamic", "blocks export", "export:Error", "known"),
        ("reference", "xnnpack", "dynamic", "LOW-1 PAR-1", "export:Error", "known"),
    ]


def test_failing_otherwise_moves_a_cell_to_a_new_entry() -> None:
    matrix = _matrix({"gemma2": ["gelu"]}, gelu=_cause(_GELU))
    cells = _fails(*_every("gemma2", "PAR-1", modes=["decode"]), signature="load:Error")
    update = updated_matrix(matrix, _run(cells))
    assert sorted(_patterns(update.matrix, "gemma2")) == [
        ("any", "xnnpack", "decode", "PAR-3", _DIFFERS, "known"),
        ("any", "xnnpack", "dynamic", "PAR-1 PAR-3", _DIFFERS, "known"),
        ("reference", "xnnpack", "decode", "PAR-1", "load:Error", TODO),
        ("transformers", "xnnpack", "decode", "PAR-1", "load:Error", TODO),
    ]
    assert update.changes[0] == "gemma2: PAR-1 on xnnpack decode (reference) fails otherwise: taken out of gelu"
    assert len(update.changes) == 4


def test_a_row_that_shares_a_cause_gets_one_of_its_own() -> None:
    update = updated_matrix(_SHARED, _run(_passes(*_every("gemma3_text", "PAR-3"))))
    assert update.matrix.architectures["gemma3_text"].known == ("chunks", "gelu-gemma3_text")
    assert update.matrix.causes["gelu-gemma3_text"] == _cause(dataclasses.replace(_GELU, clauses=("PAR-1",)))
    for row in ("gemma2", "llama"):
        assert _patterns(update.matrix, row) == _patterns(_SHARED, row)


def test_rows_that_share_a_cause_change_together() -> None:
    rows = {"gemma2": ["gelu", "chunks"], "llama": ["gelu"]}
    names = [name for row in rows for name in _every(row, "PAR-3")]
    update = updated_matrix(_matrix(rows, gelu=_cause(_GELU), chunks=_cause(_CHUNKS)), _run(_passes(*names)))
    narrower = _cause(dataclasses.replace(_GELU, clauses=("PAR-1",)))
    assert update.matrix.causes == {"gelu": narrower, "chunks": _cause(_CHUNKS)}


def test_patterns_for_some_rows_change_with_their_rows() -> None:
    fast, slow = (dataclasses.replace(_GELU, rows=(row,)) for row in ("gemma2", "llama"))
    matrix = _matrix({"gemma2": ["gelu"], "llama": ["gelu"]}, gelu=_cause(fast, slow))
    lost = [name for row in ("gemma2", "llama") for name in _every(row, "PAR-3")]
    narrower = [dataclasses.replace(each, clauses=("PAR-1",)) for each in (fast, slow)]
    assert updated_matrix(matrix, _run(_passes(*lost))).matrix.causes == {"gelu": _cause(*narrower)}


def test_a_row_that_no_pattern_is_about_any_longer_does_not_name_the_cause() -> None:
    both = [dataclasses.replace(_GELU, clauses=("PAR-1",), rows=(row,)) for row in ("gemma2", "llama")]
    other = dataclasses.replace(_CHUNKS, rows=("llama",))
    matrix = _matrix({"gemma2": ["gelu"], "llama": ["gelu"]}, gelu=_cause(*both, other))
    lost = [name for row in ("gemma2", "llama") for name in _every(row, "PAR-1")]
    update = updated_matrix(matrix, _run(_passes(*lost)))
    assert update.matrix.causes == {"gelu": _cause(other)}
    assert [row.known for row in update.matrix.architectures.values()] == [(), ("gelu",)]


def test_the_real_matrix_loses_what_upstream_mends() -> None:
    matrix = load_matrix()
    cells = [
        f"{row}/{exporter}/exported/decode/EXP-9"
        for row in matrix.rows
        for name, cause in matrix.causes_of(row).items()
        if name == "batch-size-zero"
        for exporter in cause.exporter
    ]
    update = updated_matrix(matrix, _run(_passes(*cells)))
    assert set(update.matrix.causes) == set(matrix.causes) - {"batch-size-zero"}
    for name, row in matrix.architectures.items():
        # The other is about this clause too, and about nothing else in this row.
        mended = {"batch-size-zero", *(["hybrid-use-cache"] if name == "gemma3_text" else [])}
        assert set(update.matrix.architectures[name].known) == set(row.known) - mended


# All together

_ARCHITECTURES = ["gemma2", "gemma3_text", "llama", "lfm2"]
_EXPORTERS = ["reference", "transformers"]
_PLAN = list(plan(Selection(_ARCHITECTURES, _EXPORTERS, [PORTABLE.traits, XNNPACK.traits], CHECKED)))
#: Every cell that a pattern of theirs may name.
_CELLS = tuple(plan(Selection(["llama"], ["reference"], [each.traits for each in BACKENDS.values()], CHECKED)))
_FAILURES = [None, (Stage.EXECUTE, _DIFFERS), (Stage.EXPORT, "export:misconfiguration-traced"), _OTHERWISE]


@st.composite
def _outcomes(draw: st.DrawFn) -> list[tuple[Stage, str] | None]:
    """How each planned cell ends. Mostly by simple rules, so that whole columns end alike, with some exceptions."""
    keys: Sequence[Any] = (lambda c: c.clause, lambda c: (c.backend, c.mode), lambda c: (c.architecture, c.clause))
    ends = st.sampled_from(_FAILURES)
    key = draw(st.sampled_from(keys))
    rule = {k: draw(ends) for k in dict.fromkeys(map(key, _PLAN))}
    exceptions = draw(st.dictionaries(st.integers(0, len(_PLAN) - 1), ends, max_size=8))
    return [exceptions.get(index, rule[key(cell)]) for index, cell in enumerate(_PLAN)]


def _judged(matrix: Matrix, ends: Iterable[tuple[Stage, str] | None]) -> list[CellRecord]:
    """By the truth table, bounds apart."""
    records = []
    for cell, failure in zip(_PLAN, ends, strict=False):
        known = matrix.expectation(cell, _VERSIONS)
        if failure is None:
            verdict = Verdict.UNEXPECTED_PASS if known and known.required else Verdict.PASS
        else:
            as_listed = known is not None and known.signature == failure[1]
            verdict = Verdict.EXPECTED_FAILURE if as_listed else Verdict.FAIL
        records.append(_record(cell.id, verdict, failure))
    return records


@given(ends=_outcomes(), share=st.sampled_from([1, 2]))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_updated_matrix_covers_exactly_what_fails(ends: list[tuple[Stage, str] | None], share: int) -> None:
    _check(_SHARED, ends[: len(ends) // share])  # a run may have been of a part of the cells


@pytest.mark.parametrize("failure", _FAILURES, ids=str)
def test_the_real_matrix_covers_exactly_what_fails(failure: tuple[Stage, str] | None) -> None:
    ends = [None if cell.clause in ("PAR-1", "EXP-1") or cell.subject == "reference" else failure for cell in _PLAN]
    _check(load_matrix(), ends)


def _check(known: Matrix, ends: Sequence[tuple[Stage, str] | None]) -> None:
    records = _judged(known, ends)
    matrix = updated_matrix(known, _run(records)).matrix
    assert {record.verdict for record in _judged(matrix, ends)} <= {Verdict.PASS, Verdict.EXPECTED_FAILURE}
    seen = {(record.architecture, record.signature) for record in records}
    for cell in _PLAN[len(ends) :]:
        before, after = known.expectation(cell, _VERSIONS), matrix.expectation(cell, _VERSIONS)
        if before is None:  # what was not run can be explained only by what the run saw of its row
            assert after is None or (cell.architecture, after.signature) in seen
        elif not _blocks(known, before.cause):
            assert after is not None
    assert matrix.patterns_without_cells(_CELLS) == []
    assert updated_matrix(matrix, _run(_judged(matrix, ends))).matrix == matrix


def _blocks(matrix: Matrix, cause: str) -> bool:
    return any(isinstance(pattern, Blocker) for pattern in matrix.causes[cause].fails)
