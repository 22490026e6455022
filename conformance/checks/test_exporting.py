"""Exporting: it gives a program that can be kept, leaves the model alone, and refuses one that is misconfigured."""

from __future__ import annotations

import copy
import inspect
import io
import logging
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from transformers import GenerationConfig, PreTrainedModel

from conformance.checks.case import Case, clause
from conformance.checks.compare import follow
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage, at
from conformance.decoding.scripts import in_chunks, text, token_by_token
from conformance.exporters.resolve import Exporter
from conformance.pipeline.stages import example_inputs

#: Changes named before "and N more".
_SHOWN = 3


@clause("EXP-4")
def test_strict_or_not(case: Case) -> None:
    """Traced by TorchDynamo or by the Python interpreter."""
    strict = inspect.signature(case.subject.export).parameters.get("strict")
    if strict is None:
        raise NotApplicableError(f"{case.subject.name} takes no `strict`")
    for choice in (True, False):
        if choice is strict.default:
            program = case.program
        else:
            with at(Stage.EXPORT):
                program = case.subject.export(case.model_to_export(), *example_inputs(1), strict=choice)
        follow(case, token_by_token(text(0, 4, case.space.vocab)), case.session_of(program))


@clause("EXP-7")
def test_saved_and_loaded(case: Case) -> None:
    """As bytes, and back."""
    held = io.BytesIO()
    # Where the example inputs hold a cache, torch warns with one argument for two places, and pytest, which keeps what
    # is logged, makes an error of that.
    quiet = mock.patch.object(logging.getLogger("torch._export.serde.serialize"), "disabled", True)
    with at(Stage.EXPORT), quiet:
        torch.export.save(case.program, held)
        held.seek(0)
        program = torch.export.load(held)
    case.metrics["saved_bytes"] = held.getbuffer().nbytes
    chunks = () if case.space.chunk == 1 else (3,)
    follow(case, in_chunks(text(0, 5, case.space.vocab), chunks), case.session_of(program))


@clause("EXP-8")
def test_model_is_left_alone(case: Case) -> None:
    """The model and torch's own settings, after the export whose program the other clauses judge."""
    left = case.builder.side_effects(case.cell.architecture, case.subject.name, case.mode)
    if left:
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        raise _violation("model-changed", f"changed: {'; '.join(left[:_SHOWN])}{more}", "the model as it was")


@clause("EXP-6")
def test_no_examples(case: Case) -> None:
    """From the model alone."""
    with at(Stage.EXPORT):
        program = case.subject.export(case.model_to_export())
    follow(case, token_by_token(text(0, 3, case.space.vocab)), case.session_of(program))


class _TracingBegan(BaseException):
    """Not an `Exception`, so that no subject catches it."""


@clause("EXP-9")
def test_misconfigured(case: Case) -> None:
    """Refused before tracing, by an error that names what is wrong."""
    subject, model, refused = case.subject, case.model_to_export(), 0
    kept = model.generation_config
    for what, words, misconfigure in _MISCONFIGURATIONS:
        model.generation_config = copy.deepcopy(kept)
        misconfigure(model)
        _assert_refused(subject, model, what, words)
        refused += 1
    case.metrics["misconfigurations"] = refused


def _assert_refused(subject: Exporter, model: PreTrainedModel, what: str, words: tuple[str, ...]) -> None:
    with mock.patch("torch.export.export", side_effect=_TracingBegan):
        try:
            # With examples: a subject that has none of its own is EXP-6's affair, and would refuse everything here.
            subject.export(model, *example_inputs(1))
        except _TracingBegan:
            raise _violation("misconfiguration-traced", f"with {what} it began to trace", "an error before") from None
        except Exception as error:
            if not any(word in str(error) for word in words):
                told = f"with {what}: {type(error).__name__}: {error}"
                raise _violation("misconfiguration-unclear", told, f"an error that speaks of {words[0]}") from error
            return
    raise _violation("misconfiguration-accepted", f"with {what} it exported", "an error")


def _without_generation_config(model: Any) -> None:
    model.generation_config = None


def _generation(name: str, value: object) -> Callable[[PreTrainedModel], None]:
    def change(model: PreTrainedModel) -> None:
        setattr(_generation_config(model), name, value)

    return change


def _cache(name: str, value: object) -> Callable[[PreTrainedModel], None]:
    def change(model: PreTrainedModel) -> None:
        config = _generation_config(model)
        sizes = dict(config.cache_config or {})
        sizes.pop(name, None)
        config.cache_config = sizes if value is None else {**sizes, name: value}

    return change


def _generation_config(model: PreTrainedModel) -> GenerationConfig:
    assert model.generation_config is not None
    return model.generation_config


#: What is wrong, the words of which a clear error holds one, and how to make it so.
_MISCONFIGURATIONS: tuple[tuple[str, tuple[str, ...], Callable[[PreTrainedModel], None]], ...] = (
    ("no generation config", ("generation_config", "generation config"), _without_generation_config),
    ("caching off", ("use_cache", "caching"), _generation("use_cache", False)),
    ("a dynamic cache", ("cache_implementation", "static"), _generation("cache_implementation", "dynamic")),
    ("no cache config", ("batch_size",), _generation("cache_config", None)),
    ("no batch size", ("batch_size",), _cache("batch_size", None)),
    ("no cache length", ("max_cache_len",), _cache("max_cache_len", None)),
    ("a batch size of 0", ("batch_size",), _cache("batch_size", 0)),
    ("a cache length of -1", ("max_cache_len",), _cache("max_cache_len", -1)),
)


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.EXPORT, code, observed=observed, expected=expected)
