"""Files that no run and no build has written: refused in a sentence, before they fill the memory or stop the reader."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pytest

from report.bundles import sound_archive
from report.site import MANIFEST
from tests.report.harness import Report
from tests.report.samples import cell, run

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "command",
    [
        ("build", "{}", "-o", "site"),
        ("summary", "{}"),
        ("gate", "{}", "sound"),
        ("gate", "sound", "{}"),
        ("merge", "sound", "{}", "-o", "out.json"),
        ("history", "{}"),
        ("query", "SELECT 1", "{}"),
    ],
    ids=lambda command: command[0],
)
def test_hostile_names_of_records_are_refused(report: Report, command: tuple[str, ...]) -> None:
    pipe = report.directory / "pipe"
    os.mkfifo(pipe)
    named = {"sound": str(report.record(run(cell()))), "site": str(report.directory / "site")}
    named["out.json"] = str(report.directory / "out.json")
    for path in (Path("/dev/zero"), pipe):
        told = report.refused(*(named.get(part, str(path) if part == "{}" else part) for part in command))
        assert "not a regular file" in told


def test_a_hostile_record_is_not_validated(report: Report) -> None:
    ended = report("validate", "/dev/zero")
    assert (ended.code, ended.out) == (1, "")
    assert "not a regular file" in ended.err
    deep = report.directory / "deep.json"
    deep.write_text("[" * 100_000)
    assert "is not a run record" in report("validate", deep).err


def test_a_hostile_manifest_is_refused(report: Report) -> None:
    site = report.directory / "site"
    site.mkdir()
    for content in ("[" * 100_000, '["../../elsewhere"]', '["a", 7]', "{}x"):
        (site / MANIFEST).write_text(content)
        assert "is damaged" in report.refused("validate", site)
    (site / MANIFEST).write_text("[" * 100_000)
    assert "is damaged" in report.refused("build", report.record(run(cell())), "-o", site)


def test_a_hostile_archive_is_not_unpacked(tmp_path: Path) -> None:
    packed = tmp_path / "bomb.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/bundle.json", b"\0" * (8 << 20))
    assert packed.stat().st_size < 1 << 20
    assert sound_archive(packed) == "is compressed; builds do not compress"

    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/bundle.json", b"x")
    content = bytearray(packed.read_bytes())
    struct.pack_into("<II", content, content.index(b"PK\x01\x02") + 20, 1 << 30, 1 << 30)  # its two sizes
    packed.write_bytes(content)
    assert sound_archive(packed) == "would unpack to more bytes than it has"
