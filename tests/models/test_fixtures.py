"""Fixtures: configs that their classes know."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from conformance.matrix.discovery import registered
from conformance.matrix.schema import load_matrix
from conformance.models.fixtures import fixture_config

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("architecture", sorted(set(registered()) & set(load_matrix().architectures)))
def test_fixture_has_only_keys_that_its_config_class_knows(architecture: str) -> None:
    assert type(fixture_config(architecture)) is CONFIG_MAPPING[architecture]
