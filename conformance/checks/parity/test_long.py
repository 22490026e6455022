"""Long sessions: what goes wrong only after hundreds of calls, or while another program runs beside."""

from __future__ import annotations

import dataclasses
import random

from conformance.checks.case import Case, clause, tensors
from conformance.checks.compare import Decoding, run_script
from conformance.core.contract import Mode
from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError
from conformance.decoding.device import foresee
from conformance.decoding.scripts import Call, DecodeScript, ScriptSpace

#: Calls of the long session.
_CALLS = 500
#: Texts that it draws from, and the most tokens of one that it decodes: whole texts, unless the cache is long.
_TEXTS, _MOST = 3, 36
#: Where a sequence is rewound to, and the most tokens that then follow. One place, so that the oracle computes what
#: follows once: 24 steps in all.
_REWOUND_TO, _FOLLOWING = 4, 8
#: Calls of each session while others take turns with it.
_TURNS = 6


@clause("PAR-13")
def test_long_session(case: Case) -> None:
    """Hundreds of calls on one session; then it takes turns with the program loaded again, and with another program."""
    script = case.only or long_script(case.space, rewinds=case.oracle.summing_layer is None)
    other = _other_program(case)  # first: the memory for lowering it would add to that of the sessions
    long = run_script(case, script)
    starts = [call.position for call in script.calls]
    case.metrics["calls"], case.metrics["sequences"] = len(starts), starts.count(0)
    case.metrics["programs"] = 1 if other is None else 2
    _take_turns(case, long, Decoding(case, case.independent_session()))
    if other is not None:  # and not all three at once: each session of a real model holds its weights again
        _take_turns(case, long, Decoding(other))


def _take_turns(case: Case, *sessions: Decoding) -> None:
    """From position 0, a text for each, a token at a time."""
    turns = [
        (decoding, Call(position, case.space.text(seed)[position : position + 1]))
        for position in range(min(_TURNS, case.space.length))
        for seed, decoding in enumerate(sessions)
    ]
    foresee((decoding.session, tensors(call.tokens, call.position)) for decoding, call in turns)
    for decoding, call in turns:
        decoding.call(call)


def long_script(space: ScriptSpace, *, rewinds: bool) -> DecodeScript:
    """Sequence after sequence, most of them rewound once where `rewinds`; single tokens and, where taken, chunks."""
    random_numbers, calls = random.Random(0), list[Call]()
    for number in range(_CALLS):
        tokens, others = space.text(number % _TEXTS), space.text((number + 1) % _TEXTS)
        length = min(space.length, _MOST)
        if number:
            length = random_numbers.randint(1, length)
        calls += _calls(space, tokens[:length], 0, random_numbers)
        if rewinds and length > _REWOUND_TO:
            following = others[: min(_FOLLOWING, space.length - _REWOUND_TO)]
            calls += _calls(space, following, _REWOUND_TO, random_numbers)
    return DecodeScript(tuple(calls[:_CALLS]))


def _calls(space: ScriptSpace, tokens: tuple[int, ...], start: int, random_numbers: random.Random) -> tuple[Call, ...]:
    """`tokens` from position `start` on, a few of them in one chunk first where chunks are taken."""
    chunk = random_numbers.randint(1, min(space.chunk, len(tokens), _FOLLOWING))
    return space.in_chunks(tokens, (chunk,), start).calls


def _other_program(case: Case) -> Case | None:
    """In dynamic mode, the case of the program of mode decode, built; None if that fails, which its own cells report.

    A `.pte` file has one mode.
    """
    if case.mode is Mode.DECODE or case.builder.program_file is not None:
        return None
    other = dataclasses.replace(case, cell=dataclasses.replace(case.cell, mode=Mode.DECODE))
    try:
        other.new_session()
    except (CellFailedError, NotApplicableError, NotRunError):
        return None
    return other
