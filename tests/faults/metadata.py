"""Deliberately faulty subjects for the LLM runner: right programs that say wrong things, and the reverse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from conformance.exporters.resolve import Exporter
from conformance.reference import convert_and_export_with_cache, runner_methods
from tests.faults import programs


def _telling(name: str, change: Callable[[dict[str, Any]], None]) -> Exporter:
    """The reference, with `change` made to what it tells the runner."""

    def metadata(model: Any, *, dynamic: bool) -> dict[str, Any]:
        methods = runner_methods(model, dynamic=dynamic)
        change(methods)
        return methods

    return Exporter(name, convert_and_export_with_cache, metadata=metadata)


def _doing(export: Callable[..., Any]) -> Exporter:
    """A faulty exporter that tells the runner what the reference does."""
    return Exporter(export.__name__, export, metadata=runner_methods)


def _sizes(length: int) -> Callable[[dict[str, Any]], None]:
    def change(methods: dict[str, Any]) -> None:
        methods.update(get_max_seq_len=length, get_max_context_len=length)

    return change


#: No metadata at all.
SILENT = dataclasses.replace(_doing(convert_and_export_with_cache), name="silent", metadata=None)
#: Twice the room that there is: the runner goes on beyond the cache.
BOASTS = _telling("boasts", _sizes(64))
#: Half the room that there is: the runner stops early.
UNDERSTATES = _telling("understates", _sizes(16))
#: Shorter calls than the program takes, with which ExecuTorch 1.5.1 does not count what is in the cache.
SHORTENS_CALLS = _telling("shortens-calls", lambda methods: methods.update(get_max_seq_len=8))
#: Has the runner feed whole prompts to a program that takes one token a call.
CLAIMS_TO_BE_DYNAMIC = _telling("claims-to-be-dynamic", lambda methods: methods.update(enable_dynamic_shape=True))
#: Has the runner feed token by token a program that takes whole prompts.
HIDES_THAT_IT_IS_DYNAMIC = _telling("hides-that-it-is-dynamic", lambda methods: methods.pop("enable_dynamic_shape"))
#: Leaves the ends of a text to the tokenizer, which knows of one.
ENDLESS = _telling("endless", lambda methods: methods.pop("get_eos_ids"))
#: Has the runner feed the whole text at each step, as it would without a cache.
DENIES_ITS_CACHE = _telling("denies-its-cache", lambda methods: methods.update(use_kv_cache=False))

#: Claims that ExecuTorch's own operators update the cache, where ATen's do.
CLAIMS_AN_OPERATOR = _telling("claims-an-operator", lambda methods: methods.update(use_sdpa_with_kv_cache=True))
#: Denies that ExecuTorch's own operator updates a cache of the program.
HIDES_AN_OPERATOR = dataclasses.replace(_doing(programs.own_operator), name="hides-an-operator")
INT32_POSITION = _doing(programs.int32_position)
RETURNS_CACHE = _doing(programs.returns_cache)
OFF_BY_ONE = _doing(programs.off_by_one)
WRONG_IN_SECOND_GENERATION = _doing(programs.wrong_in_second_generation)
