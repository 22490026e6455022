"""What `conformance doctor` says of the machine, sound or not."""

from __future__ import annotations

import pytest

from conformance.cli import doctor
from tests.support.warm import warm_module

pytestmark = pytest.mark.process


def test_doctor_finds_nothing_wrong_here() -> None:
    ended = warm_module("conformance", "doctor")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no problems found" in ended.stdout


def test_doctor_reports_a_runtime_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LOAD", "raise ImportError('undefined symbol: _ZN3c10')")
    (problem,) = doctor.diagnose().problems
    assert (
        problem == "ExecuTorch's runtime does not load (died with exit code 1): ImportError: undefined symbol: _ZN3c10"
    )
    monkeypatch.setattr(doctor, "_LOAD", "import os; os.abort()")
    (problem,) = doctor.diagnose().problems
    assert problem == "ExecuTorch's runtime does not load (died of SIGABRT): no output"


def test_pins_are_read_off_the_constraints() -> None:
    assert doctor.pinned("# a comment\nJinja2==3.1.6\npytorch_tokenizers==1.5.0\n") == {
        "jinja2": "3.1.6",
        "pytorch-tokenizers": "1.5.0",
    }
