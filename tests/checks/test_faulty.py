"""Every check catches a subject that is faulty in just its way, and lets the reference pass."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.utils._pytree import SUPPORTED_NODES
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

from conformance.checks import test_runner, test_sensitivity
from conformance.checks.case import Case
from conformance.checks.test_runner import Conversation
from conformance.core.contract import CHECKED, Mode, Scope
from conformance.core.verdicts import (
    CellFailedError,
    ChildDiedError,
    ClauseViolationError,
    NotApplicableError,
    StageError,
    Verdict,
)
from conformance.decoding import llm_runner
from conformance.decoding.llm_runner import Answer, Turn
from conformance.decoding.scripts import DecodeScript
from conformance.exporters.resolve import Exporter, resolve
from conformance.models.fixtures import build_model, config_values, fixture_config
from conformance.pipeline.backends import Backend
from conformance.pipeline.builder import Builder
from conformance.pipeline.stages import build
from conformance.reference import convert_and_export_with_cache
from conformance.runner.options import NOT_OF_CHECKPOINTS, ONLY_OF_CHECKPOINTS, _clauses
from tests.faults import left_behind, lowerings, memory, programs, tokenizers
from tests.faults.table import FAULTS, LOWERINGS, RUNNERS, TOKENIZERS, VARIATIONS
from tests.support.fault_table import PAGE
from tests.support.harness import judge, one_layer

pytestmark = pytest.mark.torch


def _name(value: object) -> str | None:
    return getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)


@functools.cache
def _builder_of_row(row: str) -> Builder:
    """With all faults of a row, which share its model and its oracle: of a long cache it takes longer than a fault."""
    faults = {fault.__name__: fault for fault, on, *_ in FAULTS + VARIATIONS if on == row}
    return Builder({name: Exporter(name, fault) for name, fault in faults.items()})


@pytest.mark.parametrize(("fault", "row", "mode", "clause", "signature"), FAULTS + VARIATIONS, ids=_name)
def test_fault_is_caught(fault: Callable[..., Any], row: str, mode: Mode, clause: str, signature: str) -> None:
    builder = _builder_of_row(row)
    try:
        with pytest.raises(CellFailedError) as caught:
            judge(clause, row, builder.exporter(fault.__name__), mode=mode, builder=builder)
    finally:
        left_behind.undo()
    assert caught.value.signature.startswith(signature)


def test_what_is_left_behind_once_is_held_against_later_exports_too() -> None:
    """A pytree is registered by the first export of a process, and the second finds it there."""
    builder = Builder({"faulty": Exporter("faulty", _registers_once)})
    try:
        for mode in Mode:
            with pytest.raises(ClauseViolationError, match="StaticCache registered") as caught:
                judge("EXP-8", "llama", builder.exporter("faulty"), mode=mode, builder=builder)
            assert caught.value.signature == "export:process-changed:pytrees"
    finally:
        left_behind.undo()


def _registers_once(*arguments: Any, dynamic_shapes: Any = None) -> Any:
    registered = StaticCache in SUPPORTED_NODES
    export = convert_and_export_with_cache if registered else left_behind.registers_a_pytree
    return export(*arguments, dynamic_shapes=dynamic_shapes)


@pytest.mark.parametrize(
    ("fault", "clause"),
    [
        (programs.keeps_its_state, "PAR-1"),
        (programs.keeps_what_followed, "PAR-1"),
        (programs.reverses_chunks, "PAR-1"),
        (programs.zeroes_cache, "EXP-1"),
        (programs.noisy, "PAR-1"),
        (programs.mixes_rows, "PAR-1"),
        (programs.wrong_in_second_generation, "PAR-3"),
    ],
)
def test_fault_is_caught_by_its_own_clause_only(fault: Callable[..., Any], clause: str) -> None:
    judge(clause, "lfm2" if fault is programs.keeps_its_state else "llama", fault)


@pytest.mark.parametrize(
    "words", ["the model is in training mode", "put the model into eval mode", "call model.eval() first", ".eval()"]
)
def test_refusal_of_a_model_in_training_mode_is_no_failure(words: str) -> None:
    def refuses(model: PreTrainedModel, *examples: Any, dynamic_shapes: Any = None) -> Any:
        if model.training:
            raise ValueError(words)
        return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)

    assert judge("EXP-11", "llama", refuses).metrics == {"refused": 1}


def test_what_an_exporter_draws_in_training_mode_depends_on_nothing_before() -> None:
    drawn = []

    def draws(model: PreTrainedModel, *examples: Any, **options: Any) -> Any:
        drawn.append(float(torch.rand(())))
        raise ValueError("cannot export it in training mode")

    for seed in (1, 2):
        torch.manual_seed(seed)
        with pytest.raises(StageError):
            judge("EXP-10", "llama", draws)
        judge("EXP-11", "llama", draws)
    # The program, and that of EXP-11 twice, since it is refused: these are the same in both.
    assert drawn[0] != drawn[3]
    assert drawn[1] == drawn[4]


def test_script_is_the_shortest_that_shows_the_fault() -> None:
    # The pinned script that shows it first decodes twelve tokens before it goes back.
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-3", "llama", programs.keeps_what_followed, shrink=True)
    script = caught.value.script
    assert isinstance(script, DecodeScript)
    assert [call.position for call in script.calls] == [0, 1, 1]


def test_operator_outside_the_edge_dialect_is_caught_by_low_1() -> None:
    with pytest.raises(StageError) as caught:
        judge("LOW-1", "llama", programs.not_core_aten, backend="portable", make_model=one_layer)
    assert caught.value.signature.startswith("lower:")


@functools.cache
def _lowering_builder(architecture: str) -> Builder:
    """With all faulty backends, which lower the same program."""
    reference = Exporter("reference", convert_and_export_with_cache)
    return Builder(
        {reference.name: reference},
        {backend.name: backend for backend, on, *_ in LOWERINGS if on == architecture},
        one_layer if architecture in ("gpt2", "llama") else build,
    )


@pytest.mark.parametrize(("backend", "architecture", "clause", "signature"), LOWERINGS, ids=_name)
def test_faulty_lowering_is_caught(backend: Backend, architecture: str, clause: str, signature: str) -> None:
    builder = _lowering_builder(architecture)
    with pytest.raises(CellFailedError) as caught:
        judge(clause, architecture, builder.exporter("reference"), backend=backend.name, builder=builder)
    assert caught.value.signature.startswith(signature)


def test_cache_inside_a_delegate_is_caught_by_low_10() -> None:
    boastful = dataclasses.replace(lowerings.TAKES_ALL, declares=None)
    with pytest.raises(ClauseViolationError) as caught:
        judge("LOW-10", "llama", convert_and_export_with_cache, backend="takes-all", backends={"takes-all": boastful})
    assert caught.value.signature == "lower:cache-in-delegate"


@pytest.mark.parametrize(
    ("fault", "architecture", "clause", "signature"),
    [
        (programs.sorts, "llama", "LOW-5", "load:no-kernel:aten::sort.values"),
        (programs.returns_cache, "llama", "LOW-6", "emit:cache-returned"),
        (memory.transposed_head, "gpt2", "LOW-4", "lower:stored-twice"),
        (memory.padded_head, "gpt2", "LOW-4", "lower:stored-twice"),
        (memory.float64_values, "llama", "LOW-7", "emit:cache-too-wide"),
    ],
    ids=_name,
)
def test_faulty_subject_is_caught_when_lowered(
    fault: Callable[..., Any], architecture: str, clause: str, signature: str
) -> None:
    with pytest.raises(CellFailedError) as caught:
        judge(clause, architecture, fault, backend="portable", make_model=one_layer)
    assert caught.value.signature == signature


def test_wide_cache_of_a_narrow_model_is_caught_by_low_7() -> None:
    def in_bfloat16(architecture: str) -> PreTrainedModel:
        model: Any = build(architecture)
        narrow: PreTrainedModel = model.to(torch.bfloat16)
        return narrow

    message = "b_wide_cache_0_keys: 2048 bytes of float32 where bfloat16 takes 1024"
    with pytest.raises(ClauseViolationError, match=message) as caught:
        judge("LOW-7", "llama", memory.float32_cache, backend="portable", make_model=in_bfloat16)
    assert caught.value.signature == "emit:cache-too-wide"


@functools.cache
def _runner_builder() -> Builder:
    """Most of these are judged by two clauses, and lowered once."""
    return Builder({subject.name: subject for subject, *_ in RUNNERS}, build=one_layer)


@pytest.mark.parametrize(("subject", "mode", "clause", "signature"), RUNNERS, ids=_name)
def test_fault_is_caught_with_the_runner(subject: Exporter, mode: Mode, clause: str, signature: str | None) -> None:
    with pytest.raises((CellFailedError, ChildDiedError)) as caught:
        judge(clause, "llama", subject, mode=mode, backend="portable", builder=_runner_builder())
    if isinstance(caught.value, ChildDiedError):
        assert signature is None
        assert caught.value.verdict is Verdict.CRASH
        assert "runner output: " in str(caught.value)
    else:
        assert isinstance(caught.value, CellFailedError)
        assert signature is not None
        assert caught.value.signature.startswith(signature)


@pytest.mark.parametrize(("write", "signature"), TOKENIZERS, ids=_name)
def test_fault_of_a_tokenizer_is_caught(write: Callable[[Path, int], None], signature: str, tmp_path: Path) -> None:
    write(tmp_path, tokenizers.VOCAB)
    with pytest.raises(ClauseViolationError) as caught:
        judge("RUN-4", "llama", builder=tokenizers.beside_a_model(tmp_path), is_checkpoint=True)
    assert caught.value.signature == signature


@pytest.fixture(scope="module")
def beside_a_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A model whose texts begin with `<s>`, as its tokenizer's post-processor says."""
    directory = tmp_path_factory.mktemp("begins")
    tokenizers.changed(directory, tokenizers.VOCAB, tokenizers.begin_with("<s> $A"))
    return tokenizers.beside_a_model(directory)


def _judge_runner(clause: str, builder: Builder) -> Case:
    exporter = Exporter("reference", convert_and_export_with_cache)
    return judge(clause, "llama", exporter, backend="portable", builder=builder, is_checkpoint=True)


def test_answers_to_texts_that_begin_as_in_transformers_are_right(beside_a_tokenizer: Builder) -> None:
    _judge_runner("RUN-2", beside_a_tokenizer)
    _judge_runner("RUN-3", beside_a_tokenizer)
    case = judge("RUN-4", "llama", builder=beside_a_tokenizer, is_checkpoint=True)
    assert case.metrics == {"tokenizer_ids": tokenizers.VOCAB, "logits": tokenizers.VOCAB, "num_bos": 1}


def test_prompts_that_the_tokenizer_cannot_write_are_left_out(
    beside_a_tokenizer: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(beside_a_tokenizer.architecture("llama").runner_tokenizer)
    prompt = kind.prompt
    monkeypatch.setattr(kind, "prompt", lambda self, seed, size: prompt(self, seed, size) if size < 8 else None)
    for clause in ("RUN-2", "RUN-3"):
        metrics = _judge_runner(clause, beside_a_tokenizer).metrics
        assert metrics["prompts_left_out"] > 0
        assert metrics["answers"] > 0
    monkeypatch.setattr(kind, "prompt", lambda self, seed, size: None)
    for clause in ("RUN-2", "RUN-3"):
        with pytest.raises(NotApplicableError, match="no prompt was found"):
            _judge_runner(clause, beside_a_tokenizer)


def test_turns_after_an_answer_that_was_cut_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_runner, "_judge", lambda *_: None)
    turns = (Turn((1,), "a"), Turn((2,), "b"), Turn((3,), "c", again=True), Turn((4,), "d"))
    case: Any = SimpleNamespace(space=SimpleNamespace(length=32), metrics={"answers": 0})
    test_runner._judge_answers(case, Conversation(turns), [Answer(())] * 4)
    assert case.metrics == {"answers": 2}


def test_text_without_its_beginning_is_caught(beside_a_tokenizer: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    given = llm_runner._answers

    def forgets(directory: Path, tokenizer: Path, turns: tuple[Turn, ...]) -> Iterator[Answer | str]:
        return given(directory, tokenizer, tuple(dataclasses.replace(turn, num_bos=0) for turn in turns))

    monkeypatch.setattr(llm_runner, "_answers", forgets)
    for clause in ("RUN-2", "RUN-3"):
        with pytest.raises(ClauseViolationError) as caught:
            _judge_runner(clause, beside_a_tokenizer)
        assert caught.value.signature == "execute:tokens-differ"


def test_ids_without_a_token_are_named(beside_a_tokenizer: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = beside_a_tokenizer.architecture("llama").runner_tokenizer
    monkeypatch.setattr(type(tokenizer), "size", 1)  # the model chooses others, and the runner cannot
    monkeypatch.setattr(test_runner, "_meant", lambda *_: 0)
    with pytest.raises(
        ClauseViolationError, match="chooses among the 1 ids of the tokenizer, the model among 400"
    ) as caught:
        _judge_runner("RUN-2", beside_a_tokenizer)
    assert caught.value.signature == "execute:token-beyond-tokenizer"


def test_a_tokenizer_is_judged_of_checkpoints_alone() -> None:
    of_fixtures = {clause.id for clause in _clauses(None, ONLY_OF_CHECKPOINTS)}
    of_checkpoints = {clause.id for clause in _clauses(None, NOT_OF_CHECKPOINTS)}
    assert of_checkpoints - of_fixtures == {"RUN-4"}
    with pytest.raises(NotApplicableError, match="there is no tokenizer"):
        judge("RUN-4", "llama")


def test_plain_lowering_is_caught_by_none() -> None:
    plain = functools.partial(
        judge,
        architecture="llama",
        export=convert_and_export_with_cache,
        backend="plain",
        backends={"plain": lowerings.PLAIN},
    )
    builder = plain("LOW-1").builder
    for clause in ("LOW-4", "LOW-5", "LOW-6", "LOW-7", "LOW-9", "LOW-10", "PAR-1"):
        plain(clause, builder=builder)


def _forgetful(architecture: str) -> PreTrainedModel:
    model = build_model(fixture_config(architecture))
    forward = model.forward

    @functools.wraps(forward)
    def without_past(*args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    model.forward = without_past
    return model


def test_oracle_that_ignores_its_cache_is_caught_by_par_8() -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-8", "llama", make_model=_forgetful)
    assert caught.value.signature == "eager:logits-differ"


def test_program_that_decodes_as_a_wrong_static_cache_does_is_caught_by_par_1() -> None:
    # Transformers' program of GPT-Neo gives each token the last row of the mask, as its eager decoding does (PAR-8).
    with pytest.raises(ClauseViolationError) as caught:
        judge("PAR-1", "gpt_neo", resolve("transformers"), builder=Builder(without_cache={"gpt_neo"}))
    assert caught.value.signature == "execute:logits-differ"


def _initialised_by_upstream(architecture: str) -> PreTrainedModel:
    """As upstream's export tests have it: an epsilon of 1 in every norm, weights at a scale of 0.02."""
    config = fixture_config(architecture)
    config.rms_norm_eps = 1.0
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config = build_model(config).generation_config
    return model


def test_insensitive_fixture_is_caught_by_sen_1() -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge("SEN-1", "llama", make_model=_initialised_by_upstream)
    assert caught.value.signature.startswith("eager:insensitive-to-")


def _without_full_attention(architecture: str) -> PreTrainedModel:
    """The outputs of its full-attention layers are 0, so that only the windows of the others show a wrong cache."""
    model: Any = build(architecture)
    for kind, layer in zip(model.config.layer_types, model.model.layers, strict=True):
        if kind == "full_attention":
            with torch.no_grad():
                layer.self_attn.o_proj.weight.zero_()
    return cast("PreTrainedModel", model)


def test_kind_of_layer_that_shows_no_fault_is_caught_by_sen_1() -> None:
    with pytest.raises(ClauseViolationError, match=r"\(StaticLayer\) moves the logits by 0\.0") as caught:
        judge("SEN-1", "gemma3_text", make_model=_without_full_attention)
    assert caught.value.signature.startswith("eager:insensitive-to-")


def test_effect_that_is_not_finite_is_caught_by_sen_1(monkeypatch: pytest.MonkeyPatch) -> None:
    effects = iter([math.nan])
    monkeypatch.setattr(test_sensitivity, "_effect", lambda *_: next(effects, 0.0))
    with pytest.raises(ClauseViolationError) as caught:
        judge("SEN-1", "llama")
    assert caught.value.signature == "eager:effect-not-finite"


def test_a_window_that_weights_are_as_wide_as_can_be_dropped() -> None:
    effects = judge("SEN-1", "inkling2_text").metrics
    assert effects["effect_dropped_window"] > 100


_MULTIPLIERS = ("attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier")


def _all_attention(architecture: str) -> PreTrainedModel:
    config = fixture_config(architecture)
    config.layer_types = ["full_attention"] * len(config.layer_types)
    return build_model(config)


@pytest.mark.parametrize("architecture", ["lfm2", "gemma3_text"])
def test_fixture_without_its_other_layers_is_caught_by_sen_2(architecture: str) -> None:
    with pytest.raises(ClauseViolationError) as caught:
        judge("SEN-2", architecture, make_model=_all_attention)
    assert caught.value.signature == "build:fixture-lacks-layers"


def test_fixture_without_a_module_kind_is_caught_by_sen_2() -> None:
    def without_experts(architecture: str) -> PreTrainedModel:
        config = fixture_config(architecture)
        config.first_k_dense_replace = config.num_hidden_layers
        return build_model(config)

    with pytest.raises(ClauseViolationError, match="module DeepseekV3MoE") as caught:
        judge("SEN-2", "deepseek_v3", make_model=without_experts)
    assert caught.value.signature == "build:fixture-lacks-parts"


@pytest.mark.parametrize(
    ("architecture", "neutral", "signature"),
    [
        (
            "granite",
            dict.fromkeys(_MULTIPLIERS, 1.0),
            "eager:neutral:attention_multiplier+embedding_multiplier+logits_scaling+residual_multiplier",
        ),
        ("gemma2", {"query_pre_attn_scalar": 8}, "eager:neutral:query_pre_attn_scalar"),
    ],
)
def test_fixture_with_neutral_values_is_caught_by_sen_3(
    architecture: str, neutral: dict[str, Any], signature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = judge("SEN-3", architecture)
    assert judged.measured["fields"].neutral == {}
    assert judged.measured["fields"].exercised.keys() > neutral.keys()
    assert judged.metrics["fields"] == len(judged.measured["fields"].exercised)
    values = config_values(architecture) | neutral
    monkeypatch.setattr("conformance.checks.test_sensitivity.config_values", lambda _: values)
    with pytest.raises(ClauseViolationError, match=f"fixtures/configs/{architecture}.json") as caught:
        judge("SEN-3", architecture)
    assert caught.value.signature == signature
    assert all(f"{name} (its effect: 0 tolerances)" in str(caught.value) for name in neutral)


def test_a_variation_is_judged_by_sen_3_in_the_row_of_its_architecture() -> None:
    with pytest.raises(NotApplicableError, match="in the row of llama"):
        judge("SEN-3", "llama+bias")


@pytest.fixture(scope="module")
def reference() -> Builder:
    return Builder({"reference": Exporter("reference", convert_and_export_with_cache)})


@pytest.mark.parametrize(
    ("clause", "mode"),
    [(clause.id, mode) for clause in CHECKED if Scope.EXPORTED in clause.scopes for mode in clause.modes],
)
def test_reference_is_caught_by_none(reference: Builder, clause: str, mode: Mode) -> None:
    # mistral, since every clause applies to it: it has a window, and no state that cannot be rewound.
    judge(clause, "mistral", reference.exporter("reference"), mode=mode, builder=reference)


def test_strict_program_with_a_dynamic_length_is_right() -> None:
    # EXP-4 itself is judged in mode decode alone, for the time that this takes.
    judge("EXP-4", "lfm2", convert_and_export_with_cache, mode=Mode.DYNAMIC)


def test_every_checked_clause_has_a_fault() -> None:
    faulted = {clause for _, _, _, clause, _ in FAULTS} | {clause for _, _, clause, _ in LOWERINGS}
    faulted |= {clause for _, _, clause, _ in RUNNERS} | ({"RUN-4"} if TOKENIZERS else set())
    faulted |= {"LOW-1", "LOW-5", "PAR-8", "SEN-1", "SEN-2", "SEN-3"}
    assert faulted == {clause.id for clause in CHECKED}


def test_fault_table_has_every_fault() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = {tuple(line.split(" | ")[:2]) for line in lines if line.startswith("| ") and ("●" in line or "+" in line)}
    wanted = {(f"| {fault.__name__}", f"{architecture} {mode}") for fault, architecture, mode, _, _ in FAULTS}
    wanted |= {(f"| {fault.__name__}", f"{row} {mode}") for fault, row, mode, _, _ in VARIATIONS}
    wanted |= {(f"| {backend.name}", architecture) for backend, architecture, _, _ in LOWERINGS}
    wanted |= {(f"| {subject.name}", f"llama {mode}") for subject, mode, _, _ in RUNNERS}
    wanted |= {(f"| {write.__name__}", "llama") for write, _ in TOKENIZERS}
    assert rows == wanted, "python -m tests.support.fault_table brings docs/reference/faults.md up to date"
