"""Programs whose calls are smaller than the contract's: the last logits alone, and chunks of a bounded length."""

from __future__ import annotations

from typing import Any

import pytest
from torch.export import Dim, ExportedProgram

from conformance.core.call_shape import CallShape
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, NotApplicableError
from conformance.exporters.resolve import Exporter, resolve
from conformance.pipeline.builder import Builder
from conformance.pipeline.stages import build
from conformance.reference import convert_and_export_with_cache, runner_methods
from tests.support.harness import judge
from tests.support.messages import refused

pytestmark = pytest.mark.torch

LAST, CHUNKS = CallShape(last_logits=True), CallShape(prompt_chunk=8)


def ignoring_the_wish(model: Any, ids: Any = None, position: Any = None, **options: Any) -> ExportedProgram:
    """Returns the logits of every token all the same."""
    options.pop("logits_to_keep")
    return convert_and_export_with_cache(model, ids, position, **options)


def of_the_first_token(model: Any, ids: Any = None, position: Any = None, **options: Any) -> ExportedProgram:
    """Returns one row of logits, of another token than the last."""
    plain = model.forward

    def forward(*args: Any, logits_to_keep: int = 0, **kwargs: Any) -> Any:
        outputs = plain(*args, **kwargs)
        outputs.logits = outputs.logits[:, :1]
        return outputs

    model.forward = forward
    return convert_and_export_with_cache(model, ids, position, **options)


def with_shorter_calls(model: Any, ids: Any = None, position: Any = None, **options: Any) -> ExportedProgram:
    """Takes fewer tokens a call than were asked for."""
    seq = Dim("seq", min=1, max=4)
    options["dynamic_shapes"] = {"input_ids": {1: seq}, "cache_position": {0: seq}}
    return convert_and_export_with_cache(model, ids, position, **options)


def _judge(clause: str, shape: CallShape, export: Any = None, builder: Builder | None = None) -> Builder:
    exporter = resolve("reference") if export is None else Exporter("faulty", export)
    builder = builder or Builder({exporter.name: exporter}, shape=shape)
    judge(clause, "llama", exporter, mode=Mode.DYNAMIC, builder=builder)
    return builder


@pytest.mark.parametrize(
    ("shape", "clauses"),
    [(LAST, ("EXP-1", "PAR-2", "PAR-10", "PAR-11")), (CHUNKS, ("EXP-5", "PAR-2", "PAR-6", "PAR-12"))],
    ids=["last logits", "chunks"],
)
def test_reference_is_judged_by_the_shape_of_its_calls(shape: CallShape, clauses: tuple[str, ...]) -> None:
    builder = None
    for clause in clauses:
        builder = _judge(clause, shape, builder=builder)


@pytest.mark.parametrize(
    ("clause", "shape", "export", "signature"),
    [
        ("EXP-1", LAST, ignoring_the_wish, "export:wrong-outputs"),
        ("PAR-2", LAST, ignoring_the_wish, "execute:wrong-shape"),
        ("PAR-2", LAST, of_the_first_token, "execute:logits-differ"),
        ("EXP-5", CHUNKS, with_shorter_calls, "export:length-refused"),
    ],
)
def test_faulty_exporter_is_caught(clause: str, shape: CallShape, export: Any, signature: str) -> None:
    with pytest.raises(ClauseViolationError) as caught:
        _judge(clause, shape, export)
    assert caught.value.signature == signature


def test_exporter_that_cannot_be_asked_is_not_judged() -> None:
    def export(model: Any, ids: Any = None, position: Any = None, *, dynamic_shapes: Any = None) -> Any: ...

    with pytest.raises(NotApplicableError, match="faulty takes no logits_to_keep"):
        _judge("EXP-1", LAST, export)


def test_metadata_state_the_longest_call() -> None:
    model = build("llama")
    assert runner_methods(model, dynamic=True, max_seq_len=8)["get_max_seq_len"] == 8
    assert resolve("reference").methods(model, Mode.DYNAMIC, 8)["get_max_seq_len"] == 8
    whole = resolve("reference").methods(model, Mode.DECODE, 8)
    assert whole["get_max_seq_len"] == whole["get_max_context_len"] > 8


@pytest.mark.parametrize("value", [-1, True])
def test_logits_to_keep_is_a_number_of_tokens(value: Any) -> None:
    with refused("invalid-logits-to-keep"):
        convert_and_export_with_cache(build("llama"), logits_to_keep=value)


def test_model_that_computes_all_logits_is_refused() -> None:
    model: Any = build("llama")
    plain = model.forward
    model.forward = lambda input_ids=None, past_key_values=None, use_cache=None, position_ids=None: plain(
        input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache, position_ids=position_ids
    )
    with refused("invalid-logits-to-keep"):
        convert_and_export_with_cache(model, logits_to_keep=1)
