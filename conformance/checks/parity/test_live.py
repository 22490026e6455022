"""A live session: calls of every kind in any order, with the oracle beside it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from conformance.checks.case import Case, clause
from conformance.checks.compare import once, run_script
from conformance.decoding.scripts import Call, DecodeScript

#: Rules applied in one session. Enough to fill the cache, go back, and start again.
_CALLS = 8
#: Texts that sessions draw from. Few, so that the oracle has computed most of their logits before.
_TEXTS = st.integers(0, 2)


@clause("PAR-12")
def test_any_calls(case: Case) -> None:
    """Prefills, continuations, rewinds, restarts and repeats, until one of them differs."""

    def generate(judge: Callable[[DecodeScript], object]) -> None:
        class Session(LiveSession):
            def __init__(self) -> None:
                super().__init__(case, judge)

        run_state_machine_as_test(Session, settings=case.settings(stateful_step_count=_CALLS))

    case.try_generated(generate, once(lambda script: run_script(case, script)))


class LiveSession(RuleBasedStateMachine):
    """A session as an app drives it. Hypothesis shrinks a failing order of calls to the shortest.

    Which call comes next does not depend on logits. So all of them are judged at the end, which lets a device make them
    with one command.
    """

    def __init__(self, case: Case, judge: Callable[[DecodeScript], object]) -> None:
        super().__init__()
        self.space = case.space
        self.rewinds = case.oracle.summing_layer is None
        self.judge = judge
        self.calls: list[Call] = []
        #: Tokens in the cache.
        self.held = 0

    def teardown(self) -> None:
        """Judge the calls."""
        self.judge(DecodeScript(tuple(self.calls)))

    @precondition(lambda self: self.held < self.space.length)
    @rule(seed=_TEXTS, tokens=st.integers(1, 10))
    def decode(self, seed: int, tokens: int) -> None:
        """Tokens after those that are in the cache, one by one."""
        for position in range(self.held, min(self.held + tokens, self.space.length)):
            self._call(seed, position, 1)

    @precondition(lambda self: self.space.chunk > 1 and self.held < self.space.length)
    @rule(seed=_TEXTS, length=st.integers(2, 12))
    def prefill(self, seed: int, length: int) -> None:
        """A chunk, after those that are in the cache."""
        self._call(seed, self.held, length)

    @precondition(lambda self: self.space.chunk > 1 and self.held < self.space.length)
    @rule(seed=_TEXTS)
    def fill(self, seed: int) -> None:
        """A chunk up to the last slot."""
        self._call(seed, self.held, self.space.length - self.held)

    @precondition(lambda self: self.held > 1)
    @rule(seed=_TEXTS)
    def restart(self, seed: int) -> None:
        """Another sequence."""
        self._call(seed, 0, 1)

    @precondition(lambda self: self.rewinds and self.held > 1)
    @rule(seed=_TEXTS, back=st.integers(1, 31), length=st.integers(1, 5))
    def rewind(self, seed: int, back: int, length: int) -> None:
        """Other tokens at an earlier position."""
        self._call(seed, max(1, self.held - back), length)

    @precondition(lambda self: self.calls and (self.rewinds or self.calls[-1].position == 0))
    @rule()
    def repeat(self) -> None:
        """The last call once more."""
        self.calls.append(self.calls[-1])

    def _call(self, seed: int, position: int, length: int) -> None:
        tokens = self.space.text(seed)[position : position + min(length, self.space.chunk)]
        self.calls.append(Call(position, tokens))
        self.held = position + len(tokens)
