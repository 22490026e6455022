"""Scripts are ones that a program can follow, and reach what they are for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.decoding.scripts import DecodeScript, ScriptSpace, in_chunks, text

pytestmark = pytest.mark.unit

_SPACES = st.sampled_from([ScriptSpace(64, 32, 1), ScriptSpace(64, 32, 32)])


@st.composite
def _scripts(draw: st.DrawFn) -> tuple[ScriptSpace, str, DecodeScript]:
    space = draw(_SPACES)
    kind = draw(st.sampled_from(["singles", "prefills", "rewinds", "restarts"]))
    script: DecodeScript = draw(getattr(space, kind)())
    return space, kind, script


@given(_scripts())
@settings(derandomize=True, deadline=None)
def test_calls_stay_in_the_cache_and_follow_what_is_held(drawn: tuple[ScriptSpace, str, DecodeScript]) -> None:
    space, kind, script = drawn
    held = 0
    for call, prefix in script.steps():
        assert 0 <= call.position <= held
        assert 1 <= len(call.tokens) <= space.chunk
        assert all(0 <= token < space.vocab for token in call.tokens)
        held = call.position + len(call.tokens)
        assert len(prefix) == held <= space.length
    positions = [call.position for call in script.calls]
    if kind == "restarts":
        assert positions.count(0) >= 2
    if kind == "rewinds":
        assert any(later <= earlier for earlier, later in itertools.pairwise(positions))


@given(st.sampled_from([ScriptSpace(64, 32, 1), ScriptSpace(64, 32, 32)]).flatmap(lambda s: s.prefills(least=32)))
@settings(derandomize=True, deadline=None)
def test_full_prefills_end_in_the_last_slot(script: DecodeScript) -> None:
    assert len(list(script.steps())[-1][1]) == 32


def test_script_reads_as_calls() -> None:
    assert str(in_chunks((3, 5, 7), (2,))) == "[3, 5] at 0, then [7] at 2"


def test_texts_differ() -> None:
    assert len({text(seed, 32, 64) for seed in range(4)}) == 4
