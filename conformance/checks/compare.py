"""Run decode scripts: compare each call of a session with the oracle's logits for the call's effective prefix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from hypothesis.strategies import SearchStrategy

from conformance.checks.case import Case, tensors
from conformance.core.verdicts import ClauseViolationError, Stage
from conformance.decoding.fidelity import EQUAL_DB, sqnr
from conformance.decoding.scripts import Call, DecodeScript
from conformance.decoding.sessions import Session
from conformance.pipeline.backends.base import Precision


def run_scripts(case: Case, strategy: SearchStrategy[DecodeScript], *pinned: DecodeScript) -> None:
    """Judge the pinned scripts and those of `strategy` against the oracle.

    A script that is the beginning of one that passed is not run: its calls were the first of that one, and PAR-9 checks
    that the same calls give the same logits on a new session. Of those that go token by token through the same text,
    the longest is enough.
    """
    case.try_scripts(strategy, once(lambda script: run_script(case, script)), pinned)


def once(judge: Callable[[DecodeScript], object]) -> Callable[[DecodeScript], None]:
    """`judge` without scripts that are the beginning of one that passed."""
    judged: set[tuple[Call, ...]] = set()

    def judge_unless_judged(script: DecodeScript) -> None:
        if script.calls not in judged:
            judge(script)
            judged.update(script.calls[:end] for end in range(1, len(script.calls) + 1))

    return judge_unless_judged


def run_script(case: Case, script: DecodeScript, session: Session | None = None) -> Decoding:
    """Compare each call of a script with the oracle, on a new session or the given one; more calls may follow."""
    __tracebackhide__ = True
    decoding = Decoding(case, session or case.session_for(script))
    for index, call in enumerate(script.calls):
        try:
            decoding.call(call)
        except ClauseViolationError as error:
            mixed_up = _mixed_up(case, script, index, error) if case.on_device else None
            if mixed_up is None:
                raise
            raise mixed_up from None
    return decoding


def _mixed_up(case: Case, script: DecodeScript, index: int, error: ClauseViolationError) -> ClauseViolationError | None:
    """The violation that a driver has given the logits of another call of the script, if that is what `error` is."""
    observed = error.observed_logits
    if not isinstance(observed, torch.Tensor) or observed.ndim != 2:
        return None
    unmeasured = dataclasses.replace(case, metrics={}, measured={})
    steps = list(script.steps())
    call, held = steps[index]
    asked = call.prefixes(held)
    for other, held_then in steps:
        prefixes = other.prefixes(held_then)
        if len(prefixes) != len(asked) or prefixes == asked:
            continue
        try:
            assert_matches(unmeasured, observed[None], prefixes, script)
        except ClauseViolationError:
            continue
        return ClauseViolationError(
            Stage.EXECUTE,
            "logits-of-another-call",
            observed=f"for the call {call}, the logits of the call {other}",
            expected=f"those of the call itself; {error.observed}, {error.expected}",
            script=error.script,
            relative_error=error.relative_error,
            observed_logits=observed,
            expected_logits=error.expected_logits,
        )
    return None


class Decoding:
    """A session, each call of which is compared with the oracle.

    Args:
        case: The cell being judged.
        session: The session, whose first call is at position 0; a new one if not given.
    """

    def __init__(self, case: Case, session: Session | None = None) -> None:
        self.case = case
        self.session = session or case.new_session()
        #: The calls so far, and the tokens that are in the cache after them.
        self.script = DecodeScript(())
        self.held: tuple[int, ...] = ()

    def call(self, call: Call) -> None:
        """Make one more call, and raise `ClauseViolationError` unless its logits are the oracle's."""
        __tracebackhide__ = True
        observed = self.session.step(*tensors(call.tokens, call.position))
        self.script = DecodeScript((*self.script.calls, call))
        self.held = self.held[: call.position] + call.tokens
        assert_matches(self.case, observed, call.prefixes(self.held), self.script)


def assert_matches(
    case: Case, observed: torch.Tensor, prefixes: Sequence[tuple[int, ...]], script: DecodeScript
) -> None:
    """Compare the logits of a script's last call, [1, seq, vocab], with those that the oracle has for `prefixes`.

    Where a call returns the logits of its last token alone, that is the last of `prefixes`.

    Raises:
        ClauseViolationError: They differ in shape, or by more than the cell's tolerance.
    """
    __tracebackhide__ = True
    prefixes = prefixes[case.builder.shape.returned(len(prefixes))]
    shape = [1, len(prefixes), case.space.vocab]
    if list(observed.shape) != shape:
        raise ClauseViolationError(
            Stage.EXECUTE,
            "wrong-shape",
            observed=f"logits {list(observed.shape)}",
            expected=str(shape),
            script=script,
        )
    if case.precision is not None:
        assert_precise(case, case.precision, observed[0], prefixes, script)
    elif prefixes:
        expected = torch.stack([case.expected.logits(prefix) for prefix in prefixes])
        assert_close(case, observed[0], expected, script, Stage.EXECUTE, case.tolerance)


def assert_close(
    case: Case,
    observed: torch.Tensor,
    expected: torch.Tensor,
    script: DecodeScript,
    stage: Stage,
    tolerance: float,
) -> None:
    """Compare the logits of a script's last call, [seq, vocab] or [vocab]; the script is all that led to it.

    Raises:
        ClauseViolationError: A logit is off by more than `tolerance`, a share of the oracle's scale, or not finite, or
            the oracle's own are not finite.
    """
    __tracebackhide__ = True
    call = script.calls[-1]
    assert_oracle_finite(expected, script)
    _assert_finite(observed, script, stage)
    difference = (observed - expected).abs() / case.untried_oracle.scale
    error = float(difference.max())
    if math.isfinite(error):
        case.measure("max_relative_error", error)
    case.metrics["tolerance"] = tolerance
    if not error <= tolerance:  # nan, of a scale of 0, is not close either
        index = int(difference.argmax())
        raise ClauseViolationError(
            stage,
            "logits-differ",
            observed=f"{float(observed.flatten()[index]):.6g} for logit {index} of the call {call}",
            expected=f"{float(expected.flatten()[index]):.6g}; off by {error:.1e} of the logits' scale "
            f"{case.untried_oracle.scale:.3g}, tolerance {tolerance:.0e}",
            script=script,
            relative_error=error,
            observed_logits=observed,
            expected_logits=expected,
        )


def _assert_finite(observed: torch.Tensor, script: DecodeScript, stage: Stage) -> None:
    if not bool(torch.isfinite(observed).all()):
        nan = f"nan or inf in call {script.calls[-1]}"
        raise ClauseViolationError(stage, "not-finite", observed=nan, expected="finite logits", script=script)


def assert_oracle_finite(expected: torch.Tensor, script: DecodeScript) -> None:
    """Raises `ClauseViolationError` where the oracle's logits after `script` are not finite: nothing agrees with them.

    The oracle is compared with a forward pass over one text alone before it is used; it may fail in another.
    """
    if not bool(torch.isfinite(expected).all()):
        nan = f"nan or inf in the oracle's logits after the call {script.calls[-1]}"
        raise ClauseViolationError(
            Stage.EAGER, "oracle-not-finite", observed=nan, expected="finite logits", script=script
        )


def assert_precise(
    case: Case,
    precision: Precision,
    observed: torch.Tensor,
    prefixes: Sequence[tuple[int, ...]],
    script: DecodeScript,
) -> None:
    """Compare the logits of a script's last call, [seq, vocab], with an oracle that rounds as they do: see `Precision`.

    Raises:
        ClauseViolationError: A position is too noisy, its best token is another, or a logit is not finite, the
            oracle's included.
    """
    __tracebackhide__ = True
    first = case.expected
    rows = torch.stack([first.logits(prefix) for prefix in prefixes]) if prefixes else observed
    assert_oracle_finite(rows, script)
    _assert_finite(observed, script, Stage.EXECUTE)
    for index, (row, prefix) in enumerate(zip(observed, prefixes, strict=True)):
        expected, best_ratio = first.logits(prefix), -math.inf
        for oracle in chain([first], case.perturbed_oracles()):
            candidate = oracle.logits(prefix)
            ratio = sqnr(candidate, row)
            if ratio > best_ratio:
                expected, best_ratio = candidate, ratio
            if best_ratio >= precision.least_sqnr:
                break
        asked = precision if best_ratio >= precision.least_sqnr else case.precision_after(prefix)
        for name, value in (("sqnr_db", best_ratio), ("least_sqnr_db", asked.least_sqnr)):
            if value > -math.inf:  # that of logits that are all 0, which is too noisy, and no number in JSON
                case.metrics[name] = round(min(case.metrics.get(name, EQUAL_DB), value), 1)
        best, chosen = int(expected.argmax()), int(row.argmax())
        behind = float(expected[best] - expected[chosen]) / first.scale
        if not best_ratio >= asked.least_sqnr:
            code, seen = "logits-differ", f"{best_ratio:.1f} dB of signal over noise"
            wanted = f"at least {asked.least_sqnr:.0f} dB against the rounded model, whichever way ties go"
        elif not behind <= asked.tie_margin:
            code, seen = "greedy-differs", f"token {chosen} is the best"
            wanted = f"token {best}, ahead by {behind:.1e} of the logits' scale"
        else:
            continue
        rows[index] = expected
        raise ClauseViolationError(
            Stage.EXECUTE,
            code,
            observed=f"{seen} after {len(prefix)} tokens, call {script.calls[-1]}",
            expected=wanted,
            script=script,
            observed_logits=observed,
            expected_logits=rows,
        )
