"""Parity: whatever the decode script, the program's logits are the oracle's."""

from __future__ import annotations

from conformance.checks.case import Case, clause
from conformance.checks.compare import assert_close, run_scripts
from conformance.core.verdicts import NotApplicableError, Stage
from conformance.decoding.scripts import DecodeScript, joined, token_by_token
from conformance.reference.transformers_api import sliding_windows

#: For PAR-8 where there is recurrent state: the forward pass without cache scans in chunks and the oracle goes step by
#: step, which rounds differently (up to 1.0e-4 for nemotron_h). A state that is not carried is off by 0.1 and more.
_SCAN_TOLERANCE = 5e-4


@clause("PAR-1")
def test_token_by_token(case: Case) -> None:
    """From position 0 on, one token a call."""
    full = case.space.text(0)
    pinned = token_by_token(full[:1]), *map(token_by_token, _every_token(case))
    run_scripts(case, case.space.singles(), *pinned)


@clause("PAR-2")
def test_chunks(case: Case) -> None:
    """Chunks of any length, continued at any position."""
    length = case.space.length
    full = case.space.text(0)
    pinned = [case.space.in_chunks(full, lengths) for lengths in ((length,), (1, length - 1), (length - 1, 1))]
    pinned += [case.space.in_chunks(tokens, (2, 3, 5)) for tokens in _every_token(case)]
    run_scripts(case, case.space.prefills(), token_by_token(full[:1]), *pinned)


@clause("PAR-3")
def test_rewinds(case: Case) -> None:
    """Back to an earlier position, with other tokens."""
    recurrent = case.oracle.summing_layer
    if recurrent:
        raise NotApplicableError(f"{recurrent} sums up the past, which cannot be rewound but to 0")
    first, second = map(case.space.text, (0, 1))
    pinned = joined(token_by_token(first[:12]), token_by_token(second[:3], start=1))
    run_scripts(case, case.space.rewinds(), pinned)


@clause("PAR-4")
def test_restarts(case: Case) -> None:
    """Again from position 0, with other tokens."""
    first, second = map(case.space.text, (0, 1))
    run_scripts(case, case.space.restarts(), joined(token_by_token(first[:4]), token_by_token(second[:4])))


@clause("PAR-5")
def test_past_the_window(case: Case) -> None:
    """Past the point at which a sliding layer begins to forget."""
    windows = sliding_windows(case.oracle.new_cache().layers)
    if not windows:
        raise NotApplicableError("no layer of the static cache slides")
    window, length = min(windows), case.space.length
    if window >= length:
        raise NotApplicableError(f"the window of {window} positions is never full before the cache is")
    full = case.space.text(0)
    firsts = (window - 1, window, window + 1) if case.space.chunk > 1 else ()
    pinned = [
        case.space.in_chunks(full[: 2 * window + 1], (first,)) for first in firsts if first
    ]  # a window of 1 has none before
    run_scripts(case, case.space.prefills(least=window + 1), token_by_token(full[: 2 * window + 1]), *pinned)


@clause("PAR-6")
def test_last_slot(case: Case) -> None:
    """Until the cache is full."""
    length = case.space.length
    full = case.space.text(0)
    chunks = ((length,), (length - 1,)) if case.space.chunk > 1 else ()
    pinned = [case.space.in_chunks(full, lengths) for lengths in chunks]
    run_scripts(case, case.space.prefills(least=length), token_by_token(full), *pinned)


@clause("PAR-8")
def test_oracle_against_no_cache(case: Case) -> None:
    """The oracle's decoding against one forward pass over all the tokens."""
    oracle = case.architecture.static_oracle
    tolerance = max(_SCAN_TOLERANCE, case.tolerance) if oracle.summing_layer else case.tolerance

    def judge(script: DecodeScript) -> None:
        tokens = list(script.steps())[-1][1]
        expected = oracle.without_cache(tokens)
        for index in range(len(tokens)):
            so_far = token_by_token(tokens[: index + 1])
            observed = oracle.logits(tokens[: index + 1])
            assert_close(case, observed, expected[index], so_far, Stage.EAGER, tolerance)

    case.try_scripts(case.space.singles(), judge, tuple(map(token_by_token, _every_token(case))))


def _every_token(case: Case) -> list[tuple[int, ...]]:
    """Texts with each token id, as far as they reach, and with repeated ones. The record has what is not in them."""
    texts = list(dict.fromkeys(map(case.space.text, range(3))))
    case.metrics["token_ids"] = len({token for tokens in texts for token in tokens})
    vocabulary = case.space.vocabulary
    if vocabulary.left_out:
        case.metrics["token_ids_left_out"] = len(vocabulary.left_out)
    if not vocabulary.repeats:
        case.metrics["without_repeats"] = 1
    return texts
