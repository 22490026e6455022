"""The subjects that come with the suite are what they say they are."""

from __future__ import annotations

import pytest
from transformers.integrations import executorch as recipes

from conformance.pipeline.stages import build, example_inputs
from conformance.subjects import KNOWN, canonical, is_own
from conformance.subjects.resolve import resolve
from conformance.verdicts import StageError
from tests.harness import judge


@pytest.mark.parametrize("name", KNOWN)
def test_known_subject_resolves_by_either_name(name: str) -> None:
    assert callable(resolve(name).export)
    assert canonical(KNOWN[name]) == name


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        ("gemma3_text", recipes.TorchExportableModuleWithHybridCache),
        ("llama", recipes.TorchExportableModuleWithStaticCache),
    ],
)
def test_hybrid_uses_the_recipe_that_transformers_chooses(
    architecture: str, recipe: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []
    monkeypatch.setattr("torch.export.export", lambda module, **_: traced.append(type(module)))
    resolve("transformers-hybrid").export(build(architecture), *example_inputs(1))
    assert traced == [recipe]


def test_hybrid_decodes_past_the_window() -> None:
    judge("PAR-5", "gemma3_text", resolve("transformers-hybrid").export)


def test_hybrid_has_no_examples_of_its_own() -> None:
    with pytest.raises(StageError) as caught:
        judge("EXP-6", "llama", resolve("transformers-hybrid").export)
    assert caught.value.signature == "export:ValueError:Need to specify either input_ids or inputs_embeds."


@pytest.mark.parametrize(
    ("name", "own"),
    [("transformers", True), ("tests.faulty:off_by_one", True), ("os:system", False), ("testsuite.x:y", False)],
)
def test_what_came_with_the_checkout_is_known(name: str, own: bool) -> None:
    assert is_own(name) is own
