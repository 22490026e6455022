"""What of a process counts as left behind by an export, and what does not."""

from __future__ import annotations

import subprocess
import sys
import types
from unittest import mock

import pytest
import torch
from torch.nn import functional
from torch.utils import _pytree
from transformers import cache_utils

from conformance.core.paths import ROOT
from conformance.core.time_scale import scaled
from conformance.pipeline.process_snapshot import process_changes, process_snapshot

pytestmark = pytest.mark.torch


def test_what_is_put_back_has_not_changed() -> None:
    before = process_snapshot()
    with mock.patch.object(functional, "silu", lambda values: values), mock.patch.dict("os.environ", {"NEW": "secret"}):
        assert [change.text for change in process_changes(before)] == [
            "torch.nn.functional.silu is patched",
            "environment variable NEW",
        ]
    assert process_changes(before) == []


def test_an_inherited_method_that_is_put_back_on_the_class_itself_is_not_a_patch() -> None:
    before = process_snapshot()
    original = torch.Tensor.reshape
    assert "reshape" not in vars(torch.Tensor)
    torch.Tensor.reshape = original  # type: ignore[method-assign]
    try:
        assert process_changes(before) == []
    finally:
        del torch.Tensor.reshape


def test_what_torchdynamo_wraps_when_it_first_compiles_is_not_a_patch() -> None:
    script = """if True:
        import torch, torch._dynamo.eval_frame
        from conformance.pipeline.process_snapshot import process_changes, process_snapshot
        before, trace = process_snapshot(), torch.jit.trace
        torch.compile(lambda values: values + 1, backend="eager")(torch.ones(1))
        assert torch.jit.trace is not trace
        assert process_changes(before) == [], process_changes(before)
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=scaled(120), cwd=ROOT)


def test_what_comes_with_an_import_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_snapshot()
    module = types.ModuleType("transformers.imported_late")
    kind = type("Cache", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cache_utils, "lazily_imported", lambda: None, raising=False)
    monkeypatch.setitem(_pytree.SUPPORTED_NODES, kind, mock.Mock())
    assert process_changes(before) == []
    monkeypatch.setitem(_pytree.SUPPORTED_NODES, cache_utils.StaticCache, mock.Mock())
    assert [change.text for change in process_changes(before)] == [
        "pytree of transformers.cache_utils.StaticCache registered"
    ]
