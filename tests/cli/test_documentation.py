"""Links of the documentation lead somewhere on GitHub too, and what pages quote is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from tests.support.doc_pages import PAGES, anchors, blocks, page_id, without_code

pytestmark = pytest.mark.unit

_README = ROOT / "README.md"


def _broken(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if "://" in target:
            continue
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert _broken(page) == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Two words\n[a](#two-words) [b](#three) [c](page.md) [d](none.md#x) `[e](code.md)`\n")
    assert _broken(page) == ["#three", "none.md#x"]


def test_the_readme_is_short() -> None:
    assert len(_README.read_text(encoding="utf-8").splitlines()) <= 150


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[entry.strip() for entry in line.strip("|").split("|")] for line in lines]


def test_the_readme_has_the_statuses_of_the_committed_run() -> None:
    status = _rows((ROOT / "docs" / "reference" / "status.md").read_text(encoding="utf-8"))
    (header,) = (row for row in status if row[0] == "architecture" and "exported" in row[1])
    columns = [header.index(f"{exporter}<br>xnnpack<br>decode") for exporter in ("reference", "transformers")]
    wanted = [
        [row[0], *(re.sub(r", (?:[≈✗] )?not .*", "", row[column]) for column in columns)]
        for row in status[status.index(header) + 2 :]
        if len(row) == len(header) and row[columns[1]]  # the core tier, which both exporters were judged on
    ]
    text = _README.read_text(encoding="utf-8")
    assert [row for row in _rows(text) if len(row) == 3 and row[1][:1] in "✓≈✗"] == wanted
    counts = {tuple(row[:3]): row[3].strip("*") for row in status if len(row) == 6}
    flowing = " ".join(text.split())
    decode, dynamic = (counts["reference", "xnnpack", mode] for mode in ("decode", "dynamic"))
    assert f"`reference` decodes {decode} correctly, and {dynamic.split()[0]} with any number" in flowing
    lowered, exported = (counts["transformers", backend, "decode"] for backend in ("xnnpack", "exported"))
    assert f"`transformers` decodes {lowered}; {exported} before lowering" in flowing
    versions = {row[0]: row[1].partition("+")[0] for row in status if len(row) == 2}
    named = (
        f"Transformers {versions['transformers']}, torch {versions['torch']} and ExecuTorch {versions['executorch']}"
    )
    assert f"{named} ({versions['date']})" in flowing


def test_the_skeleton_of_a_backend_is_quoted_as_it_is() -> None:
    page = (ROOT / "docs" / "guides" / "backend-maintainers.md").read_text(encoding="utf-8")
    skeleton = (ROOT / "tests" / "backends" / "skeleton.py").read_text(encoding="utf-8")
    pieces = [piece.strip() for block in blocks(page, "python") for piece in block.split("\n\n\n")]
    assert len(pieces) == 2
    assert [piece for piece in pieces if piece not in skeleton] == []
