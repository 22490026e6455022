"""The subjects that come with the suite are what they say they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from torch.export import ExportedProgram
from torch.utils import _pytree
from transformers.integrations import executorch as recipes

from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.exporter_names import ENVIRONMENTS, KNOWN, canonical, is_own
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, StageError
from conformance.decoding.explicit_cache import ExplicitCacheDriver
from conformance.exporters.resolve import resolve
from conformance.exporters.transformers_exporters import SUBJECT
from conformance.pipeline.builder import Builder
from conformance.pipeline.stages import build, example_inputs
from conformance.reference import convert_and_export_with_cache
from tests.faults.explicit_cache import ForgetsALayer, SwapsLayers, never_moves_on, threaded
from tests.support.harness import judge
from tests.support.messages import refused

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What ExecutorchExporter tells torch about caches is taken back: the suite gives each subject a process."""
    before = set(_pytree.SUPPORTED_NODES)
    yield
    for kind in set(_pytree.SUPPORTED_NODES) - before:
        _pytree._deregister_pytree_node(kind)


class _Module:
    """In place of optimum-executorch's, which pins a Transformers of its own: says what it was asked for."""

    def __init__(self, model: object, max_seq_len: int, *, disable_dynamic_shapes: bool) -> None:
        self.metadata = {"get_max_seq_len": max_seq_len, "enable_dynamic_shape": not disable_dynamic_shapes}

    def export(self) -> dict[str, object]:
        return {"model": self.metadata}


@pytest.fixture
def optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("optimum", "optimum.exporters", "optimum.exporters.executorch"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module = ModuleType("optimum.exporters.executorch.integrations")
    monkeypatch.setattr(module, "CausalLMExportableModule", _Module, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "conformance.exporters.optimum", raising=False)


def test_optimum_is_asked_for_one_token_a_call_or_for_any_number(optimum: None) -> None:
    subject = resolve("optimum")
    model = build("llama")
    fixed: Any = subject.export(model, *example_inputs(1))
    anyhow: Any = subject.export(model, *example_inputs(3), dynamic_shapes={"input_ids": {}})
    assert fixed == subject.methods(model, Mode.DECODE) == {"get_max_seq_len": 32, "enable_dynamic_shape": False}
    assert anyhow == subject.methods(model, Mode.DYNAMIC) == {"get_max_seq_len": 32, "enable_dynamic_shape": True}


def test_subject_that_is_not_installed_tells_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum", None)
    monkeypatch.delitem(sys.modules, "conformance.exporters.optimum", raising=False)
    with refused("cannot-import"):
        resolve("optimum")


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ENVIRONMENTS])
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
    [
        ("transformers", True),
        ("tests.faults.programs:off_by_one", True),
        ("os:system", False),
        ("testsuite.x:y", False),
    ],
)
def test_what_came_with_the_checkout_is_known(name: str, own: bool) -> None:
    assert is_own(name) is own


@pytest.mark.parametrize("clause", ["PAR-1", "PAR-3", "PAR-11"])
def test_caches_passed_in_and_out_decode(clause: str) -> None:
    judge(clause, "llama", SUBJECT)


def test_an_indexer_is_set_back_with_its_layer() -> None:
    judge("PAR-3", "deepseek_v32", SUBJECT)


def test_a_refused_call_at_position_0_keeps_the_text_before() -> None:
    """The program accepts positions that it does not see; before, it was called wrong after a call that is too long."""
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-7", "llama", SUBJECT, mode=Mode.DYNAMIC)
    assert caught.value.signature == "execute:accepted:position-missing+token-missing+gap+backwards+position-twice"


@pytest.mark.parametrize("session", [ForgetsALayer, SwapsLayers, never_moves_on])
def test_faulty_passing_of_caches_is_caught_by_par_1(session: Callable[..., Any]) -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-1", "llama", threaded(session))
    assert caught.value.signature == "execute:logits-differ"


@pytest.mark.parametrize(
    ("clause", "signature"),
    [("EXP-2", "export:cache-at-boundary"), ("EXP-3", "export:cache-not-a-buffer"), ("EXP-8", "export:model-changed")],
)
def test_caches_passed_in_and_out_are_not_buffers(clause: str, signature: str) -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge(clause, "llama", SUBJECT)
    assert caught.value.signature == signature


def test_what_cannot_be_asked_of_it_is_not_applicable() -> None:
    with pytest.raises(NotApplicableError, match="reads no generation config"):
        judge("EXP-9", "llama", SUBJECT)
    with pytest.raises(NotApplicableError, match="is calibrated by calls with token ids and cache position"):
        judge("LOW-1", "llama", SUBJECT, backend="xnnpack-pt2e")


def test_each_export_is_of_a_model_of_its_own() -> None:
    builder = Builder({SUBJECT.name: SUBJECT})
    built = builder.program(Program("llama", SUBJECT.name, Mode.DECODE))
    assert isinstance(built.exported, ExportedProgram)
    assert all(weight.requires_grad for weight in built.architecture.model.parameters())
    assert built.architecture.model_to_export() is not built.architecture.model_to_export()


def test_a_program_without_a_cache_input_is_refused() -> None:
    program = convert_and_export_with_cache(build("llama"))
    with pytest.raises(StageError, match="0 caches among"):
        ExplicitCacheDriver().exported(program)
