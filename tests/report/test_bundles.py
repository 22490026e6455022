"""Failure bundles on the site: packed the same each time, and nothing else that a record may name."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import pytest

from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import Stage, Verdict
from conformance.records.bundle import Bundle, write_bundle
from conformance.records.run import CellRecord
from report.bundles import BundleLink, collect_bundles, write_archives
from tests.report.harness import Report
from tests.report.samples import HOSTILE, cell, run
from tests.support.messages import refused
from tests.support.site_check import site_problems

pytestmark = pytest.mark.unit

_CELL = Cell("llama", "reference", "xnnpack", Mode.DECODE, "PAR-1")
_PLACE = "build/failures/llama--reference--xnnpack--decode--PAR-1"


def _bundle(**changes: object) -> Bundle:
    bundle = Bundle(
        schema_version=1,
        architecture=_CELL.architecture,
        subject=_CELL.subject,
        backend=_CELL.backend,
        mode=_CELL.mode,
        clause=_CELL.clause,
        stage=Stage.EXECUTE,
        signature="execute:logits-differ",
        message="it differs",
        versions={"torch": "2.13.0"},
        config=None,
        max_cache_len=32,
        calls=None,
        examples=5,
        tolerance=1e-5,
        logits_scale=None,
    )
    return dataclasses.replace(bundle, **changes)  # type: ignore[arg-type]


def _failing(bundle: str | None = _PLACE, clause: str = "PAR-1") -> CellRecord:
    facts = {"stage": Stage.EXECUTE, "signature": "execute:logits-differ", "message": "it differs"}
    return cell(clause, Verdict.FAIL, bundle=bundle, **facts)  # type: ignore[arg-type]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """Where a run was started that left the bundle of a failure."""
    folder = tmp_path / "started"
    write_bundle(folder / "build/failures", _bundle(), {"weights.pt": b"\x00" * 5000, "reproduce.py": b"print()\n"})
    return folder


def _found(started: Path, bundle: str | None = _PLACE) -> BundleLink:
    failing = _failing(bundle)
    return collect_bundles(run(failing), started)[failing.id]


def test_bundle_is_packed_linked_and_always_the_same(report: Report, started: Path) -> None:
    record, sites = report.record(run(_failing(), cell("PAR-3"))), [report.directory / name for name in ("one", "two")]
    for site in sites:
        assert report("build", record, "-o", site, "--bundles", started).code == 0
        os.utime(started / _PLACE / "weights.pt", (1, 1))
    (packed,), (again,) = ([*(site / "bundles").iterdir()] for site in sites)
    assert packed.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        name = Path(_PLACE).name
        assert archive.namelist() == [f"{name}/bundle.json", f"{name}/reproduce.py", f"{name}/weights.pt"]
        assert archive.read(f"{name}/weights.pt") == b"\x00" * 5000
    page = (sites[0] / "architectures/llama.html").read_text()
    assert f'href="../bundles/{packed.name}" download' in page
    assert f"conformance failure replay {name}<" in page
    document = json.loads((sites[0] / "architectures/llama.json").read_text())
    assert document["bundles"] == {_failing().id: f"bundles/{packed.name}"}
    assert site_problems(sites[0]) == []


def test_bundle_of_an_earlier_site_goes(report: Report, started: Path) -> None:
    record, site = report.record(run(_failing())), report.directory / "site"
    report("build", record, "-o", site, "--bundles", started)
    assert [*(site / "bundles").iterdir()]
    report("build", record, "-o", site, "--bundles", report.directory)
    assert not [*(site / "bundles").iterdir()]
    page = (site / "architectures/llama.html").read_text()
    assert "No bundle to download: its folder did not exist when this page was made." in page
    assert f"conformance failure replay {_PLACE}<" in page
    assert site_problems(site) == []


@pytest.mark.parametrize(
    "place",
    [
        "../started/" + _PLACE,
        "build/../../started/" + _PLACE,
        "/etc",
        "../../etc",
        "C:/build",
        "C:build",
        "\\\\server\\share",
        "build\\failures",
        "",
        ".",
        *HOSTILE,
    ],
)
def test_no_other_place_is_followed(report: Report, started: Path, place: str) -> None:
    site = report.directory / "site"
    assert report("build", report.record(run(_failing(place))), "-o", site, "--bundles", started).code == 0
    assert not (site / "bundles").exists()
    assert site_problems(site) == []


def test_absolute_place_is_not_followed_even_where_it_is_right(started: Path) -> None:
    found = _found(started, str(started / _PLACE))
    assert found == BundleLink(None, "the record's path is outside of the folder that the run was started in", None)


def test_what_is_behind_a_link_is_not_packed(tmp_path: Path, started: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    (started / _PLACE / "secret").symlink_to(tmp_path / "secret")
    (started / _PLACE / "folder").mkdir()
    (started / _PLACE / ".hidden").write_text("x")
    os.mkfifo(started / _PLACE / "pipe")
    archive = _found(started).archive
    assert archive
    assert [name for name, _ in archive.files] == ["bundle.json", "reproduce.py", "weights.pt"]
    (started / "linked").symlink_to(started / "build")
    for place in ("linked/" + _PLACE.removeprefix("build/"), f"{_PLACE}/bundle.json"):
        found = _found(started, place)
        assert (found.archive, found.missing.partition(",")[0]) == (None, "its path is not a folder")


def test_only_the_bundle_of_that_very_failure_is_packed(started: Path) -> None:
    (started / "notes").mkdir()
    (started / "notes" / "private").write_text("a secret")
    assert _found(started, "notes").missing == "its folder does not hold a bundle"
    (started / "notes" / "bundle.json").write_text("{}")
    assert _found(started, "notes").missing == "its folder does not hold a bundle"
    for changes in ({"message": "of another day"}, {"clause": "PAR-3"}, {"signature": None}):
        folder = write_bundle(started / "other", _bundle(**changes), {})
        found = _found(started, f"other/{folder.name}")
        assert found.missing == "its folder now holds the bundle of another failure"


def test_what_is_too_large_is_left_out_with_a_note(report: Report, started: Path) -> None:
    (started / _PLACE / "program.pte").write_bytes(bytes(3 << 20))
    record, site = report.record(run(_failing())), report.directory / "site"
    assert report("build", record, "-o", site, "--bundles", started, "--bundle-limit", "2").code == 0
    page = (site / "architectures/llama.html").read_text()
    assert "No bundle to download: it has 3.0 MiB, more than the limit of 2 MiB (--bundle-limit)." in page
    assert report("build", record, "-o", site, "--bundles", started, "--bundle-limit", "0").code == 2


def test_all_bundles_together_have_a_limit(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("report.bundles._MOST_OF_ALL", 100)
    assert _found(started).missing == "the bundles of this site have reached their limit of 0 MiB"


def test_a_command_to_copy_is_one_command(started: Path) -> None:
    assert _found(started, "$(reboot); x").replay == "conformance failure replay '$(reboot); x'"


def test_a_cause_offers_the_first_bundle_that_there_is(started: Path) -> None:
    crash = cell("PAR-3", Verdict.FAIL, signature="execute:logits-differ")
    assert list(collect_bundles(run(crash, _failing()), started)) == [_failing().id]
    assert collect_bundles(run(crash), started) == {}


def test_a_bundle_that_changes_meanwhile_is_refused(started: Path, tmp_path: Path) -> None:
    (link,) = collect_bundles(run(_failing()), started).values()
    assert link.archive
    (started / _PLACE / "reproduce.py").write_text("print(2)\n")
    with refused("bundle-changed"):
        write_archives([dataclasses.replace(link.archive, address="bundle.zip")], tmp_path)


def test_there_has_to_be_a_folder_to_look_in(report: Report) -> None:
    record = report.record(run(_failing()))
    site, missing = report.directory / "site", report.directory / "none"
    report.refused("file-error", "build", record, "-o", site, "--bundles", missing)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x", "is not a zip file"), (None, "is damaged at"), ("../x", "would unpack to '../x'"), ("a/x", "lacks bundle")],
)
def test_a_spoilt_bundle_is_noticed(report: Report, started: Path, content: str | bytes | None, message: str) -> None:
    site = report.directory / "site"
    report("build", report.record(run(_failing())), "-o", site, "--bundles", started)
    (packed,) = (site / "bundles").iterdir()
    if isinstance(content, str):
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(content, "x")
    else:
        whole = packed.read_bytes()
        packed.write_bytes(content or whole.replace(b"print()", b"print(7"))
    assert any(message in problem for problem in site_problems(site))
    packed.unlink()
    assert any("is missing" in problem for problem in site_problems(site))
