"""The check of built sites that other tests use: a good site has no problems, and each way to spoil one is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from report.analysis import analyse
from report.loading import load_all
from report.site import Settings, build, write
from tests.report.sample_runs import RUNS
from tests.support.matrix import small_matrix
from tests.support.site_check import site_problems

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the sample runs, built once."""
    directory = tmp_path_factory.mktemp("built") / "site"
    files = build(analyse(load_all(sorted(RUNS.glob("*.json"))), small_matrix()), Settings(datetime.now(UTC)))
    write(files, directory)
    return directory


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return shutil.copytree(built, tmp_path / "site")


def test_the_site_of_the_sample_runs_has_no_problems(built: Path) -> None:
    assert site_problems(built) == []


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
    ("spoil", "message"),
    [
        (lambda site: (site / "architectures" / "llama.html").unlink(), "architectures/llama.html is missing"),
        (lambda site: (site / "style.css").unlink(), "style.css is missing"),
        (
            _edit("index.html", 'href="causes/index.html"', 'href="nowhere.html"'),
            "the link nowhere.html leads to a missing file",
        ),
        (_edit("index.html", 'href="causes/index.html"', 'href="../x.html"'), "leads out of the site"),
        (_edit("index.html", 'href="#main"', 'href="#elsewhere"'), "leads to a missing element"),
        (_edit("index.html", 'href="style.css"', 'href="https://example.org/s.css"'), "<link> would load https://"),
        (_edit("index.html", 'src="script.js"', 'src="//example.org/s.js"'), "<script> would load //example.org"),
        (_edit("index.html", "<footer>", '<footer><img src="x.png">'), "an element <img>"),
        (_edit("index.html", "<footer>", '<footer onclick="alert(1)">'), "an attribute onclick at <footer>"),
        (_edit("index.html", "<footer>", '<footer><a href="javascript:alert(1)">x</a>'), "is not a web address"),
        (_edit("index.html", "<footer>", "<footer><script>1</script>"), "an inline script"),
        (_edit("index.html", "default-src 'none'", "default-src *"), "its content security policy lacks"),
        (_edit("style.css", ":root", "@import 'x';\n:root"), "style.css: '@import' would load a resource"),
        (_edit("script.js", '"use strict"', 'fetch("/x")'), "would load a resource"),
        (_edit("index.json", '"schema_version"', '"version"'), "index.json does not fit its schema"),
        (_edit("index.json", "{", "{{"), "index.json is not JSON"),
        (_edit("badge.json", '"label"', '"lable"'), "badge.json is not a badge"),
        (_edit("architectures/llama.json", '"pass"', '"passed"'), "architectures/llama.json does not fit its schema"),
        (_drop_a_cell, "index.json counts"),
        (
            lambda site: (site / "schema/index.schema.json").write_text('{"type": 7}'),
            "the schema of index.json is invalid",
        ),
        (
            lambda site: (site / "schema/index.schema.json").write_text('{"$ref": "https://example.org/s.json"}'),
            "the schema of index.json is invalid",
        ),
        (lambda site: (site / "index.html").write_bytes(b"\xff"), "cannot read index.html"),
    ],
)
def test_each_way_to_spoil_a_site_is_noticed(site: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(site)
    assert any(message in problem for problem in site_problems(site))
