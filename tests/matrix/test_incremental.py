"""Judging only what could have changed: what a cell depends on, and what is left out and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import Verdict
from conformance.matrix import discovery
from conformance.matrix import fingerprints as prints
from conformance.matrix.discovery import registered, transformers_folder
from conformance.matrix.incremental import earlier_run, plan_incremental, plan_lines
from conformance.matrix.schema import load_matrix
from conformance.records.run import RunRecord, Since, write_run
from report.merging import Named, merge
from tests.report.samples import cell, run
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_FOUND = {"the suite": "1", "modeling code of llama": "2", "modeling code of gpt2": "3", "subject reference": "4"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a small Transformers stands, in which one model imports from another."""
    top = tmp_path / "transformers"
    files = {
        "cache_utils.py": "class StaticCache: ...",
        "models/auto/modeling_auto.py": "",
        "models/llama/configuration_llama.py": 'class C:\n    model_type = "llama"\n',
        "models/llama/modeling_llama.py": "from ...cache_utils import StaticCache\n",
        "models/heir/configuration_heir.py": 'class C:\n    model_type: str = "heir_text"\n',
        "models/heir/modeling_heir.py": "from ..llama.modeling_llama import LlamaMLP\nfrom ..auto import AutoModel\n",
        "models/lone/configuration_lone.py": 'class C:\n    model_type = "lone"\n',
        "models/lone/modeling_lone.py": "",
        # The first by the alphabet, with the type of another model as an argument.
        "models/all/configuration_all.py": 'class C:\n    model_type = "all"\nS(\n    model_type="llama",\n)',
        "models/all/modeling_all.py": "AutoModel.from_config(config.text_config)\n",
    }
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for module in (prints, discovery):
        monkeypatch.setattr(module, "transformers_folder", lambda: top)
    return top


def _fresh() -> dict[str, str]:
    for cached in (prints._shared, prints._named_by, discovery._configurations):
        cached.cache_clear()
    try:
        return prints.fingerprints(load_matrix(), ["llama", "heir_text", "lone", "all", "unheard_of"], ["reference"])
    finally:
        for cached in (prints._shared, prints._named_by, discovery._configurations):
            cached.cache_clear()


def _edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n# changed\n")


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("models/lone/modeling_lone.py", {"modeling code of lone", "modeling code of unheard_of"}),
        (
            "models/llama/modeling_llama.py",
            {f"modeling code of {name}" for name in ("llama", "heir_text", "all", "unheard_of")},
        ),
        ("models/heir/modeling_heir.py", {"modeling code of heir_text", "modeling code of unheard_of"}),
        ("cache_utils.py", {"transformers' shared modules"}),
        ("models/auto/modeling_auto.py", {"transformers' shared modules", "modeling code of unheard_of"}),
    ],
)
def test_a_changed_file_changes_what_it_reaches(checkout: Path, file: str, changed: set[str]) -> None:
    before = _fresh()
    assert before == _fresh()
    _edit(checkout / file)
    after = _fresh()
    assert {name for name in after if after[name] != before[name]} == changed


# Without gpt-sw3, which has no configuration of its own: for its fingerprint, all models are hashed.
@pytest.mark.parametrize("architecture", sorted({*registered()} & {*load_matrix().architectures} - {"gpt-sw3"}))
def test_reach_has_the_code_of_a_row(architecture: str) -> None:
    """With the installed Transformers, the module with the row's class is among what its fingerprint hashes."""
    mappings = (transformers_folder() / "models/auto/modeling_auto.py").read_text(encoding="utf-8")
    _, _, causal = mappings.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")
    _, _, name = causal.partition(f'("{architecture}", "')
    name = name[: name.index('"')]
    reach = prints.reach(architecture)
    paths = [path for each in reach for path in (transformers_folder() / "models" / each).glob("modeling_*.py")]
    assert any(f"class {name}(" in path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize(("architecture", "part"), [("fuyu", "persimmon"), ("got_ocr2", "qwen2")])
def test_reach_has_the_text_model_that_a_config_names(architecture: str, part: str) -> None:
    assert part in prints.reach(architecture)


def test_a_row_is_a_part_of_its_architecture() -> None:
    matrix = load_matrix()
    row = dataclasses.replace(matrix.architectures["llama"], exercises="something else")
    other = dataclasses.replace(matrix, architectures={**matrix.architectures, "llama": row})
    before, after = (prints.fingerprints(each, ["llama", "gpt2"], []) for each in (matrix, other))
    assert {name for name in after if after[name] != before[name]} == {"fixture and row of llama"}


def test_what_a_variation_changes_is_a_part_of_its_fixtures() -> None:
    """SEN-3 of a fixture counts a field as seen that one of its variations sets."""
    matrix = load_matrix()
    name = next(name for name, each in matrix.variations.items() if "llama" in each.rows and each.rows["llama"].config)
    own = matrix.variations[name].rows["llama"]
    rows = {**matrix.variations[name].rows, "llama": dataclasses.replace(own, config={**own.config, "new_field": 2})}
    varied = {**matrix.variations, name: dataclasses.replace(matrix.variations[name], rows=rows)}
    other = dataclasses.replace(matrix, variations=varied)
    before, after = (prints.fingerprints(each, ["llama", "gpt2"], []) for each in (matrix, other))
    assert {name for name in after if after[name] != before[name]} == {"fixture and row of llama"}


def test_a_cause_is_a_part_of_the_rows_that_name_it() -> None:
    matrix = load_matrix()
    cause = dataclasses.replace(matrix.causes["tied-weights"], reason="A reason that is long enough.")
    other = dataclasses.replace(matrix, causes={**matrix.causes, "tied-weights": cause})
    before, after = (prints.fingerprints(each, ["llama", "gpt2"], []) for each in (matrix, other))
    assert {name for name in after if after[name] != before[name]} == {"fixture and row of gpt2"}


def test_a_subject_is_its_package() -> None:
    found = prints.fingerprints(load_matrix(), [], ["reference", "tests.faults.programs:off_by_one", "transformers"])
    assert found["subject reference"] != found["subject tests.faults.programs:off_by_one"]
    cells = [Cell("llama", name, "exported", Mode.DECODE, "PAR-1") for name in ("reference", "transformers")]
    assert [("subject reference" in prints.parts(each, found)) for each in cells] == [True, False]
    assert all("the suite" in prints.parts(each, found) for each in cells)


def _plan() -> list[Cell]:
    return [Cell(name, "reference", "xnnpack", Mode.DECODE, "PAR-1") for name in ("llama", "gpt2")]


def _earlier(verdict: Verdict = Verdict.PASS, changed: str | None = None) -> RunRecord:
    record = run(cell(architecture="llama", verdict=verdict), cell(architecture="gpt2"), name="base")
    found = _FOUND | ({changed: "other"} if changed else {})
    return dataclasses.replace(record, run=dataclasses.replace(record.run, fingerprints=found))


def test_nothing_changed_leaves_all_out() -> None:
    choice = plan_incremental(_earlier(), _plan(), _FOUND)
    assert not choice.reasons
    assert plan_lines(choice) == [
        "2 cells not run again: nothing that they depend on has changed since run base: llama, gpt2"
    ]


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        (_earlier(changed="modeling code of llama"), "changed: modeling code of llama"),
        (_earlier(Verdict.FAIL), "fail in that run"),
        (_earlier(Verdict.CRASH), "crash in that run"),
        (dataclasses.replace(_earlier(), cells=_earlier().cells[1:]), "not judged in that run"),
    ],
)
def test_one_reason_concerns_one_architecture(earlier: RunRecord, reason: str) -> None:
    choice = plan_incremental(earlier, _plan(), _FOUND)
    assert dict(choice.reasons) == {_plan()[0].id: reason}
    assert [each.architecture for each in choice.reused] == ["gpt2"]


@pytest.mark.parametrize(
    ("earlier", "otherwise", "reason"),
    [
        (_earlier(changed="the suite"), "", "changed: the suite"),
        (_earlier(changed="subject reference"), "", "changed: subject reference"),
        (_earlier(), "--examples was 25 there and is 200 now", "other scripts: --examples was 25 there and is 200 now"),
    ],
)
def test_what_concerns_all_leaves_nothing_out(earlier: RunRecord, otherwise: str, reason: str) -> None:
    choice = plan_incremental(earlier, _plan(), _FOUND, otherwise)
    assert set(choice.reasons.values()) == {reason}
    assert not choice.reused


@pytest.mark.parametrize("there", [True, False])
def test_a_package_of_one_of_two_runs_is_a_change(there: bool) -> None:
    """It was installed or removed since, or the suite of then did not record it: its version is unknown."""
    found = _FOUND | {"package openvino": "2025.4.1"}
    earlier = _earlier()
    if there:
        earlier = dataclasses.replace(earlier, run=dataclasses.replace(earlier.run, fingerprints=found))
    choice = plan_incremental(earlier, _plan(), _FOUND if there else found)
    assert set(choice.reasons.values()) == {"changed: package openvino"}


@pytest.mark.parametrize(("backend", "reused"), [("phone:VULKAN", 0), ("recipe:FP32", 1)])
def test_backend_that_no_fingerprint_covers_is_judged_again(backend: str, reused: int) -> None:
    asked = dataclasses.replace(_plan()[0], backend=backend)
    record = run(cell(architecture="llama", backend=backend), name="base")
    earlier = dataclasses.replace(record, run=dataclasses.replace(record.run, fingerprints=_FOUND))
    choice = plan_incremental(earlier, [asked], _FOUND)
    assert len(choice.reused) == reused
    assert set(choice.reasons.values()) <= {f"the code and the device of {backend} may have changed"}


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda path: None, "file-error"),
        (lambda path: path.write_text("{}"), "invalid-record"),
        (lambda path: _write(path, run(cell())), "no-fingerprints"),
    ],
)
def test_a_run_to_build_on_has_fingerprints(tmp_path: Path, write: Callable[[Path], object], code: str) -> None:
    path = tmp_path / "run.json"
    write(path)
    with refused(code):
        earlier_run(path)


def _write(path: Path, record: RunRecord) -> Path:
    write_run(path, record)
    return path


def _partial(clause: str, *, left_out: str, since: str = "base") -> RunRecord:
    record = run(cell(clause), name=clause)
    left = tuple(each.id for each in _plan() if each.architecture == left_out)
    return dataclasses.replace(record, run=dataclasses.replace(record.run, since=Since(since, left)))


def test_shards_leave_out_together() -> None:
    parts = [_partial("PAR-9", left_out="gpt2"), _partial("PAR-10", left_out="llama")]
    merged = merge([Named(each.run.id, each) for each in parts])
    assert merged.run.since
    assert merged.run.since.run == "base"
    assert sorted(merged.run.since.left_out) == sorted(each.id for each in _plan())
    with refused("runs-differ"):
        merge([Named("a", parts[0]), Named("b", _partial("PAR-10", left_out="llama", since="other"))])
