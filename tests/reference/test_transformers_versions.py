"""Other versions of Transformers than the installed one: what differs is faked, so that none is needed."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, StaticCache, cache_utils

from conformance.core.verdicts import ClauseViolationError
from conformance.matrix.schema import Tier, load_matrix
from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.stages import build
from conformance.reference import convert_and_export_with_cache
from conformance.reference import transformers_api as api
from conformance.runner.options import chosen_architectures
from tests.support.messages import refused

pytestmark = pytest.mark.torch


class _Forward:
    """Something with a forward, which is all that is looked at."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward


class _Cache:
    """What forwards annotate their cache with."""


def _model(forward: Any) -> PreTrainedModel:
    model: Any = _Forward(forward)
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("forward", "name", "position"),
    [
        (lambda input_ids, past_key_values=None: None, "past_key_values", False),
        (lambda input_ids, past_key_values=None, cache_position=None: None, "past_key_values", True),
        (lambda input_ids, cache_params=None: None, "cache_params", False),
    ],
)
def test_the_name_of_the_cache_is_read_from_forward(forward: Any, name: str, position: bool) -> None:
    assert api.cache_argument(_model(forward)) == name
    assert api.takes_cache_position(_model(forward)) is position


def test_a_cache_by_its_newest_name_has_to_be_a_cache() -> None:
    def newest(input_ids: Any, cache: _Cache | None = None) -> None: ...

    def of_another_kind(input_ids: Any, cache: dict[str, torch.Tensor] | None = None) -> None: ...

    assert api.cache_argument(_model(newest)) == "cache"
    assert api.cache_argument(_model(of_another_kind)) == "past_key_values"


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "lfm2", "phi3", "gemma3n_text"])
def test_layer_types_are_worked_out_as_transformers_does(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = fixture_config(architecture).get_text_config(decoder=True)
    # Layers that share another's cache have none; later releases list a place for them, 5.10 and before do not.
    known = [layer_type for layer_type in api.layer_types(config) if layer_type != "dummy"]
    monkeypatch.delattr(cache_utils, "get_layer_types_and_kwargs")
    assert api.layer_types(config) == known


def test_flags_of_both_kinds_say_that_there_is_a_past() -> None:
    class Layer:
        """Of 5.10 with one flag, of 5.14 with one for each state, of 4.57 with none."""

    single, several, none = Layer(), Layer(), Layer()
    single.has_previous_state = False  # type: ignore[attr-defined]
    several.has_previous_state = {0: False, 1: False}  # type: ignore[attr-defined]
    api.mark_mid_sequence([single, several, none])
    assert single.has_previous_state is True  # type: ignore[attr-defined]
    assert several.has_previous_state == {0: True, 1: True}  # type: ignore[attr-defined]
    assert not vars(none)


def test_windows_are_known_without_the_method_that_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cache_utils.StaticLayer, "get_max_length")
    config = fixture_config("gemma3_text")
    sliding = api.layer_types(config).count("sliding_attention")
    assert api.sliding_windows(StaticCache(config=config, max_cache_len=32).layers) == [8] * sliding
    assert api.sliding_windows([_Cache()]) == []


def test_caches_without_linear_layers_have_no_recurrent_state(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = StaticCache(config=fixture_config("lfm2"), max_cache_len=8)
    assert api.is_recurrent_state(cache.layers[0], "conv_states")
    assert not api.is_recurrent_state(cache.layers[1], "keys")
    for name in ("LinearAttentionCacheLayerMixin", "LinearAttentionAndStaticSlidingWindowAttentionLayer"):
        monkeypatch.delattr(cache_utils, name)
    assert not api.is_recurrent_state(cache.layers[0], "conv_states")
    sliding: Any = StaticCache(config=fixture_config("gemma2"), max_cache_len=32).layers[0]
    assert sliding.max_cache_len == 8
    assert api.full_length(sliding, 32).max_cache_len == 32


def test_experts_that_cannot_be_chosen_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(fixture_config("mixtral"))
    assert api.lets_choose_experts(model)
    assert api.experts_by_part(model) == model.get_experts_implementation()
    monkeypatch.delattr(PreTrainedModel, "_can_set_experts_implementation")
    assert not api.lets_choose_experts(model)
    monkeypatch.setattr(api, "ALL_EXPERTS_FUNCTIONS", None)
    api.register_experts("none", lambda: None)


def test_keys_of_a_config_that_is_not_a_dataclass_are_its_arguments() -> None:
    class Old:
        def __init__(self, pad_token_id: int | None = None, **more: Any) -> None: ...

    class OldLlama(Old):
        def __init__(self, hidden_size: int = 1, **more: Any) -> None: ...

    kind: Any = OldLlama
    assert api.declared_keys(kind) == {"hidden_size", "pad_token_id"}
    assert {"hidden_size", "pad_token_id"} < api.declared_keys(type(fixture_config("llama")))


def test_the_module_imports_where_names_are_older(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr(transformers, "PretrainedConfig", transformers.PreTrainedConfig)
    monkeypatch.delattr(transformers, "PreTrainedConfig")
    monkeypatch.setitem(sys.modules, "transformers.integrations.moe", None)
    specification = importlib.util.find_spec(api.__name__)
    assert specification is not None
    assert specification.loader is not None
    older = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(older)
    assert older.ALL_EXPERTS_FUNCTIONS is None
    assert older.PreTrainedConfig is transformers.PretrainedConfig


def test_rows_that_transformers_lacks_are_reported_and_not_judged() -> None:
    matrix = load_matrix()
    here = ("llama", "gpt2", "unlisted")
    chosen, absent = chosen_architectures(matrix, Tier.CORE, None, here)
    assert chosen == ("llama", "gpt2", "unlisted")
    assert set(absent) == set(matrix.in_tier(Tier.CORE)) - {"llama", "gpt2"}
    assert chosen_architectures(matrix, Tier.CORE, "gpt2", here) == (("gpt2",), ())


def test_what_later_releases_retired_is_judged_only_if_named() -> None:
    matrix = load_matrix()
    here = ("llama", "mega", "unlisted")
    retired = matrix.retired_after("4.57.6")
    assert "mega" in retired
    assert chosen_architectures(matrix, Tier.CORE, None, here, retired)[0] == ("llama", "unlisted")
    assert chosen_architectures(matrix, Tier.CORE, "mega", here, retired)[0] == ("mega",)
    assert matrix.retired_after("5.0.0rc1") == {"code_llama"}
    assert not matrix.retired_after("5.23.0"), "what is registered again is as unlisted as any other"


def test_a_row_that_transformers_lacks_cannot_be_asked_for() -> None:
    with refused("absent-architecture"):
        chosen_architectures(load_matrix(), Tier.CORE, "llama,mistral", ("llama",))


def test_a_key_that_the_config_class_lacks_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "conformance.models.fixtures._values", lambda *_: {"model_type": "llama", "attention_sink": True}
    )
    with pytest.raises(ClauseViolationError) as failed:
        build("llama")
    assert failed.value.signature == "build:config-lacks-key"
    assert "No such key of LlamaConfig 'attention_sink'" in failed.value.observed


def test_no_program_for_several_tokens_where_only_one_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.reference.exporter.can_scan", lambda _: False)
    seq = torch.export.Dim("seq", min=1, max=32)
    shapes = {"input_ids": {1: seq}, "cache_position": {0: seq}}
    with refused("one-token-only"):
        convert_and_export_with_cache(build("lfm2"), dynamic_shapes=shapes)
    with refused("one-token-only"):
        convert_and_export_with_cache(build("lfm2"), torch.zeros((1, 3), dtype=torch.long))
