"""Validation: a sound record or site is called sound, and each way to spoil one is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from report.__main__ import main
from report.site import MANIFEST
from tests.report.harness import Report
from tests.report.sample_runs import RUNS, sample_runs
from tests.report.sample_runs import write as write_samples
from tests.report.samples import cell, run

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def sample_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample") / "site"
    assert main(["build", *map(str, sorted(RUNS.glob("*.json"))), "-o", str(directory)]) == 0
    return directory


@pytest.fixture
def site(report: Report, sample_site: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(sample_site, report.directory / "site")


def test_the_sample_runs_and_their_site_are_sound(report: Report, site: Path) -> None:
    ended = report("validate", site, *sorted(RUNS.glob("*.json")))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count(": sound, ") == 1 + len(sample_runs())


def test_the_sample_runs_are_what_their_command_writes(tmp_path: Path) -> None:
    write_samples(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == {
        path.name: path.read_bytes() for path in RUNS.glob("*.json")
    }


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(site: Path) -> None:
        text = (site / name).read_text()
        assert old in text
        (site / name).write_text(text.replace(old, new, 1))

    return edit


def _drop_a_cell(site: Path) -> None:
    path = site / "architectures" / "llama.json"
    plain = json.loads(path.read_text())
    plain["cells"].pop()
    path.write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda site: (site / "architectures" / "llama.html").unlink(), "architectures/llama.html is missing"),
        (lambda site: (site / "style.css").unlink(), "style.css is missing"),
        (_edit("index.html", 'href="causes/index.html"', 'href="nowhere.html"'), "the link nowhere.html leads nowhere"),
        (_edit("index.html", 'href="causes/index.html"', 'href="../x.html"'), "leads out of the site"),
        (_edit("index.html", 'href="#main"', 'href="#elsewhere"'), "leads to no place on that page"),
        (_edit("index.html", 'href="style.css"', 'href="https://example.org/s.css"'), "<link> would fetch https://"),
        (_edit("index.html", 'src="script.js"', 'src="//example.org/s.js"'), "<script> would fetch //example.org"),
        (_edit("index.html", "<footer>", '<footer><img src="x.png">'), "an element <img>"),
        (_edit("index.html", "<footer>", '<footer onclick="alert(1)">'), "an attribute onclick at <footer>"),
        (_edit("index.html", "<footer>", '<footer><a href="javascript:alert(1)">x</a>'), "is no address on the web"),
        (_edit("index.html", "<footer>", "<footer><script>1</script>"), "a script inside of the page"),
        (_edit("index.html", "default-src 'none'", "default-src *"), "its content security policy does not say"),
        (_edit("style.css", ":root", "@import 'x';\n:root"), "style.css: '@import' would fetch something"),
        (_edit("script.js", '"use strict"', 'fetch("/x")'), "would fetch something"),
        (_edit("index.json", '"schema_version"', '"version"'), "index.json does not fit its schema"),
        (_edit("index.json", "{", "{{"), "index.json is no JSON"),
        (_edit("badge.json", '"label"', '"lable"'), "badge.json is no badge"),
        (_edit("architectures/llama.json", '"pass"', '"passed"'), "architectures/llama.json does not fit its schema"),
        (_drop_a_cell, "index.json counts"),
        (
            lambda site: (site / "schema/index.schema.json").write_text('{"type": 7}'),
            "the schema of index.json is none",
        ),
        (
            lambda site: (site / "schema/index.schema.json").write_text('{"$ref": "https://example.org/s.json"}'),
            "the schema of index.json is none",
        ),
        (lambda site: (site / "index.html").write_bytes(b"\xff"), "index.html cannot be read"),
    ],
)
def test_each_way_to_spoil_a_site_is_noticed(
    report: Report, site: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(site)
    ended = report("validate", site)
    assert ended.code == 1
    assert told in ended.err, ended.err
    assert "sound" not in ended.out


def test_a_bad_record_is_named_beside_good_ones(report: Report) -> None:
    good, bad = report.record(run(cell())), report.directory / "bad.json"
    bad.write_text(good.read_text().replace('"pass"', '"passed"'))
    ended = report("validate", good, bad)
    assert ended.code == 1
    assert ended.out.startswith(f"{good}: sound, ")
    assert ended.err.startswith(f"{bad} is no run record: cells.0.verdict")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("manifest", ["{", "7", '["../x"]', '["/etc/passwd"]', "[1]"])
def test_a_damaged_manifest_is_refused(report: Report, site: Path, manifest: str) -> None:
    (site / MANIFEST).write_text(manifest)
    assert "is damaged" in report.refused("validate", site)


def test_what_is_neither_is_refused(report: Report) -> None:
    assert "holds no report" in report.refused("validate", report.directory)
    assert "there is no such file" in report.refused("validate", report.directory / "none.json")
