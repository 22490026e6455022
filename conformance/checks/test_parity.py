"""Parity: whatever the decode script, the program's logits are the oracle's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import torch
from hypothesis.strategies import SearchStrategy

from conformance.checks.case import Case, clause, tensors
from conformance.oracle import Oracle
from conformance.pipeline.backends.base import Precision
from conformance.sessions import Session
from conformance.strategies import DecodeScript, in_chunks, joined, text, token_by_token
from conformance.verdicts import ClauseViolationError, NotApplicableError, Stage

#: Attributes of Transformers' cache layers whose content sums up the past, so that it cannot be rewound.
_RECURRENT_STATE = ("conv_states", "recurrent_states")
#: For PAR-8 where there is recurrent state: the forward pass without cache scans in chunks and the oracle goes step by
#: step, which rounds differently (up to 1.0e-4 for nemotron_h). A state that is not carried is off by 0.1 and more.
_SCAN_TOLERANCE = 5e-4
#: What stands in the record for logits that are equal to the last bit, which have no noise at all.
_EQUAL_DB = 300.0


@clause("PAR-1")
def test_token_by_token(case: Case) -> None:
    """From position 0 on, one token a call."""
    full = text(0, case.space.length, case.space.vocab)
    follow_all(case, case.space.singles(), token_by_token(full[:1]), token_by_token(full))


@clause("PAR-2")
def test_chunks(case: Case) -> None:
    """Chunks of any length, continued at any position."""
    length = case.space.length
    full = text(0, length, case.space.vocab)
    pinned = [in_chunks(full, lengths) for lengths in ((length,), (1, length - 1), (length - 1, 1), (2, 3, 5))]
    follow_all(case, case.space.prefills(), token_by_token(full[:1]), *pinned)


@clause("PAR-3")
def test_rewinds(case: Case) -> None:
    """Back to an earlier position, with other tokens."""
    recurrent = _sums_up_the_past(case.oracle)
    if recurrent:
        raise NotApplicableError(f"{recurrent} sums up the past, which cannot be rewound but to 0")
    first, second = (text(seed, case.space.length, case.space.vocab) for seed in (0, 1))
    pinned = joined(token_by_token(first[:12]), token_by_token(second[:3], start=1))
    follow_all(case, case.space.rewinds(), pinned)


@clause("PAR-4")
def test_restarts(case: Case) -> None:
    """Again from position 0, with other tokens."""
    first, second = (text(seed, case.space.length, case.space.vocab) for seed in (0, 1))
    follow_all(case, case.space.restarts(), joined(token_by_token(first[:4]), token_by_token(second[:4])))


@clause("PAR-5")
def test_past_the_window(case: Case) -> None:
    """On and on after a sliding layer has begun to forget."""
    windows = [
        layer.get_max_length() for layer in case.oracle.new_cache().layers if getattr(layer, "is_sliding", False)
    ]
    if not windows:
        raise NotApplicableError("no layer of the static cache slides")
    window, length = min(windows), case.space.length
    full = text(0, length, case.space.vocab)
    firsts = (window - 1, window, window + 1) if case.space.chunk > 1 else ()
    pinned = [in_chunks(full[: 2 * window + 1], (first,)) for first in firsts]
    follow_all(case, case.space.prefills(least=window + 1), token_by_token(full[: 2 * window + 1]), *pinned)


@clause("PAR-6")
def test_last_slot(case: Case) -> None:
    """Until the cache is full."""
    length = case.space.length
    full = text(0, length, case.space.vocab)
    chunks = ((length,), (length - 1,)) if case.space.chunk > 1 else ()
    pinned = [in_chunks(full, lengths) for lengths in chunks]
    follow_all(case, case.space.prefills(least=length), token_by_token(full), *pinned)


@clause("PAR-8")
def test_oracle_against_no_cache(case: Case) -> None:
    """The oracle's decoding against one forward pass over all the tokens."""
    oracle = case.untried_oracle
    tolerance = _SCAN_TOLERANCE if _sums_up_the_past(oracle) else case.tolerance

    def judge(script: DecodeScript) -> None:
        tokens = list(script.steps())[-1][1]
        expected = oracle.without_cache(tokens)
        for index in range(len(tokens)):
            so_far = token_by_token(tokens[: index + 1])
            observed = oracle.logits(tokens[: index + 1])
            _assert_close(case, observed, expected[index], so_far, Stage.EAGER, tolerance)

    case.try_scripts(case.space.singles(), judge, (token_by_token(text(0, case.space.length, case.space.vocab)),))


def _sums_up_the_past(oracle: Oracle) -> str | None:
    """The class of the cache's first layer with convolution or recurrent state."""
    layers = oracle.new_cache().layers
    return next((type(layer).__name__ for layer in layers if any(hasattr(layer, a) for a in _RECURRENT_STATE)), None)


def follow_all(case: Case, strategy: SearchStrategy[DecodeScript], *pinned: DecodeScript) -> None:
    """Judge the pinned scripts and those of `strategy` against the oracle."""
    case.try_scripts(strategy, lambda script: follow(case, script), pinned)


def follow(case: Case, script: DecodeScript, session: Session | None = None) -> None:
    """One script on a new session, or on the one given, each call compared with the oracle."""
    __tracebackhide__ = True
    oracle = case.expected
    session = session or case.new_session()
    for index, (call, held) in enumerate(script.steps()):
        so_far = DecodeScript(script.calls[: index + 1])
        observed = session.step(*tensors(call.tokens, call.position))
        prefixes = [held[: call.position + i + 1] for i in range(len(call.tokens))]
        expected = torch.stack([oracle.logits(prefix) for prefix in prefixes])
        if observed.shape != (1, *expected.shape):
            raise ClauseViolationError(
                Stage.EXECUTE,
                "wrong-shape",
                observed=f"logits {list(observed.shape)}",
                expected=f"{[1, *expected.shape]}",
                script=so_far,
            )
        if case.precision is None:
            _assert_close(case, observed[0], expected, so_far, Stage.EXECUTE, case.tolerance)
        else:
            assert_precise(case, case.precision, observed[0], prefixes, so_far)


def _assert_close(
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
    _assert_finite(observed, script, stage)
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
            script=script,
            relative_error=error,
            observed_logits=observed,
            expected_logits=expected,
        )


def _assert_finite(observed: torch.Tensor, script: DecodeScript, stage: Stage) -> None:
    if not bool(torch.isfinite(observed).all()):
        told = f"nan or inf in call {script.calls[-1]}"
        raise ClauseViolationError(stage, "not-finite", observed=told, expected="finite logits", script=script)


def assert_precise(
    case: Case,
    precision: Precision,
    observed: torch.Tensor,
    prefixes: Sequence[tuple[int, ...]],
    script: DecodeScript,
) -> None:
    """Compare the logits of a script's last call with an oracle that rounds as they do: see `Precision`."""
    __tracebackhide__ = True
    _assert_finite(observed, script, Stage.EXECUTE)
    ours = case.expected
    for row, prefix in zip(observed, prefixes, strict=True):
        expected, found = ours.logits(prefix), -math.inf
        for oracle in chain([ours], case.disturbed()):
            candidate = oracle.logits(prefix)
            ratio = sqnr(candidate, row)
            if ratio > found:
                expected, found = candidate, ratio
            if found >= precision.least_sqnr:
                break
        case.metrics["sqnr_db"] = round(min(case.metrics.get("sqnr_db", _EQUAL_DB), found), 1)
        case.metrics["least_sqnr_db"] = precision.least_sqnr
        best, chosen = int(expected.argmax()), int(row.argmax())
        behind = float(expected[best] - expected[chosen]) / ours.scale
        if found < precision.least_sqnr:
            code, seen = "logits-differ", f"{found:.1f} dB of signal over noise"
            wanted = f"at least {precision.least_sqnr:.0f} dB against the rounded model, whatever way ties go"
        elif behind > precision.tie:
            code, seen = "greedy-differs", f"token {chosen} is the best"
            wanted = f"token {best}, ahead by {behind:.1e} of the logits' scale"
        else:
            continue
        raise ClauseViolationError(
            Stage.EXECUTE,
            code,
            observed=f"{seen} after {len(prefix)} tokens, call {script.calls[-1]}",
            expected=wanted,
            script=script,
            observed_logits=row,
            expected_logits=expected,
        )


def sqnr(expected: torch.Tensor, observed: torch.Tensor) -> float:
    """Signal to quantisation noise in dB; infinite where both are equal."""
    signal, noise = expected.double(), expected.double() - observed.double()
    return float(10 * torch.log10(signal.square().sum() / noise.square().sum()))
