"""Programs made by other processes: what is asked for arrives, and a process that ends is reported."""

from __future__ import annotations

import pytest

from conformance.core.attention import PORTABLE
from conformance.core.call_shape import WHOLE, CallShape
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.core.verdicts import ChildDiedError, Stage, Verdict
from conformance.pipeline import other_process
from conformance.pipeline.other_process import Request, difference_by_process

pytestmark = [pytest.mark.torch, pytest.mark.process]


@pytest.mark.parametrize("shape", [WHOLE, CallShape(last_logits=True, prompt_chunk=8)])
def test_request_is_read_as_it_was_written(shape: CallShape) -> None:
    request = Request(Program("llama", "reference", Mode.DYNAMIC, "xnnpack"), shape, PORTABLE)
    assert Request.parse(str(request)) == request


def test_process_that_ends_without_a_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_process, "_MODULE", "conformance.no_such_module")
    request = Request(Program("llama", "reference", Mode.DECODE, "xnnpack"), WHOLE, PORTABLE)
    with pytest.raises(ChildDiedError, match=r"hash seed \d died with exit code 1; .*No module named") as caught:
        difference_by_process(request, b"")
    assert (caught.value.verdict, caught.value.stage) == (Verdict.CRASH, Stage.LOWER)


@pytest.mark.parametrize(
    ("made", "difference"),
    [
        ([b"ours"], ""),
        ([b"first", b"first"], ""),  # this process has lowered others before
        ([b"first", b"fifth"], "3 of 5 bytes, the first at 2"),
        ([b"first", b"longer"], "6 bytes after 5"),
    ],
)
def test_second_process_decides_where_this_one_differs(
    monkeypatch: pytest.MonkeyPatch, made: list[bytes], difference: str
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    seeds: list[str] = []

    def emitted(request: Request, seed: str) -> bytes:
        seeds.append(seed)
        return made[len(seeds) - 1]

    monkeypatch.setattr(other_process, "_emitted", emitted)
    request = Request(Program("llama", "reference", Mode.DECODE, "xnnpack"), WHOLE, PORTABLE)
    assert difference_by_process(request, b"ours") == difference
    assert seeds == ["2", "3"][: len(made)]
