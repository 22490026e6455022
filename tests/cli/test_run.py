"""`conformance run` starts pytest with the suite's own settings, in any folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance.cli import run as running
from conformance.cli.main import main
from conformance.core.paths import PACKAGE, ROOT
from conformance.runner.option_table import OPTIONS, Value

pytestmark = pytest.mark.unit

_VALUES = {
    Value.COUNT: "7",
    Value.SIZE: "0",
    Value.SEED: "5",
    Value.SHARD: "1/2",
    Value.TEXTS: "ssh=a",
    Value.FILE: "some.json",
    Value.FOLDER: "some",
}
_NAMES = {
    "--arch": "llama,gpt2",
    "--variation": "long",
    "--exporter": "reference,package.module:callable",
    "--backend": "all",
    "--mode": "decode",
    "--clause": "PAR,EXP-1",
    "--tier": "smoke",
    "--dtype": "auto",
    "--logits": "last",
    "--attention": "custom",
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What this process was replaced by: the command and the environment."""
    seen: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, environ: seen.append((command, environ)))
    return seen


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_option_reaches_pytest(started: list[tuple[list[str], dict[str, str]]], option: object) -> None:
    name, value = option.name, option.value  # type: ignore[attr-defined]
    given = name if value is Value.FLAG else f"{name}={_NAMES.get(name) or _VALUES[value]}"
    result = CliRunner().invoke(main, ["run", given])
    assert result.exit_code == 0, result.stderr
    ((command, _),) = started
    assert command[-2:] == ["-nauto", given]


def test_pytest_gets_its_own_options_after_two_dashes(started: list[tuple[list[str], dict[str, str]]]) -> None:
    result = CliRunner().invoke(main, ["run", "-n2", "--tier", "smoke", "--", "-x", "--pdb", "-n0"])
    assert result.exit_code == 0, result.stderr
    assert started[0][0][-5:] == ["-n2", "--tier=smoke", "-x", "--pdb", "-n0"]


def test_former_names_work_and_say_so(started: list[tuple[list[str], dict[str, str]]]) -> None:
    result = CliRunner().invoke(main, ["run", "--subject", "transformers", "--record=a.json"])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines() == ["--subject is now --exporter", "--record is now --output"]
    assert started[0][0][-2:] == ["--exporter=transformers", "--output=a.json"]


def test_environment_is_that_of_tox_and_what_the_reader_has_set_stays() -> None:
    environ = running.run_environment({"OMP_NUM_THREADS": "4", "PYTHONHASHSEED": "7", "HOME": "/h"})
    assert environ == {
        "HF_HUB_OFFLINE": "1",
        "HOME": "/h",
        "OMP_NUM_THREADS": "4",
        "PYTHONHASHSEED": "0",  # or the same model would export as different programs
        "TOKENIZERS_PARALLELISM": "false",
    }


def test_paths_are_relative_in_a_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert running.pytest_command()[3] == "conformance"
    monkeypatch.chdir(tmp_path)
    assert running.pytest_command()[3] == str(PACKAGE)


def test_a_missing_package_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.core.console.importlib.util.find_spec", lambda name: None)
    assert CliRunner().invoke(main, ["run", "--tier", "smoke"]).exit_code == 4
