"""The script of PAR-13 is as long, and as varied, as the clause says."""

from __future__ import annotations

import itertools

import pytest

from conformance.checks.parity.test_long import long_script
from conformance.decoding.scripts import ScriptSpace, Vocabulary

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("length", [6, 32, 37, 320, 2304])
@pytest.mark.parametrize("chunked", [False, True])
def test_many_calls_sequences_and_rewinds(length: int, chunked: bool) -> None:
    space = ScriptSpace(Vocabulary(64), length, length if chunked else 1)
    calls = long_script(space, rewinds=True).calls
    pairs = list(itertools.pairwise(call.position for call in calls))
    assert len(calls) == 500
    assert sum(now == 0 for _, now in pairs) >= 9
    assert sum(0 < now <= before for before, now in pairs) >= 8
    assert all(call.position + len(call.tokens) <= length for call in calls)
    assert any(len(call.tokens) > 1 for call in calls) is chunked


def test_no_rewinds_where_a_state_sums_up_the_past() -> None:
    calls = long_script(ScriptSpace(Vocabulary(64), 32, 1), rewinds=False).calls
    assert all(now == before + 1 or now == 0 for before, now in itertools.pairwise(call.position for call in calls))
