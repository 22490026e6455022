"""What is exported in another process, with other hashes, is the same program."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.exporters.resolve import Exporter
from conformance.pipeline.identity import tensors, texts
from conformance.pipeline.stages import build, export
from conformance.reference import convert_and_export_with_cache
from tests.faults.exporters import depends_on_the_hash_seed

pytestmark = [pytest.mark.torch, pytest.mark.process]


def digest(exporter: Callable[..., Any]) -> str:
    """Of everything that makes the program of llama."""
    program = export(Exporter("any", exporter), build("llama"), Mode.DECODE)
    parts = [*map(str.encode, texts(program)), *(name.encode() + content for name, content in tensors(program))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def print_digests() -> None:
    """For the other process."""
    print(digest(convert_and_export_with_cache), digest(depends_on_the_hash_seed))


def test_another_process_exports_the_same_program() -> None:
    here = [digest(convert_and_export_with_cache), digest(depends_on_the_hash_seed)]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", f"import {__name__} as test; test.print_digests()"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(120),
    ).stdout.split()
    assert there[0] == here[0]
    assert there[1] != here[1]
