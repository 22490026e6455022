"""Generated runs, sound and damaged: each command handles them, and none drops a cell silently."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, RunRecord
from tests.report.harness import Ended, Report
from tests.report.samples import HOSTILE, runs
from tests.support.site_check import site_problems

pytestmark = pytest.mark.unit

_SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_UNJUDGED = {Verdict.NOT_RUN, Verdict.NOT_APPLICABLE}

_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.sampled_from((*HOSTILE, "", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "1/2"))
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


@st.composite
def _damages(draw: st.DrawFn) -> tuple[str, float, Any]:
    """How a record is to be damaged: what is done to it, where, as a share of it, and what is put there."""
    how = draw(st.sampled_from(["replace", "delete", "double", "cut", "flip"]))
    return how, draw(st.floats(0, 0.999)), draw(_json_values)


def _damaged(text: str, how: str, share: float, value: Any) -> bytes:
    raw = text.encode()
    if how == "cut":
        return raw[: int(share * len(raw))]
    if how == "flip":
        at = int(share * len(raw))
        return raw[:at] + bytes([raw[at] ^ random.Random(share).randrange(1, 256)]) + raw[at + 1 :]
    plain = json.loads(text)
    places = _places(plain)
    *way, last = places[int(share * len(places))]
    holder = plain
    for key in way:
        holder = holder[key]
    if how == "replace":
        holder[last] = value
    elif how == "delete":
        del holder[last]
    elif isinstance(holder, list):
        holder.append(holder[last])
    else:
        holder[f"{last} again"] = holder[last]
    return json.dumps(plain).encode()


def _answered(ended: Ended) -> bool:
    """Whether it was done; if not, it was refused in one sentence. A traceback fails the test by itself."""
    if ended.code == 2:
        assert ended.out == ""
        assert ended.err.startswith("error [")
        assert ended.err.count("\n") == 1
    else:
        assert ended.code in {0, 1}
    assert all(char.isprintable() or char in "\n\t" for char in ended.out + ended.err)
    return ended.code != 2


def _named(run: RunRecord, name: str, day: int, **options: str) -> RunRecord:
    started = f"2026-11-{day:02}T10:00:00+00:00"
    info = dataclasses.replace(run.run, id=name, started=started, finished=started)
    return dataclasses.replace(run, run=dataclasses.replace(info, options={**info.options, **options}))


def _ids_on_site(site: Path) -> list[str]:
    index = json.loads((site / "index.json").read_bytes())
    documents = [json.loads((site / each["data"]).read_bytes()) for each in index["architectures"]]
    return sorted(cell["id"] for document in documents for cell in document["cells"])


@_SETTINGS
@given(runs, runs)
def test_sound_runs_are_built_compared_and_summed_up(report: Report, first: RunRecord, second: RunRecord) -> None:
    base, head = report.record(_named(first, "base", 1)), report.record(_named(second, "head", 2))
    site = report.directory / "site"
    assert report("build", base, head, "-o", site).code == 0
    assert _ids_on_site(site) == sorted(cell.id for cell in second.cells)
    assert site_problems(site) == []
    for form in ("markdown", "github"):
        assert _answered(report("summary", head, "--base", base, "--format", form))
    assert report("history", base, head).code == 0
    shutil.rmtree(site)


def _worse(base: CellRecord, head: CellRecord | None) -> bool:
    """What must close the gate, said anew and more simply than where it is decided."""
    if base.verdict in _UNJUDGED:
        return False
    if head is None or head.verdict in _UNJUDGED:
        return True
    held = base.verdict is Verdict.PASS
    if held and head.verdict is not Verdict.PASS:
        return True
    both = base.verdict is head.verdict is Verdict.FAIL
    return both and bool(base.stage and head.stage) and _order(head.stage) < _order(base.stage)


def _order(stage: Stage | None) -> int:
    return list(Stage).index(stage) if stage else len(Stage)


@_SETTINGS
@given(runs, runs, st.data())
def test_the_gate_lets_nothing_worse_pass(
    report: Report, first: RunRecord, second: RunRecord, data: st.DataObject
) -> None:
    # Two runs of which nothing was drawn twice have no cell in common: the head takes over some of the base's.
    own = {cell.id: cell for cell in second.cells}
    for cell in first.cells:
        what = data.draw(st.sampled_from(["keep", "drop", *Verdict]))
        if what == "keep":
            own[cell.id] = cell
        elif what != "drop":
            stage = data.draw(st.none() | st.sampled_from(Stage))
            own[cell.id] = dataclasses.replace(cell, verdict=Verdict(what), stage=stage)
    base = _named(first, "base", 1)
    head = dataclasses.replace(_named(second, "head", 2), cells=tuple(own.values()))
    ended = report("gate", report.record(base), report.record(head))
    if _answered(ended):
        worse = any(_worse(cell, own.get(cell.id)) for cell in base.cells)
        assert ended.code == 1 or not worse, ended.out
        assert (ended.code == 1) == ended.out.splitlines()[-1].startswith("FAIL: ")
    else:
        assert "cannot compare" in ended.err


@_SETTINGS
@given(runs.filter(lambda run: bool(run.cells)), _damages())
def test_a_damaged_run_is_refused_or_shown_whole(
    report: Report, whole: RunRecord, damage: tuple[str, float, Any]
) -> None:
    sound = report.record(_named(whole, "sound", 1, shard="1/2"))
    path = report.record(_named(whole, "other", 2, shard="2/2"))
    text = path.read_text()
    path.write_bytes(_damaged(text, *damage))
    site, out = report.directory / "site", report.directory / "merged.json"
    if _answered(report("build", path, "-o", site)):
        assert _ids_on_site(site) == sorted(cell["id"] for cell in json.loads(path.read_bytes())["cells"])
        assert report("validate", path).code == 0
        shutil.rmtree(site)
    else:
        assert not site.exists()
        assert report("validate", path).code == 1
    if _answered(report("merge", sound, path, "-o", out)):
        merged = json.loads(out.read_bytes())["cells"]
        parts = [json.loads(each.read_bytes())["cells"] for each in (sound, path)]
        assert len(merged) == sum(map(len, parts))
        out.unlink()
    for arguments in (
        ("gate", sound, path),
        ("gate", path, sound),
        ("summary", path, "--base", sound),
        ("summary", sound, "--base", path, "--format", "github"),
        ("history", sound, path),
        ("db", path, "-o", report.directory / "runs.duckdb"),
    ):
        _answered(report(*arguments))
