"""The example in docs/guides/devices.md as it stands; ExecuTorch's C++ runtime here takes the place of a phone's."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import Cell
from conformance.core.contract import Mode
from conformance.core.device import Device
from conformance.core.paths import ROOT
from conformance.exporters.resolve import resolve
from conformance.pipeline import stages
from conformance.pipeline.backends import XNNPACK
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from tests.support.harness import one_layer

pytestmark = pytest.mark.torch

_PHONE = "/data/local/tmp/conformance"
_LIBRARIES = ("executorch", "executorch_kernels_optimized", "executorch_backend_xnnpack", "executorch_threadpool")
#: It has the phone's folders on this machine.
_ADB = """\
#!/bin/sh
command=$1
shift
case $command in
    push | pull) exec cp "$1" "$2" ;;
    shell) exec sh -c "$*" ;;
esac
exit 1
"""


def _block(language: str, mark: str) -> str:
    """The block of the page's code in `language` that has `mark` in it."""
    page = (ROOT / "docs" / "guides" / "devices.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if mark in block)


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `calls_runner` built, the driver and an `adb`."""
    found = importlib.util.find_spec("executorch")
    assert found is not None
    wheel = Path(next(iter(found.submodule_search_locations or ())))
    compiler = shutil.which("g++")
    if compiler is None or not (wheel / "lib" / "libexecutorch.so").exists():
        pytest.skip("it needs g++, and a wheel of ExecuTorch with libraries for C++")
    folder = tmp_path_factory.mktemp("phone")
    (folder / "calls_runner.cpp").write_text(_block("cpp", "calls_runner CALLS ANSWERS LOGITS"))
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-w", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{wheel / 'include'}"),
            *(f"-I{wheel / 'include/executorch/runtime/core/portable_type/c10'}", "calls_runner.cpp"),
            *("-o", "calls_runner", f"-L{wheel / 'lib'}", f"-Wl,--no-as-needed,-rpath,{wheel / 'lib'}"),
            *(f"-l{name}" for name in _LIBRARIES),
        ],
        cwd=folder,
        check=True,
    )
    (folder / "adb_driver.py").write_text(_block("python", "adb_driver.py CALLS LOGITS").replace(_PHONE, str(folder)))
    (folder / "adb").write_text(_ADB)
    (folder / "adb").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All tests lower the same program, once."""
    return Store(tmp_path_factory.mktemp("store"), limit=100)


@pytest.mark.parametrize("clause", ["PAR-1", "PAR-7", "PAR-11", "PAR-13"])
def test_example_passes(clause: str, phone: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{phone}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delattr(stages, "load")  # this machine's runtime is not asked
    device = Device("a phone", (sys.executable, str(phone / "adb_driver.py")))
    backend = dataclasses.replace(XNNPACK, name="phone", runs_on=device)
    exporter = resolve("reference")
    builder = Builder({exporter.name: exporter}, {backend.name: backend}, one_layer, store)
    checks()[clause](Case(Cell("llama", exporter.name, backend.name, Mode.DECODE, clause), builder, examples=3))
    assert not list(phone.glob("conformance-device-*"))
