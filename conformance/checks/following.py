"""Decode scripts followed call by call, next to the oracle."""

from __future__ import annotations

import torch
from hypothesis.strategies import SearchStrategy

from conformance.checks.case import Case, tensors
from conformance.sessions import Session
from conformance.strategies import DecodeScript
from conformance.verdicts import ClauseViolationError, Stage


def follow_all(case: Case, strategy: SearchStrategy[DecodeScript], *pinned: DecodeScript) -> None:
    """Judge the pinned scripts and those of `strategy` against the oracle."""
    case.try_scripts(strategy, lambda script: follow(case, script), pinned)


def follow(case: Case, script: DecodeScript, session: Session | None = None) -> None:
    """One script on a new session, or on the one given, each call compared with the oracle."""
    __tracebackhide__ = True
    oracle = case.oracle
    session = session or case.new_session()
    for index, (call, held) in enumerate(script.steps()):
        so_far = DecodeScript(script.calls[: index + 1])
        observed = session.step(*tensors(call.tokens, call.position))
        expected = torch.stack([oracle.logits(held[: call.position + i + 1]) for i in range(len(call.tokens))])
        if observed.shape != (1, *expected.shape):
            raise ClauseViolationError(
                Stage.EXECUTE,
                "wrong-shape",
                observed=f"logits {list(observed.shape)}",
                expected=f"{[1, *expected.shape]}",
                script=str(so_far),
            )
        assert_close(case, observed[0], expected, so_far, Stage.EXECUTE, case.tolerance)


def assert_close(
    case: Case,
    observed: torch.Tensor,
    expected: torch.Tensor,
    script: DecodeScript,
    stage: Stage,
    tolerance: float,
) -> None:
    """Compare the logits of a script's last call; the script is all that led to it."""
    __tracebackhide__ = True
    call = script.calls[-1]
    difference = (observed - expected).abs() / case.untried_oracle.scale
    if not bool(torch.isfinite(observed).all()):
        raise ClauseViolationError(
            stage, "not-finite", observed=f"nan or inf in call {call}", expected="finite logits", script=str(script)
        )
    error = float(difference.max())
    case.measure("max_relative_error", error)
    case.metrics["tolerance"] = tolerance
    if error > tolerance:
        where = int(difference.argmax())
        raise ClauseViolationError(
            stage,
            "logits-differ",
            observed=f"{float(observed.flatten()[where]):.6g} for logit {where} of the call {call}",
            expected=f"{float(expected.flatten()[where]):.6g}; off by {error:.1e} of the logits' scale "
            f"{case.untried_oracle.scale:.3g}, tolerance {tolerance:.0e}",
            script=str(script),
            relative_error=error,
        )
