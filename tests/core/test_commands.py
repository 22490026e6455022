"""Commands that messages name: they start with what the reader's own shell finds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from conformance.core.commands import RUN_COMMAND, command, install_command, recorded_run_command, run_command, runnable
from conformance.core.paths import ROOT

pytestmark = pytest.mark.unit


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A virtual environment below the current folder, which is not on PATH; its `bin`."""
    scripts = tmp_path / "env" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", "conformance"):
        (scripts / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.delenv("TOX_ENV_NAME", raising=False)
    for name in (RUN_COMMAND, "TRANSFORMERS_SPEC", "EXECUTORCH_SPEC", "TORCH_SPEC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return scripts


@pytest.mark.usefixtures("environment")
def test_python_of_an_environment_that_is_not_on_path() -> None:
    assert command("doctor") == "env/bin/python -m conformance doctor"


def test_script_of_an_active_environment(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(environment))
    assert command("failure", "replay", "a b") == "conformance failure replay 'a b'"
    assert run_command("--arch", "llama") == "conformance run --arch llama"


def test_tox_puts_its_environment_on_path_and_the_reader_does_not(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(environment))
    monkeypatch.setenv("TOX_ENV_NAME", "conformance")
    assert command("doctor") == "env/bin/python -m conformance doctor"


@pytest.mark.usefixtures("environment")
def test_runs_go_through_tox_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_COMMAND, "tox -e conformance --")
    assert run_command("--arch", "llama") == "tox -e conformance -- --arch llama"


@pytest.mark.usefixtures("environment")
def test_runs_of_other_versions_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_SPEC", "../transformers")
    assert recorded_run_command("--arch", "llama") == "conformance run --arch llama"  # which does not read it
    monkeypatch.setenv(RUN_COMMAND, "tox -e upstream --")
    monkeypatch.setenv("EXECUTORCH_SPEC", "executorch<2")
    monkeypatch.setenv("TORCH_SPEC", "")
    expected = "TRANSFORMERS_SPEC=../transformers EXECUTORCH_SPEC='executorch<2' tox -e upstream -- --arch llama"
    assert run_command("--arch", "llama") == recorded_run_command("--arch", "llama") == expected
    assert runnable(expected) == expected


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("git+https://ghp_1@github.com/a/b@main", "git+https://github.com/a/b@main"),
        ("git+https://me:ghp_1@github.com/a/b@main", "git+https://github.com/a/b@main"),
        ("git+https://github.com/a/b@main", "git+https://github.com/a/b@main"),
        ("git+ssh://git@github.com/a/b@main", "git+ssh://git@github.com/a/b@main"),
    ],
)
def test_a_token_in_an_address_is_not_recorded(monkeypatch: pytest.MonkeyPatch, spec: str, shown: str) -> None:
    monkeypatch.setenv(RUN_COMMAND, "tox -e upstream --")
    monkeypatch.setenv("TRANSFORMERS_SPEC", spec)
    assert recorded_run_command("-x") == f"TRANSFORMERS_SPEC={shown} tox -e upstream -- -x"


@pytest.mark.usefixtures("environment")
def test_a_record_does_not_name_the_python_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = recorded_run_command("--arch", "a b")
    assert recorded == "conformance run --arch 'a b'"
    assert runnable(recorded) == "env/bin/python -m conformance run --arch 'a b'"
    monkeypatch.setenv(RUN_COMMAND, "tox -e conformance --")
    assert runnable(recorded) == "tox -e conformance -- --arch 'a b'"
    assert recorded_run_command("--arch", "a b") == "tox -e conformance -- --arch 'a b'"
    monkeypatch.delenv(RUN_COMMAND)
    assert runnable("tox -e conformance -- --arch 'a b'") == "tox -e conformance -- --arch 'a b'"


def test_python_outside_the_folder_is_named_in_full(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert shlex.split(command("doctor"))[0] == str(environment / "python")


def test_packages_go_into_this_environment(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constraints = ROOT / "constraints.txt"
    assert install_command("torch") == f"env/bin/python -m pip install -c {constraints} torch"
    monkeypatch.setenv("PATH", str(environment))
    monkeypatch.chdir(ROOT)
    assert install_command("--no-deps", "a[b]") == "pip install -c constraints.txt --no-deps 'a[b]'"


@pytest.mark.usefixtures("environment")
def test_an_environment_without_pip_is_one_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert install_command("torch").startswith("uv pip install --python env/bin/python -c ")
