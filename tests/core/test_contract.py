"""The contract as data, and what is generated from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conformance.checks.registry import checks
from conformance.cli.backends_page import backends_page
from conformance.core.contract import CHECKED, CLAUSES, contract_page
from conformance.core.paths import ROOT
from conformance.records.run import SCHEMA_PATH, schema_text


def test_ids_are_unique() -> None:
    assert len({clause.id for clause in CLAUSES}) == len(CLAUSES)


def test_clauses_with_levels_are_the_ones_with_checks() -> None:
    assert set(checks()) == {clause.id for clause in CHECKED}


def test_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "contract.md").read_text(encoding="utf-8") == contract_page()


def test_backends_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "backends.md").read_text(encoding="utf-8") == backends_page()


def test_schema_is_up_to_date() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text()


def test_reference_imports_torch_and_transformers_only() -> None:
    for path in Path(ROOT / "conformance" / "reference").glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(("import ", "from ")):
                module = line.split()[1]
                known = module.partition(".")[0] in {"torch", "transformers", *sys.stdlib_module_names}
                assert known or module.startswith("conformance.reference"), f"{path.name}: {line}"


def test_controller_needs_no_torch() -> None:
    """Options, plans and records are read before torch is loaded, so that a typo is answered at once."""
    code = "import conformance.conftest, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
