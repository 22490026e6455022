"""Hand-made and generated runs."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.contract import CHECKED, Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import (
    DIRTY,
    CellRecord,
    Environment,
    ExpectedFailure,
    FieldsRecord,
    PartitionRecord,
    RunInfo,
    RunRecord,
    Since,
)
from conformance.runner.judge import bare_record

#: Names and texts that an untrusted exporter or record may have.
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; alert(1); '",
    "../../etc/passwd",
    "..\\..\\windows",
    "a/b",
    "con",
    "{{ 7 * 7 }}",
    "</style><svg onload=alert(1)>",
    "javascript:alert(1)",
    "a\u202eb\x00c",
    "\u2028",
    "&lt;b&gt;",
    "ß" * 300,
)
STARTED = "2026-11-23T10:00:00+00:00"


def cell(
    clause: str = "PAR-1",
    verdict: Verdict = Verdict.PASS,
    stage: Stage | None = None,
    *,
    architecture: str = "llama",
    subject: str | None = "reference",
    backend: str = "xnnpack",
    mode: Mode | None = Mode.DECODE,
    signature: str | None = None,
    message: str | None = None,
    expected: ExpectedFailure | None = None,
    metrics: dict[str, float] | None = None,
    bundle: str | None = None,
    partition: PartitionRecord | None = None,
    fields: FieldsRecord | None = None,
) -> CellRecord:
    """One cell's record."""
    record = bare_record(Cell(architecture, subject, backend, mode, clause), verdict, message)
    return dataclasses.replace(
        record,
        stage=stage,
        signature=signature,
        expected=expected,
        metrics=metrics,
        bundle=bundle,
        partition=partition,
        fields=fields,
    )


def partition(
    delegated: dict[str, int], undelegated: dict[str, int], *, lower_s: float = 1.0, delegate: str = "XnnpackBackend"
) -> PartitionRecord:
    """What lowering made of a program with these operators."""
    parts = {delegate: sum(delegated.values())} if delegated else {}
    return PartitionRecord(parts, delegated, undelegated, 9000, 4096, 3072, 2048, lower_s, 0.5)


def run(
    *cells: CellRecord,
    name: str = "head",
    started: str = STARTED,
    complete: bool = True,
    torch: str = "2.13.0",
    commit: str | None = None,
) -> RunRecord:
    """A run of these cells."""
    info = RunInfo(name, started, started if complete else None, complete, {"subject": "reference"}, None, commit)
    packages = {"torch": torch, "transformers": "5.23.0", "executorch": "1.5.1"}
    return RunRecord(1, info, Environment("3.11.7", "Linux", "a processor", packages), cells)


def incremental(
    *cells: CellRecord, left_out: tuple[CellRecord, ...], since: str = "base", missing: int = 0
) -> RunRecord:
    """A run of these cells, which left out others that cannot have changed since another run."""
    record = run(*cells)
    left = Since(since, tuple(each.id for each in left_out), missing)
    return dataclasses.replace(record, run=dataclasses.replace(record.run, complete=False, since=left))


_text = st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=20))
_number = st.floats(allow_nan=False, allow_infinity=False)
_metrics = st.dictionaries(
    st.sampled_from(["max_relative_error", "tolerance", "delegated_operators", "undelegated_operators", "lower_s"])
    | _text,
    _number,
    max_size=4,
)
_counts = st.dictionaries(st.sampled_from(["aten.linear.default", "aten.bmm.default"]) | _text, st.integers(0, 1 << 52))
_size = st.integers(0, 1 << 52)
_partitions = st.builds(
    PartitionRecord, _counts, _counts, _counts, _size, _size, _size, _size, lower_s=_number, emit_s=_number
)
_fields = st.builds(FieldsRecord, _metrics, _metrics, st.dictionaries(_text, st.lists(_text).map(tuple), max_size=3))


@st.composite
def cells(draw: st.DrawFn) -> CellRecord:
    """Any cell that a record may hold."""
    backend = draw(st.sampled_from([EAGER, EXPORTED, "xnnpack", "portable"]) | _text)
    eager = backend == EAGER
    verdict = draw(st.sampled_from(Verdict))
    return cell(
        draw(st.sampled_from([clause.id for clause in CHECKED]) | _text),
        verdict,
        draw(st.none() | st.sampled_from(Stage)),
        architecture=draw(st.sampled_from(["llama", "gpt2", "phi"]) | _text),
        subject=None if eager else draw(st.sampled_from(["reference", "transformers"]) | _text),
        backend=backend,
        mode=None if eager else draw(st.sampled_from(Mode)),
        signature=draw(st.none() | _text),
        message=draw(st.none() | _text),
        expected=ExpectedFailure(draw(_text), draw(st.none() | _text)) if draw(st.booleans()) else None,
        metrics=draw(st.none() | _metrics),
        bundle=draw(st.none() | _text),
        partition=draw(st.none() | _partitions),
        fields=draw(st.none() | _fields),
    )


_commits = st.none() | st.sampled_from(["0" * 40, "a" * 40 + DIRTY]) | _text

#: Whole runs, each cell once.
runs = st.builds(
    lambda found, commit: run(*found, commit=commit),
    st.lists(cells(), max_size=12, unique_by=lambda each: each.id),
    _commits,
)
