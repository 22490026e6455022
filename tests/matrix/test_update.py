"""The matrix as rewritten from a run: what is failing is listed, what is stale is gone, and all else is as it was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.core.cells import Selection, plan
from conformance.core.contract import CHECKED, Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix.schema import MATRIX_PATH, TODO, Expectation, Matrix, MatrixError, load_matrix, parsed
from conformance.matrix.update import updated_matrix
from conformance.pipeline.backends import BACKENDS, PORTABLE, XNNPACK
from conformance.records.run import CellRecord, Environment, RunInfo, RunRecord

_DIFFERS = "execute:logits-differ"
_VERSIONS = {"torch": "2.13.0", "transformers": "5.14.1", "executorch": "1.5.1"}
_OTHERWISE = (Stage.LOWER, "lower:Error:at a: 'b' #c")


def _record(name: str, verdict: Verdict, failure: tuple[Stage, str] | None = None) -> CellRecord:
    """From an id such as ``llama/reference/xnnpack/decode/PAR-1`` or ``llama/eager/SEN-1``."""
    architecture, *between, clause = name.split("/")
    place: Any = between if len(between) == 3 else (None, *between, None)
    subject, backend, mode = place
    return CellRecord(name, architecture, subject, backend, mode, clause, verdict, *(failure or ()))


def _fails(*names: str, signature: str = _DIFFERS, stage: Stage = Stage.EXECUTE) -> list[CellRecord]:
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


def _matrix(text: str) -> Matrix:
    return parsed(text, drafted=True)


_HEAD = """\
# About this file.
schema_version: 1
architectures:
"""
_GELU = """\
    expect:  # known
      - &gelu
        clauses: [PAR-1, PAR-3]  # two
        backends: [xnnpack]
        modes: [decode, dynamic]
        subject: any
        stage: execute
        signature: execute:logits-differ
        at_most: 0.001
        reason: >-
          A reason that is long enough, and that goes on, so as to be
          #2 lines.
        when: {executorch: "<=1.5.1"}
"""
_CHUNKS = """\
      - &chunks
        <<: *gelu
        clauses: [PAR-2]
        modes: [dynamic]
"""
_SPECIFIC = _GELU.replace("subject: any", "subject: reference")
_END = "  # Last words.\n"


@pytest.fixture(autouse=True)
def _two_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what `any` is spelt out to does not change with each subject that the suite gets to know."""
    monkeypatch.setattr("conformance.matrix.update.KNOWN", dict.fromkeys(("reference", "transformers")))


def _row(name: str, expect: str = "") -> str:
    return f"  {name}:  # the {name}\n    tier: smoke\n    caches: [full_attention]\n    exercises: 'it'\n{expect}"


_SHARED = (
    _HEAD
    + _row("gemma2", _GELU + _CHUNKS)
    + "  # About the next.\n\n"
    + _row("gemma3_text", "    expect: [*gelu, *chunks]\n")
    + _row("llama", "    expect:\n      - *gelu\n      - <<: *chunks\n        signature: load:Error\n")
    + _END
)


def _every(row: str, *clauses: str, modes: Iterable[str] = ("decode", "dynamic")) -> list[str]:
    who = ("reference", "transformers")
    return [f"{row}/{w}/xnnpack/{mode}/{clause}" for w in who for mode in modes for clause in clauses]


def _expected(text: str, name: str) -> list[tuple[str, ...]]:
    """What a row expects, short: each as clauses, modes, subject, signature, and whether somebody said why."""
    return [
        (" ".join(e.clauses), " ".join(e.modes), e.subject, e.signature, "TODO" if e.reason == TODO else "known")
        for e in _matrix(text).architectures[name].expect
    ]


_PAR_1 = ("PAR-1", "decode dynamic", "any", _DIFFERS, "known")
_PAR_2 = ("PAR-2", "dynamic", "any", _DIFFERS, "known")

# ---- nothing to do ----


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
def test_the_committed_matrix_is_read_and_written_to_the_byte(cells: list[CellRecord], changes: int) -> None:
    text = MATRIX_PATH.read_text(encoding="utf-8")
    update = updated_matrix(text, _run(cells))
    assert update.text == text
    assert len(update.changes) == changes


def test_verdicts_without_a_signature_are_counted_and_left_alone() -> None:
    verdicts = [Verdict.CRASH, Verdict.TIMEOUT, Verdict.CRASH, Verdict.HARNESS_ERROR, Verdict.NOT_APPLICABLE]
    update = updated_matrix(_HEAD + _row("llama"), _run(_record("llama/eager/SEN-1", v) for v in verdicts))
    told = "4 cells left alone, because these are never expected: 2 crash, 1 timeout, 1 harness-error"
    assert update.changes == (told,)


def test_expectation_for_other_versions_is_not_stale() -> None:
    cells = _passes("gemma2/reference/xnnpack/decode/PAR-1")
    assert updated_matrix(_SHARED, _run(cells, {**_VERSIONS, "executorch": "1.6.0"})).text == _SHARED


# ---- new failures ----


def test_failures_are_listed_below_what_the_row_says() -> None:
    below = "  # About: the other.\n" + _row("mistral") + _END
    names = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-3", "PAR-1")]
    update = updated_matrix(_HEAD + _row("llama") + below, _run(_fails(*names)))
    expect = """\
    expect:
      - clauses: [PAR-1, PAR-3]
        backends: [xnnpack]
        modes: [decode, dynamic]
        subject: reference
        stage: execute
        signature: execute:logits-differ
        reason: TODO
"""
    assert update.text == _HEAD + _row("llama", expect) + below
    told = "llama: PAR-1, PAR-3 on xnnpack decode, dynamic (reference) failed with execute:logits-differ"
    assert update.changes == (f"{told}: added, reason TODO",)


def test_failure_of_the_fixture_alone_has_any_subject_and_mode_and_goes_as_a_whole() -> None:
    text = _HEAD + _row("llama")
    stage, signature = _OTHERWISE  # which YAML would misread without quotes
    update = updated_matrix(text, _run(_fails("llama/eager/SEN-1", signature=signature, stage=stage)))
    assert update.changes == (f"llama: SEN-1 on eager failed with {signature}: added, reason TODO",)
    assert _expected(update.text, "llama") == [("SEN-1", "any", "any", signature, "TODO")]
    assert updated_matrix(update.text, _run(_passes("llama/eager/SEN-1"))).text == text


def test_failures_that_are_no_product_are_split_in_as_few_as_can_be() -> None:
    every = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    names = [*every, "llama/reference/xnnpack/dynamic/PAR-2", "llama/reference/portable/decode/PAR-1"]
    found = _expected(updated_matrix(_HEAD + _row("llama"), _run(_fails(*names))).text, "llama")
    assert len(found) == 3
    assert ("PAR-1 PAR-2 PAR-3", "dynamic", "reference", _DIFFERS, "TODO") in found


@pytest.mark.parametrize(
    ("known", "versions", "backend", "reused"),
    [
        (_SPECIFIC, _VERSIONS, "xnnpack", True),
        (_SPECIFIC, {**_VERSIONS, "executorch": "1.6.0"}, "xnnpack", False),  # it was written for others
        (_SPECIFIC, _VERSIONS, "portable", False),
        (_GELU, _VERSIONS, "xnnpack", False),  # it says more
        (_SPECIFIC[: _SPECIFIC.index("reason")] + "reason: TODO\n", _VERSIONS, "xnnpack", False),
    ],
)
def test_an_identical_expectation_with_a_reason_is_used_again(
    known: str, versions: dict[str, str], backend: str, reused: bool
) -> None:
    text = _HEAD + _row("gemma2", known) + _row("llama")
    names = [f"llama/reference/{backend}/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    update = updated_matrix(text, _run(_fails(*names), versions))
    assert (update.text == text + "    expect: [*gelu]\n") is reused
    assert update.changes[0].endswith("added as *gelu" if reused else "added, reason TODO")


def test_a_definition_moves_up_to_an_earlier_use() -> None:
    names = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    text = updated_matrix(_HEAD + _row("llama") + _row("gemma2", _SPECIFIC), _run(_fails(*names))).text
    assert text.index("&gelu") < text.index("gemma2") < text.index("*gelu")
    assert _expected(text, "llama") == _expected(text, "gemma2")


_NO_EXPORT = """\
    expect:
      - clauses: [PAR-1]
        backends: [exported]
        modes: [dynamic]
        subject: reference
        stage: export
        signature: export:Error
        reason: A reason that is long enough.
        when: {executorch: "<=1.5.1"}
"""


@pytest.mark.parametrize(
    ("known", "versions", "added"),
    [
        (_NO_EXPORT, _VERSIONS, [("EXP-1 PAR-1 PAR-2", "known")]),
        (
            _NO_EXPORT.replace("- clauses", "- &no\n        clauses"),
            _VERSIONS,
            [("PAR-1", "known"), ("EXP-1 PAR-2", "known")],
        ),
        (_NO_EXPORT, {**_VERSIONS, "executorch": "1.6.0"}, [("PAR-1", "known"), ("EXP-1 PAR-2", "TODO")]),
        (_NO_EXPORT.replace("export:Error", "export:Other"), _VERSIONS, [("PAR-1", "known"), ("EXP-1 PAR-2", "TODO")]),
        (
            _NO_EXPORT.replace("A reason that is long enough.", "TODO"),
            _VERSIONS,
            [("PAR-1", "TODO"), ("EXP-1 PAR-2", "TODO")],
        ),
    ],
)
def test_what_keeps_a_program_from_being_made_is_why_more_clauses_fail(
    known: str, versions: dict[str, str], added: list[tuple[str, str]]
) -> None:
    cells = _fails(
        *(f"llama/reference/exported/dynamic/{clause}" for clause in ("PAR-2", "EXP-1")),
        signature="export:Error",
        stage=Stage.EXPORT,
    )
    update = updated_matrix(_HEAD + _row("llama", known), _run(cells, versions))
    assert [(clauses, why) for clauses, *_, why in _expected(update.text, "llama")] == added
    assert len(update.changes) == 1


def test_the_reason_goes_along_to_another_backend() -> None:
    cells = _fails("llama/reference/xnnpack/dynamic/PAR-1", signature="export:Error", stage=Stage.EXPORT)
    update = updated_matrix(_HEAD + _row("llama", _NO_EXPORT), _run(cells))
    first, second = _matrix(update.text).architectures["llama"].expect
    assert (second.backends, second.reason, second.when) == (("xnnpack",), first.reason, first.when)
    assert update.changes[0].endswith("added with the reason that is given for it")


def test_a_wrong_result_may_have_any_cause() -> None:
    known = _NO_EXPORT.replace("stage: export", "stage: execute").replace("export:Error", _DIFFERS)
    update = updated_matrix(_HEAD + _row("llama", known), _run(_fails("llama/reference/exported/dynamic/PAR-2")))
    assert update.changes[0].endswith("added, reason TODO")


# ---- stale expectations ----


def test_stale_cells_are_trimmed_and_the_rest_is_untouched() -> None:
    text = _HEAD + _row("gemma2", _GELU) + _row("llama") + _END
    update = updated_matrix(text, _run(_passes(*_every("gemma2", "PAR-3"))))
    # The comment keeps its column.
    assert update.text == text.replace("[PAR-1, PAR-3]  # two", "[PAR-1]         # two")
    assert update.changes == tuple(
        f"gemma2: PAR-3 on xnnpack decode, dynamic ({who}) passed: taken out of the expectation of {_DIFFERS}"
        for who in ("reference", "transformers")
    )


def test_any_subject_is_spelt_out_where_one_of_them_passes() -> None:
    text = updated_matrix(_HEAD + _row("gemma2", _GELU), _run(_passes("gemma2/reference/xnnpack/decode/PAR-3"))).text
    assert _expected(text, "gemma2") == [
        _PAR_1,
        ("PAR-3", "dynamic", "any", _DIFFERS, "known"),
        ("PAR-3", "decode", "transformers", _DIFFERS, "known"),
    ]
    assert text.count("&gelu") == text.count("# two") == 1


def test_any_mode_is_spelt_out_as_the_clause_has_them() -> None:
    any_mode = _GELU.replace("[PAR-1, PAR-3]", "[PAR-1, PAR-2]").replace("[decode, dynamic]", "[any]")
    names = _every("gemma2", "PAR-1", modes=["decode"]) + _every("gemma2", "PAR-2", modes=["dynamic"])
    text = updated_matrix(_HEAD + _row("gemma2", any_mode), _run(_passes(*names))).text
    assert _expected(text, "gemma2") == [("PAR-1", "dynamic", "any", _DIFFERS, "known")]


def test_expectation_of_nothing_goes_and_the_comments_above_rows_stay() -> None:
    below = "\n" + _END + _row("llama")
    names = _every("gemma2", "PAR-1", "PAR-3")
    assert updated_matrix(_HEAD + _row("gemma2", _GELU) + below, _run(_passes(*names))).text == (
        _HEAD + _row("gemma2") + below
    )


def test_failing_otherwise_moves_a_cell_to_a_new_expectation() -> None:
    cells = _fails(*_every("gemma2", "PAR-1", modes=["decode"]), signature="load:Error", stage=Stage.LOAD)
    update = updated_matrix(_HEAD + _row("gemma2", _GELU), _run(cells))
    assert _expected(update.text, "gemma2") == [
        ("PAR-1", "dynamic", "any", _DIFFERS, "known"),
        ("PAR-3", "decode dynamic", "any", _DIFFERS, "known"),
        ("PAR-1", "decode", "reference", "load:Error", "TODO"),
        ("PAR-1", "decode", "transformers", "load:Error", "TODO"),
    ]
    assert update.changes[0] == (
        f"gemma2: PAR-1 on xnnpack decode (reference) failed otherwise: taken out of the expectation of {_DIFFERS}"
    )
    assert len(update.changes) == 4


# ---- shared expectations ----


def test_a_row_that_shares_gets_its_own_copy() -> None:
    update = updated_matrix(_SHARED, _run(_passes(*_every("gemma3_text", "PAR-3"))))
    assert _expected(update.text, "gemma3_text") == [_PAR_1, _PAR_2]
    start, end = _SHARED.index("    expect: [*gelu"), _SHARED.index("  llama:")
    assert update.text.startswith(_SHARED[:start])
    assert update.text.endswith(_SHARED[end:])


@pytest.mark.parametrize("clauses", [["PAR-3"], ["PAR-1", "PAR-3"]])
def test_a_definition_moves_on_when_its_row_changes(clauses: list[str]) -> None:
    text = updated_matrix(_SHARED, _run(_passes(*_every("gemma2", *clauses)))).text
    for row in ("gemma3_text", "llama"):
        assert _expected(text, row) == _expected(_SHARED, row)
    assert _expected(text, "gemma2") == ([_PAR_1] if len(clauses) == 1 else []) + [_PAR_2]
    assert text.count("&gelu") == text.count("&chunks") == text.count("# About the next.") == 1
    assert text.endswith(_SHARED[_SHARED.index("  llama:") :])


def test_all_rows_that_share_change_together_and_what_builds_on_it_stays() -> None:
    names = [name for row in ("gemma2", "gemma3_text", "llama") for name in _every(row, "PAR-3")]
    text = updated_matrix(_SHARED, _run(_passes(*names))).text
    assert text == _SHARED.replace("[PAR-1, PAR-3]  # two", "[PAR-1]         # two")
    names = [name for row in ("gemma2", "gemma3_text", "llama") for name in _every(row, "PAR-1", "PAR-3")]
    text = updated_matrix(_SHARED, _run(_passes(*names))).text
    assert _expected(text, "gemma2") == _expected(text, "gemma3_text") == [_PAR_2]
    assert "gelu" not in text


def test_what_builds_on_a_changed_expectation_says_what_it_said() -> None:
    text = _HEAD + _row("gemma2", _GELU + "      - <<: *gelu\n        clauses: [PAR-4]\n")
    found = updated_matrix(text, _run(_passes(*_every("gemma2", "PAR-1", "PAR-3", modes=["decode"])))).text
    assert found.startswith(text[: text.index("      - <<")].replace("modes: [decode, dynamic]", "modes: [dynamic]"))
    assert _expected(found, "gemma2")[1] == ("PAR-4", "decode dynamic", "any", _DIFFERS, "known")


def test_the_real_matrix_loses_what_upstream_mends() -> None:
    text = MATRIX_PATH.read_text(encoding="utf-8")
    matrix = load_matrix()
    cells = [
        f"{name}/{expectation.subject}/exported/decode/EXP-9"
        for name, row in matrix.architectures.items()
        for expectation in row.expect
        if expectation.clauses == ("EXP-9",)
    ]
    update = updated_matrix(text, _run(_passes(*cells)))
    assert len(update.changes) == len(cells) > 1
    left = _matrix(update.text).architectures
    for name, row in matrix.architectures.items():
        assert left[name].expect == tuple(e for e in row.expect if e.clauses != ("EXP-9",))
    new = set(update.text.split("\n")) - set(text.split("\n"))
    first = "    expect: [*upstream_sizes, "
    shorter = {line.replace("*upstream_sizes, ", "") for line in text.split("\n") if line.startswith(first)}
    # A row that had an expectation of its own, beside aliases, has the aliases left.
    rest = new - shorter
    assert shorter <= new
    assert all(re.fullmatch(r"    expect: \[\*\w+(, \*\w+)*\]", line) for line in rest)
    assert not any("upstream_sizes" in line for line in rest)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("architectures: [", "models_matrix.yaml:1: "),
        ("", "expected a mapping"),
        (_HEAD + _row("llama", "    expect: [{reason: x}]\n"), "models_matrix.yaml:8: architectures.llama.expect.0"),
        (_HEAD + _row("gemma2", "    expect: &all []\n") + _row("llama", "    expect: *all\n"), "share a whole list"),
        (_HEAD + _row("llama", _GELU.replace("      - &", "      # Why.\n      - &")), "would be lost: .*: # Why."),
    ],
)
def test_what_only_a_person_should_change_is_refused(text: str, told: str) -> None:
    with pytest.raises(MatrixError, match=told):
        updated_matrix(text, _run(_passes(*_every("llama", "PAR-1", "PAR-3"))))


# ---- all together ----

_ARCHITECTURES = ["gemma2", "gemma3_text", "llama", "lfm2"]
_SUBJECTS = ["reference", "transformers"]
_PLAN = list(plan(Selection(_ARCHITECTURES, _SUBJECTS, [PORTABLE.traits, XNNPACK.traits], CHECKED)))
#: Every cell that an expectation of theirs may name.
_CELLS = list(plan(Selection(_ARCHITECTURES, _SUBJECTS, [each.traits for each in BACKENDS.values()], CHECKED)))
_FAILURES = [None, (Stage.EXECUTE, _DIFFERS), (Stage.EXPORT, "export:misconfiguration-traced"), _OTHERWISE]


@st.composite
def _outcomes(draw: st.DrawFn) -> list[tuple[Stage, str] | None]:
    """How each planned cell ends. Mostly by simple rules, so that products come about, with some exceptions."""
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
            verdict = Verdict.UNEXPECTED_PASS if known else Verdict.PASS
        else:
            as_listed = known is not None and (known.stage, known.signature) == failure
            verdict = Verdict.EXPECTED_FAILURE if as_listed else Verdict.FAIL
        records.append(_record(cell.id, verdict, failure))
    return records


def _sort_of(expectation: Expectation | None) -> tuple[str, str] | None:
    return (expectation.signature, expectation.reason) if expectation else None


@given(ends=_outcomes(), share=st.sampled_from([1, 2]))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_updated_matrix_covers_exactly_what_fails(ends: list[tuple[Stage, str] | None], share: int) -> None:
    _check(_SHARED, ends[: len(ends) // share])  # a run may have been of a part of the cells


@pytest.mark.parametrize("failure", _FAILURES, ids=str)
def test_the_real_matrix_covers_exactly_what_fails(failure: tuple[Stage, str] | None) -> None:
    ends = [None if cell.clause in ("PAR-1", "EXP-1") or cell.subject == "reference" else failure for cell in _PLAN]
    _check(MATRIX_PATH.read_text(encoding="utf-8"), ends)


def _check(text: str, ends: Sequence[tuple[Stage, str] | None]) -> None:
    known = _matrix(text)
    records = [record for record in _judged(known, ends) if record.architecture in known.architectures]
    update = updated_matrix(text, _run(records))
    matrix = _matrix(update.text)
    verdicts = {r.verdict for r in _judged(matrix, ends) if r.architecture in known.architectures}
    assert verdicts <= {Verdict.PASS, Verdict.EXPECTED_FAILURE}
    # What was not run is expected as before, and every expectation names cells that there are.
    for cell in _PLAN[len(ends) :]:
        assert _sort_of(matrix.expectation(cell, _VERSIONS)) == _sort_of(known.expectation(cell, _VERSIONS))
    assert not [told for told in matrix.unmatched(_CELLS) if told.partition(":")[0] in _ARCHITECTURES]
    assert updated_matrix(update.text, _run(records)).text == update.text
