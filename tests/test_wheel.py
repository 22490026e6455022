"""The wheel, installed into an environment without a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.records.run import load_run

pytestmark = pytest.mark.process

_RUNS = sorted((ROOT / "fixtures" / "runs").glob("*.json"))


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As in a shell that knows nothing of the environment that the tests run in."""
    tools = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(folder for folder in tools if Path(folder) != Path(sys.executable).parent)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TOX_", "CONFORMANCE_", "PYTEST"))
    }
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(300),
    )


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel and what it requires, without extras."""
    folder = tmp_path_factory.mktemp("wheel")
    built = _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    # Without a pip of its own, with which an old setuptools comes that torch refuses.
    made = _run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    assert made.returncode == 0, made.stderr
    pip = (sys.executable, "-m", "pip", "--python", folder / "env" / "bin" / "python", "install", "--quiet")
    installed = _run(*pip, "--no-compile", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return folder / "env" / "bin"


def test_without_torch(scripts: Path, tmp_path: Path) -> None:
    """A site, and one sentence for what needs more."""
    assert _run(scripts / "python", "-c", "import torch", cwd=tmp_path).returncode == 1
    built = _run(scripts / "conformance", "report", "build", *_RUNS, "-o", "site", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "index.html").exists()
    helped = _run(scripts / "conformance", "run", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "--arch" in helped.stdout
    ended = _run(scripts / "conformance", "run", "--arch", "llama", "--backend", "exported", cwd=tmp_path)
    assert ended.returncode != 0
    (wheel,) = scripts.parents[1].glob("*.whl")
    assert f"constraints.txt '{wheel}[run]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_run_and_its_report(scripts: Path, tmp_path: Path) -> None:
    """llama on the exported program, with the packages of the extra `run` borrowed from the tests."""
    (site,) = (scripts.parent / "lib").glob("*/site-packages")
    # A path in a .pth file is only added to sys.path: that of the checkout, which stands in another such file, is not.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    where = _run(scripts / "python", "-c", "import conformance, torch; print(conformance.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(site)), where.stderr
    asked = ("--arch", "llama", "--backend", "exported", "--mode", "decode", "--clause", "SEN,EXP-1,PAR-1", "-n0")
    ended = _run(scripts / "conformance", "run", *asked, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record = load_run(tmp_path / "build" / "conformance" / "run.json")
    assert record.run.complete
    assert {cell.architecture for cell in record.cells} == {"llama"}
    built = _run(scripts / "conformance", "report", "build", "build/conformance/run.json", "-o", "site", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert json.loads((tmp_path / "site" / "index.json").read_text())["run"]["id"] == record.run.id
