"""The packages whose versions a record has."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from conformance.pipeline.backends import BACKENDS, Backend
from conformance.records.environment import PACKAGES

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=lambda each: each.name)
def test_a_record_has_the_versions_of_what_backends_need(backend: Backend) -> None:
    assert {Requirement(each).name for each in backend.requires} <= set(PACKAGES)
