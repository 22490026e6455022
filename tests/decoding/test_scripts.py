"""Scripts are ones that a program can follow, and reach what they are for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.decoding.scripts import DecodeScript, ScriptSpace, Vocabulary, in_chunks, text

pytestmark = pytest.mark.unit

_VOCABULARY = Vocabulary(64, special=(0, 1, 2))
_SPACES = st.sampled_from([ScriptSpace(_VOCABULARY, 32, 1), ScriptSpace(_VOCABULARY, 32, 32)])


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


@given(_SPACES.flatmap(lambda s: s.prefills(least=32)))
@settings(derandomize=True, deadline=None)
def test_full_prefills_end_in_the_last_slot(script: DecodeScript) -> None:
    assert len(list(script.steps())[-1][1]) == 32


def test_script_reads_as_calls() -> None:
    assert str(in_chunks((3, 5, 7), (2,))) == "[3, 5] at 0, then [7] at 2"


def test_texts_differ() -> None:
    assert len({_VOCABULARY.text(seed, 32) for seed in range(4)}) == 4


@pytest.mark.parametrize(("size", "length"), [(64, 32), (300, 320), (300, 32), (61, 29), (128_256, 512), (8, 32)])
def test_two_texts_hold_every_token_as_far_as_they_reach(size: int, length: int) -> None:
    vocabulary = Vocabulary(size, special=(3, 1, 2))
    texts = [vocabulary.text(seed, length) for seed in range(4)]
    assert {len(each) for each in texts} == {length}
    held = {*texts[0], *texts[1]}
    assert len(held) == min(size, 2 * length)
    assert {0, 1, 2, 3, size - 1} <= held
    assert size <= 256 or {255, 256} <= held
    assert all(0 <= token < size for text in texts for token in text)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("length", [2, 8, 33, 64])
def test_a_few_ids_are_enough_for_texts(size: int, length: int) -> None:
    for vocabulary in (Vocabulary(size), Vocabulary(size, special=(0, 1)), Vocabulary(size, left_out=(1,))):
        texts = [vocabulary.text(seed, length) for seed in range(4)]
        assert {len(each) for each in texts} == {length}
        assert all(0 <= token < size for each in texts for token in each)
    assert len(text(0, length, size)) == length
    plain = Vocabulary(size)
    assert size == 1 or plain.text(0, length) != plain.text(1, length)


def test_a_text_holds_repeated_tokens_in_a_row_and_apart() -> None:
    text = _VOCABULARY.text(2, 32)
    assert text[:6] == (0, 0, 63, 0, 63, 63)
    assert {0, 1, 2, 63} <= set(text)


def test_ids_without_a_right_answer_are_left_out() -> None:
    vocabulary = Vocabulary(64, special=(1,), left_out=(1,), repeats=False)
    texts = [vocabulary.text(seed, 31) for seed in range(4)]
    assert 1 not in {token for text in texts for token in text}
    assert all(len(set(text)) == 31 for text in texts)
