"""A live session: calls of every kind in any order, with the oracle beside it."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from conformance.checks.case import Case, clause
from conformance.checks.compare import Decoding, run_script
from conformance.decoding.scripts import Call, DecodeScript

#: Rules applied in one session. Enough to fill the cache, go back, and start again.
_CALLS = 8
#: Texts that sessions draw from. Few, so that the oracle has computed most of their logits before.
_TEXTS = st.integers(0, 2)


@clause("PAR-12")
def test_any_calls(case: Case) -> None:
    """Prefills, continuations, rewinds, restarts and repeats, until one of them differs."""
    if case.only is not None:
        run_script(case, case.only)
        return

    class Session(LiveSession):
        def __init__(self) -> None:
            super().__init__(case)

    run_state_machine_as_test(Session, settings=case.settings(stateful_step_count=_CALLS))


class LiveSession(RuleBasedStateMachine):
    """A session as an app drives it. Hypothesis shrinks a failing order of calls to the shortest."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.space = case.space
        self.rewinds = case.oracle.summing_layer is None
        self.decoding = Decoding(case)

    @property
    def held(self) -> int:
        """Tokens in the cache."""
        return len(self.decoding.held)

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

    @precondition(lambda self: self.decoding.script.calls and (self.rewinds or self._last.position == 0))
    @rule()
    def repeat(self) -> None:
        """The last call once more."""
        self.decoding.call(self._last)

    @property
    def _last(self) -> Call:
        script: DecodeScript = self.decoding.script
        return script.calls[-1]

    def _call(self, seed: int, position: int, length: int) -> None:
        tokens = self.space.text(seed)[position : position + min(length, self.space.chunk)]
        self.decoding.call(Call(position, tokens))
