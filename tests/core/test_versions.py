"""Versions that go together, and the sentence for those that do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from conformance.core.commands import install_command
from conformance.core.versions import TORCH_FOR_EXECUTORCH, incompatible, unsupported, untested

pytestmark = pytest.mark.unit

_GOOD = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "executorch": "1.5.1"}


def _nothing(_: str) -> Sequence[str]:
    return ()


def test_what_is_pinned_goes_together() -> None:
    assert not incompatible()
    assert not unsupported(["reference", "transformers"])
    assert not untested()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"torch": "2.12.1"}, "ExecuTorch 1.5.1 needs torch>=2.13,<2.14; installed: 2.12.1"),
        (
            {"executorch": "1.3.1"},
            "ExecuTorch 1.3.1 needs torch>=2.12,<2.13; installed: 2.13.0+cpu",
        ),
    ],
)
def test_native_code_built_for_another_torch_is_reported(changed: dict[str, str], message: str) -> None:
    assert incompatible((_GOOD | changed).get, _nothing) == [message]


def test_a_missing_package_error_has_what_to_install() -> None:
    without = {name: version for name, version in _GOOD.items() if name != "executorch"}
    assert incompatible(without.get, _nothing) == [f"executorch is not installed: {install_command('executorch')}"]


def test_what_metadata_asks_for_is_held_against_what_is_there() -> None:
    def asks(package: str) -> Sequence[str]:
        wanted = ["tokenizers<0.24,>=0.23.1", 'tokenizers<0; extra == "dev"', "no version at all", "absent>=3"]
        return wanted if package == "transformers" else ()

    assert not incompatible((_GOOD | {"tokenizers": "0.23.3"}).get, asks)
    assert incompatible((_GOOD | {"tokenizers": "0.22.0"}).get, asks) == [
        "transformers 5.23.0 needs tokenizers<0.24,>=0.23.1; installed: 0.22.0"
    ]


def test_an_old_transformers_is_reported_for_the_reference_alone() -> None:
    old = _GOOD | {"transformers": "4.56.2"}
    assert unsupported(["reference"], old.get) == ["the reference exporter needs transformers>=4.57; installed: 4.56.2"]
    assert not unsupported(["transformers"], old.get)


def test_a_newer_executorch_is_noted_and_not_a_problem() -> None:
    newer = _GOOD | {"executorch": "1.6.0.dev20261120+cpu"}
    assert not incompatible(newer.get, _nothing)
    assert untested(newer.get) == ["ExecuTorch 1.6.0.dev20261120+cpu is untested; newest supported is 1.5"]


def test_a_version_that_is_none_is_left_alone() -> None:
    assert not incompatible((_GOOD | {"executorch": "main"}).get, _nothing)


def test_the_table_has_no_release_without_a_torch() -> None:
    for release, torch in TORCH_FOR_EXECUTORCH.items():
        assert Version(release)
        assert len(SpecifierSet(torch)) == 2
