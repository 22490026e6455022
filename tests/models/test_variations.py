"""Every pinned variation, judged again: it has to pass, or to fail as it is known to."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.checks.registry import checks
from conformance.core.cells import Cell
from conformance.core.paths import PINS
from conformance.explore.findings import Pinned, read_pins, write_pins
from conformance.explore.search import judged
from conformance.models.fixtures import has_fixture
from conformance.models.variations import build
from conformance.pipeline.builder import Builder

pytestmark = pytest.mark.torch

PINNED = [(path.stem, pin) for path in sorted(PINS.glob("*.json")) for pin in read_pins(path.stem)]


@pytest.mark.parametrize(("architecture", "pin"), PINNED, ids=lambda value: str(getattr(value, "variation", value)))
def test_pinned_variation(architecture: str, pin: Pinned) -> None:
    cell = Cell(architecture, pin.subject, pin.backend, pin.mode, pin.clause)
    outcome = judged(Builder(build=lambda name: build(name, pin.variation)), cell)
    assert not outcome.discarded, f"no candidate any more: {outcome.discarded}"
    if pin.signature is None:
        assert not outcome.signature, f"{outcome.signature}: {outcome.message}"
    else:
        message = outcome.signature or "it passes: remove its signature"
        assert outcome.signature == pin.signature, f"pinned as {pin.signature}, but {message}"


@pytest.mark.parametrize(("architecture", "pin"), PINNED, ids=lambda value: str(getattr(value, "variation", value)))
def test_known_failure_is_explained(architecture: str, pin: Pinned) -> None:
    assert has_fixture(architecture)
    assert pin.clause in checks()
    assert pin.signature is None or pin.reason, f"{architecture} with {pin.variation}: fill in its reason"


@pytest.mark.parametrize("architecture", sorted({architecture for architecture, _ in PINNED}))
def test_file_is_as_it_would_be_written(architecture: str, tmp_path: Path) -> None:
    again = write_pins(architecture, read_pins(architecture), tmp_path)
    assert again.read_bytes() == (PINS / again.name).read_bytes()
