"""`conformance run` in a folder that is not a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.records.run import load_run

pytestmark = pytest.mark.process


def test_a_folder_with_settings_of_its_own_does_not_matter(tmp_path: Path) -> None:
    """Nor do its conftest.py and a test in it; what is written goes there."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n", encoding="utf-8")
    (tmp_path / "conftest.py").write_text("raise SystemExit('the conftest.py of somebody else')\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text(
        "from conformance.reference import convert_and_export_with_cache as export\n", encoding="utf-8"
    )
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "conformance", "run", "--arch", "llama", "--backend", "exported", "-n1"),
            *("--mode", "decode", "--clause", "EXP-1", "--exporter", "mine:export", "--record", "run.json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(300),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "--record is now --output" in ended.stderr
    assert "warning" not in ended.stdout.casefold(), "markers and filters reach workers and their children"
    assert {cell.verdict for cell in load_run(tmp_path / "run.json").cells} == {"pass"}
    assert {path.name for path in tmp_path.iterdir()} <= {
        *("pytest.ini", "conftest.py", "mine.py", "__pycache__", "run.json", ".run.jsonl.lock", "build"),
    }
