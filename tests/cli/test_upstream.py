"""What `tox -e upstream` installs."""

from __future__ import annotations

import tomllib

import pytest

from conformance.cli.upstream import RELEASES, requirements
from tests.support.messages import refused

pytestmark = pytest.mark.unit

_RELEASES = {
    "transformers": {"5.14": ["transformers==5.14.1", "tokenizers==0.22.2"]},
    "executorch": {"1.4": ["executorch==1.4.1"]},
}


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, ["transformers"]),
        ({"TRANSFORMERS_SPEC": ""}, ["transformers"]),
        ({"TRANSFORMERS_SPEC": "5.14"}, ["transformers==5.14.1", "tokenizers==0.22.2"]),
        ({"TRANSFORMERS_SPEC": "5.14.0"}, ["transformers==5.14.0", "tokenizers==0.22.2"]),
        ({"TRANSFORMERS_SPEC": "5.0.0rc1"}, ["transformers==5.0.0rc1"]),
        ({"TRANSFORMERS_SPEC": "../transformers"}, ["../transformers"]),
        ({"TRANSFORMERS_SPEC": "git+https://example.org/t@1.2"}, ["git+https://example.org/t@1.2"]),
        ({"TRANSFORMERS_SPEC": "transformers<6"}, ["transformers<6"]),
        (
            {"TRANSFORMERS_SPEC": "5.14", "EXECUTORCH_SPEC": "1.4", "TORCH_SPEC": "2.13.0"},
            ["transformers==5.14.1", "tokenizers==0.22.2", "executorch==1.4.1", "torch==2.13.0"],
        ),
    ],
)
def test_specifications(environ: dict[str, str], wanted: list[str]) -> None:
    assert requirements(environ, _RELEASES) == wanted


def test_a_release_that_is_not_listed_names_the_nearest() -> None:
    with refused("unknown-name"):
        requirements({"TRANSFORMERS_SPEC": "5.15"}, _RELEASES)


def test_each_listed_release_is_the_one_of_its_name() -> None:
    for package, releases in tomllib.loads(RELEASES.read_text(encoding="utf-8")).items():
        for numbers, (first, *_) in releases.items():
            assert first.startswith(f"{package}=={numbers}.")
