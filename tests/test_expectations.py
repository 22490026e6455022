"""The matrix as rewritten from a run: what is failing is listed, what is stale is gone, and all else is as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.cells import BackendTraits, Cell, Selection, plan
from conformance.contract import CHECKED, Mode
from conformance.expectations import updated_matrix
from conformance.matrix import MATRIX_PATH, Expectation, Matrix, MatrixError, load_matrix
from conformance.records import CellRecord, Environment, RunInfo, RunRecord
from conformance.verdicts import Stage, Verdict

_REASON = "a reason that is long enough"
_DIFFERS = "execute:logits-differ"
_VERSIONS = {"torch": "2.13.0", "transformers": "5.14.1", "executorch": "1.5.1"}
_OTHERWISE = (Stage.LOWER, "lower:Error:at a: 'b' #c")


def _record(cell: Cell, verdict: Verdict, failure: tuple[Stage, str] | None = None) -> CellRecord:
    mode: Literal["decode", "dynamic"] | None = cell.mode.value if cell.mode else None
    stage, signature = failure or (None, None)
    return CellRecord(
        id=cell.id,
        architecture=cell.architecture,
        subject=cell.subject,
        backend=cell.backend,
        mode=mode,
        clause=cell.clause,
        verdict=verdict,
        stage=stage,
        signature=signature,
    )


def _cell(name: str) -> Cell:
    """From an id such as ``llama/reference/xnnpack/decode/PAR-1`` or ``llama/eager/SEN-1``."""
    parts = name.split("/")
    if len(parts) == 3:
        return Cell(parts[0], None, parts[1], None, parts[2])
    return Cell(parts[0], parts[1], parts[2], Mode(parts[3]), parts[4])


def _fails(*names: str, signature: str = _DIFFERS, stage: Stage = Stage.EXECUTE) -> list[CellRecord]:
    return [_record(_cell(name), Verdict.FAIL, (stage, signature)) for name in names]


def _passes(*names: str) -> list[CellRecord]:
    return [_record(_cell(name), Verdict.UNEXPECTED_PASS) for name in names]


def _run(cells: Iterable[CellRecord], versions: Mapping[str, str] = _VERSIONS) -> RunRecord:
    return RunRecord(
        schema_version=1,
        run=RunInfo("1", "2026-01-01T00:00:00Z", None, True, {}, None),
        environment=Environment("3.12", "Linux", "one", dict(versions)),
        cells=tuple(cells),
    )


def _loaded(path: Path, text: str) -> Matrix:
    file = path / "models_matrix.yaml"
    file.write_text(text.replace("reason: TODO", f"reason: {_REASON}"), encoding="utf-8")
    return load_matrix(file)


_HEAD = """\
# About this file.
schema_version: 1
architectures:
"""


def _row(name: str, expect: str = "") -> str:
    return f"  {name}:  # the {name}\n    tier: smoke\n    caches: [full_attention]\n    exercises: 'it'\n{expect}"


_GELU = """\
    expect:  # known
      # First.
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
      # Second.
      - &chunks
        <<: *gelu
        clauses: [PAR-2]
        modes: [dynamic]
"""
_END = "  # Last words.\n"


def _expectations(path: Path, text: str, name: str) -> list[tuple[str, ...]]:
    """What a row expects, short: each as clauses, backends, modes, subject, signature, reason."""
    return [
        (
            " ".join(e.clauses),
            " ".join(e.backends),
            " ".join(e.modes),
            e.subject,
            e.signature,
            "TODO" if e.reason == _REASON else "known",
        )
        for e in _loaded(path, text).architectures[name].expect
    ]


# ---- nothing to do ----


@pytest.mark.parametrize(
    ("cells", "changes"),
    [
        ([], 0),
        ([_record(_cell("llama/reference/xnnpack/decode/PAR-1"), Verdict.PASS)], 0),
        (_fails("nobody/reference/xnnpack/decode/PAR-1", "nobody/eager/SEN-1"), 1),
        ([_record(_cell("llama/eager/SEN-1"), verdict) for verdict in (Verdict.CRASH, Verdict.NOT_RUN)], 1),
        # Only the bound is exceeded.
        (_fails("gemma2/transformers/xnnpack/decode/PAR-1", "gemma2/transformers/xnnpack/dynamic/PAR-2"), 2),
    ],
)
def test_nothing_to_change_gives_the_identical_text(cells: list[CellRecord], changes: int) -> None:
    text = MATRIX_PATH.read_text(encoding="utf-8")
    update = updated_matrix(text, _run(cells))
    assert update.text == text
    assert len(update.changes) == changes


def test_verdicts_without_a_signature_are_counted_and_left_alone() -> None:
    verdicts = [Verdict.CRASH, Verdict.TIMEOUT, Verdict.CRASH, Verdict.HARNESS_ERROR, Verdict.NOT_APPLICABLE]
    update = updated_matrix(_HEAD + _row("llama"), _run(_record(_cell("llama/eager/SEN-1"), v) for v in verdicts))
    told = "4 cells left alone, because these are never expected: 2 crash, 1 timeout, 1 harness-error"
    assert update.changes == (told,)


# ---- new failures ----


def test_failures_are_listed_below_what_the_row_says() -> None:
    text = _HEAD + _row("llama") + "  # About the other.\n" + _row("mistral") + _END
    names = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-3", "PAR-1")]
    update = updated_matrix(text, _run(_fails(*names)))
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
    assert update.text == _HEAD + _row("llama", expect) + "  # About the other.\n" + _row("mistral") + _END
    told = "llama: PAR-1, PAR-3 on xnnpack decode, dynamic (reference) now fail with execute:logits-differ"
    assert update.changes == (f"{told}: added, reason TODO",)


def test_failure_of_the_fixture_alone_has_any_subject_and_mode(tmp_path: Path) -> None:
    update = updated_matrix(_HEAD + _row("llama"), _run(_fails("llama/eager/SEN-1", signature="eager:dull")))
    assert update.changes == ("llama: SEN-1 on eager now fails with eager:dull: added, reason TODO",)
    assert _expectations(tmp_path, update.text, "llama") == [("SEN-1", "eager", "any", "any", "eager:dull", "TODO")]


def test_signature_that_yaml_would_misread_is_quoted(tmp_path: Path) -> None:
    stage, signature = _OTHERWISE
    run = _run(_fails("llama/eager/SEN-1", signature=signature, stage=stage))
    assert _expectations(tmp_path, updated_matrix(_HEAD + _row("llama"), run).text, "llama")[0][4] == signature


def test_failures_that_are_no_product_are_split(tmp_path: Path) -> None:
    every = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    names = [*every, "llama/reference/xnnpack/dynamic/PAR-2", "llama/reference/portable/decode/PAR-1"]
    found = _expectations(tmp_path, updated_matrix(_HEAD + _row("llama"), _run(_fails(*names))).text, "llama")
    assert len(found) == 3
    assert ("PAR-1 PAR-2 PAR-3", "xnnpack", "dynamic", "reference", _DIFFERS, "TODO") in found


@pytest.mark.parametrize(
    ("versions", "backend", "reused"),
    [
        (_VERSIONS, "xnnpack", True),
        ({**_VERSIONS, "executorch": "1.6.0"}, "xnnpack", False),  # it was written for others
        (_VERSIONS, "portable", False),
    ],
)
def test_an_identical_expectation_with_a_reason_is_used_again(
    versions: dict[str, str], backend: str, reused: bool
) -> None:
    specific = _GELU.replace("subject: any", "subject: reference")
    text = _HEAD + _row("gemma2", specific) + _row("llama") + _row("mistral")
    names = [f"{backend}/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    cells = [cell for row in ("llama", "mistral") for cell in _fails(*(f"{row}/reference/{name}" for name in names))]
    update = updated_matrix(text, _run(cells, versions))
    expected = (
        _HEAD + _row("gemma2", specific) + "".join(_row(row, "    expect: [*gelu]\n") for row in ("llama", "mistral"))
    )
    assert (update.text == expected) is reused
    assert ("reason: TODO" in update.text) is not reused


def test_a_definition_moves_up_to_an_earlier_use(tmp_path: Path) -> None:
    specific = _GELU.replace("subject: any", "subject: reference")
    names = [f"llama/reference/xnnpack/{mode}/{clause}" for mode in Mode for clause in ("PAR-1", "PAR-3")]
    text = updated_matrix(_HEAD + _row("llama") + _row("gemma2", specific), _run(_fails(*names))).text
    assert text.index("&gelu") < text.index("gemma2") < text.index("*gelu")
    assert "# First." in text
    assert _expectations(tmp_path, text, "llama") == _expectations(tmp_path, text, "gemma2")


# ---- stale expectations ----


def test_stale_cells_are_trimmed_and_the_rest_is_untouched() -> None:
    text = _HEAD + _row("gemma2", _GELU) + _row("llama") + _END
    names = [f"gemma2/{who}/xnnpack/{mode}/PAR-3" for mode in Mode for who in ("reference", "transformers")]
    update = updated_matrix(text, _run(_passes(*names)))
    assert update.text == text.replace("clauses: [PAR-1, PAR-3]  # two", "clauses: [PAR-1]  # two")
    assert update.changes[0] == (
        "gemma2: PAR-3 on xnnpack decode, dynamic (reference) pass: "
        "taken out of the expectation of execute:logits-differ"
    )


def test_rest_that_is_no_product_is_split(tmp_path: Path) -> None:
    names = [f"gemma2/{who}/xnnpack/decode/PAR-3" for who in ("reference", "transformers")]
    text = updated_matrix(_HEAD + _row("gemma2", _GELU), _run(_passes(*names))).text
    assert _expectations(tmp_path, text, "gemma2") == [
        ("PAR-1", "xnnpack", "decode dynamic", "any", _DIFFERS, "known"),
        ("PAR-3", "xnnpack", "dynamic", "any", _DIFFERS, "known"),
    ]
    assert text.count("# First.") == 1


def test_any_subject_is_spelt_out_where_one_of_them_passes(tmp_path: Path) -> None:
    text = updated_matrix(_HEAD + _row("gemma2", _GELU), _run(_passes("gemma2/reference/xnnpack/decode/PAR-3"))).text
    assert _expectations(tmp_path, text, "gemma2") == [
        ("PAR-1", "xnnpack", "decode dynamic", "any", _DIFFERS, "known"),
        ("PAR-3", "xnnpack", "dynamic", "any", _DIFFERS, "known"),
        ("PAR-3", "xnnpack", "decode", "transformers", _DIFFERS, "known"),
    ]


def test_any_mode_is_spelt_out_as_the_clause_has_them(tmp_path: Path) -> None:
    any_mode = _GELU.replace("[PAR-1, PAR-3]", "[PAR-1, PAR-2]").replace("[decode, dynamic]", "[any]")
    who = ("reference", "transformers")
    names = [f"gemma2/{w}/xnnpack/{column}" for w in who for column in ("decode/PAR-1", "dynamic/PAR-2")]
    text = updated_matrix(_HEAD + _row("gemma2", any_mode), _run(_passes(*names))).text
    assert _expectations(tmp_path, text, "gemma2") == [("PAR-1", "xnnpack", "dynamic", "any", _DIFFERS, "known")]


def test_expectation_of_nothing_goes_and_the_comments_around_stay() -> None:
    only = _GELU.replace("PAR-1, PAR-3", "PAR-1").replace("any", "reference").replace("decode, dynamic", "decode")
    text = _HEAD + _row("gemma2", only) + "\n" + _END + _row("llama")
    update = updated_matrix(text, _run(_passes("gemma2/reference/xnnpack/decode/PAR-1")))
    kept = "    # known\n      # First.\n"
    assert update.text == _HEAD + _row("gemma2", kept) + "\n" + _END + _row("llama")
    assert update.changes[0].endswith(", of which nothing is left")


def test_expectation_of_the_fixture_alone_goes_as_a_whole() -> None:
    text = _HEAD + _row("llama")
    listed = updated_matrix(text, _run(_fails("llama/eager/SEN-1"))).text
    assert updated_matrix(listed, _run(_passes("llama/eager/SEN-1"))).text == text != listed


def test_expectation_for_other_versions_is_not_stale() -> None:
    text = _HEAD + _row("gemma2", _GELU)
    cells = _passes("gemma2/reference/xnnpack/decode/PAR-1")
    assert updated_matrix(text, _run(cells, {**_VERSIONS, "executorch": "1.6.0"})).text == text


def test_failing_otherwise_moves_a_cell_to_a_new_expectation(tmp_path: Path) -> None:
    who = ("reference", "transformers")
    cells = _fails(*(f"gemma2/{w}/xnnpack/decode/PAR-1" for w in who), signature="load:Error", stage=Stage.LOAD)
    update = updated_matrix(_HEAD + _row("gemma2", _GELU), _run(cells))
    assert _expectations(tmp_path, update.text, "gemma2") == [
        ("PAR-1", "xnnpack", "dynamic", "any", _DIFFERS, "known"),
        ("PAR-3", "xnnpack", "decode dynamic", "any", _DIFFERS, "known"),
        ("PAR-1", "xnnpack", "decode", "reference", "load:Error", "TODO"),
        ("PAR-1", "xnnpack", "decode", "transformers", "load:Error", "TODO"),
    ]
    assert update.changes[0] == (
        "gemma2: PAR-1 on xnnpack decode (reference) no longer fails with execute:logits-differ: "
        "taken out of that expectation"
    )


# ---- shared expectations ----

_SHARED = (
    _HEAD
    + _row("gemma2", _GELU + _CHUNKS)
    + _row("gemma3_text", "    expect: [*gelu, *chunks]\n")
    + _row("llama", "    expect:\n      - *gelu\n      - <<: *chunks\n        signature: load:Error\n")
    + _END
)


def _every(row: str, *clauses: str) -> list[str]:
    who = ("reference", "transformers")
    return [f"{row}/{w}/xnnpack/{mode}/{clause}" for w in who for mode in Mode for clause in clauses]


def test_a_row_that_shares_gets_its_own_copy(tmp_path: Path) -> None:
    update = updated_matrix(_SHARED, _run(_passes(*_every("gemma3_text", "PAR-3"))))
    for row in ("gemma2", "llama"):
        assert _expectations(tmp_path, update.text, row) == _expectations(tmp_path, _SHARED, row)
    assert _expectations(tmp_path, update.text, "gemma3_text") == [
        ("PAR-1", "xnnpack", "decode dynamic", "any", _DIFFERS, "known"),
        ("PAR-2", "xnnpack", "dynamic", "any", _DIFFERS, "known"),
    ]
    start, end = _SHARED.index("    expect: [*gelu"), _SHARED.index("  llama:")
    assert update.text.startswith(_SHARED[:start])
    assert update.text.endswith(_SHARED[end:])


@pytest.mark.parametrize("clauses", [["PAR-3"], ["PAR-1", "PAR-3"]])
def test_a_definition_moves_on_when_its_row_changes(tmp_path: Path, clauses: list[str]) -> None:
    update = updated_matrix(_SHARED, _run(_passes(*_every("gemma2", *clauses))))
    for row in ("gemma3_text", "llama"):
        assert _expectations(tmp_path, update.text, row) == _expectations(tmp_path, _SHARED, row)
    left = [("PAR-1", "xnnpack", "decode dynamic", "any", _DIFFERS, "known")] if len(clauses) == 1 else []
    chunks = ("PAR-2", "xnnpack", "dynamic", "any", _DIFFERS, "known")
    assert _expectations(tmp_path, update.text, "gemma2") == [*left, chunks]
    assert update.text.count("&gelu") == update.text.count("&chunks") == 1
    assert "# First." in update.text
    assert "# Second." in update.text
    assert update.text.endswith(_END)


def test_all_rows_that_share_change_together() -> None:
    text = _HEAD + _row("gemma2", _GELU) + _row("llama", "    expect: [*gelu]\n")
    update = updated_matrix(text, _run(_passes(*_every("gemma2", "PAR-3"), *_every("llama", "PAR-3"))))
    assert update.text == text.replace("PAR-1, PAR-3", "PAR-1")


def test_what_builds_on_a_changed_expectation_stays_as_it_was(tmp_path: Path) -> None:
    text = _HEAD + _row("gemma2", _GELU + "      - <<: *gelu\n        clauses: [PAR-4]\n")
    names = [name for name in _every("gemma2", "PAR-1", "PAR-3") if "/decode/" in name]
    found = updated_matrix(text, _run(_passes(*names))).text
    assert found.startswith(text[: text.index("      - <<")].replace("modes: [decode, dynamic]", "modes: [dynamic]"))
    assert _expectations(tmp_path, found, "gemma2")[1] == (
        "PAR-4",
        "xnnpack",
        "decode dynamic",
        "any",
        _DIFFERS,
        "known",
    )


def test_one_of_two_rows_that_share_changes(tmp_path: Path) -> None:
    text = _HEAD + _row("gemma2", _GELU) + _row("llama", "    expect: [*gelu]\n")
    for row, other in (("gemma2", "llama"), ("llama", "gemma2")):
        found = updated_matrix(text, _run(_passes(*_every(row, "PAR-3")))).text
        assert _expectations(tmp_path, found, row)[0][0] == "PAR-1"
        assert _expectations(tmp_path, found, other) == _expectations(tmp_path, text, other)


def test_the_real_matrix_loses_what_upstream_mends(tmp_path: Path) -> None:
    text = MATRIX_PATH.read_text(encoding="utf-8")
    matrix = load_matrix()
    cells = [
        name
        for name, row in matrix.architectures.items()
        if any("EXP-9" in expectation.clauses for expectation in row.expect)
    ]
    update = updated_matrix(text, _run(_passes(*(f"{name}/transformers/exported/decode/EXP-9" for name in cells))))
    assert len(update.changes) == len(cells) > 1
    left = _loaded(tmp_path, update.text).architectures
    for name, row in matrix.architectures.items():
        assert left[name].expect == tuple(e for e in row.expect if e.clauses != ("EXP-9",))
    assert [line for line in update.text.split("\n") if line.startswith("#")] == [
        line for line in text.split("\n") if line.startswith("#")
    ]


@pytest.mark.parametrize(
    "text",
    ["architectures: [", "", _HEAD + "  llama: {tier: smoke}\n", _HEAD + _row("llama", "    expect: [{reason: x}]\n")],
)
def test_what_is_no_matrix_is_refused(text: str) -> None:
    with pytest.raises(MatrixError):
        updated_matrix(text, _run(_fails("llama/eager/SEN-1")))


# ---- all together ----

_PLAN = list(
    plan(
        Selection(
            ["gemma2", "gemma3_text", "llama", "lfm2"],
            ["reference", "transformers"],
            [BackendTraits("portable", False), BackendTraits("xnnpack", True)],
            CHECKED,
        )
    )
)
_FAILURES = [None, (Stage.EXECUTE, _DIFFERS), (Stage.EXPORT, "export:misconfiguration-traced"), _OTHERWISE]


def _outcomes() -> st.SearchStrategy[list[tuple[Stage, str] | None]]:
    """How each planned cell ends. Mostly by simple rules, so that products come about, with some exceptions."""
    keys: Sequence[Any] = (lambda c: c.clause, lambda c: (c.backend, c.mode), lambda c: (c.architecture, c.clause))
    ends = st.sampled_from(_FAILURES)

    @st.composite
    def drawn(draw: st.DrawFn) -> list[tuple[Stage, str] | None]:
        key = draw(st.sampled_from(keys))
        rule = {k: draw(ends) for k in dict.fromkeys(map(key, _PLAN))}
        exceptions = draw(st.dictionaries(st.integers(0, len(_PLAN) - 1), ends, max_size=8))
        return [exceptions.get(index, rule[key(cell)]) for index, cell in enumerate(_PLAN)]

    return drawn()


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
        records.append(_record(cell, verdict, failure))
    return records


def _sort_of(expectation: Expectation | None) -> tuple[str, str] | None:
    return (expectation.signature, expectation.reason) if expectation else None


@given(ends=_outcomes(), share=st.sampled_from([1, 2]))
@settings(derandomize=True, deadline=None, max_examples=25)
def test_updated_matrix_covers_exactly_what_fails(
    ends: list[tuple[Stage, str] | None], share: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp()
    _check(_SHARED, ends[: len(ends) // share], path)  # a run may have been of a part of the cells


@pytest.mark.parametrize("failure", _FAILURES, ids=str)
def test_the_real_matrix_covers_exactly_what_fails(failure: tuple[Stage, str] | None, tmp_path: Path) -> None:
    ends = [None if cell.clause in ("PAR-1", "EXP-1") or cell.subject == "reference" else failure for cell in _PLAN]
    _check(MATRIX_PATH.read_text(encoding="utf-8"), ends, tmp_path)


def _check(text: str, ends: Sequence[tuple[Stage, str] | None], path: Path) -> None:
    known = _loaded(path, text)
    records = [record for record in _judged(known, ends) if record.architecture in known.architectures]
    update = updated_matrix(text, _run(records))
    matrix = _loaded(path, update.text)
    verdicts = {r.verdict for r in _judged(matrix, ends) if r.architecture in known.architectures}
    assert verdicts <= {Verdict.PASS, Verdict.EXPECTED_FAILURE}
    # What was not run is expected as before, and every expectation names cells that there are.
    for cell in _PLAN[len(ends) :]:
        assert _sort_of(matrix.expectation(cell, _VERSIONS)) == _sort_of(known.expectation(cell, _VERSIONS))
    planned = {cell.architecture for cell in _PLAN}
    assert not [told for told in matrix.unmatched(_PLAN) if told.partition(":")[0] in planned]
    assert updated_matrix(update.text, _run(records)).text == update.text
