"""Misuse: a call that no decoder should make is refused, and leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from conformance.checks.case import Case, clause, inputs_of, tensors
from conformance.checks.compare import Decoding, assert_matches, run_script
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, Stage, StageError
from conformance.decoding.device import foresee
from conformance.decoding.scripts import Call, DecodeScript, token_by_token
from conformance.models.fixtures import batch_size

#: Tokens in the cache when the misuse comes, and tokens decoded after it.
_BEFORE, _AFTER = 3, 2
#: Beyond any cache, and beyond 32 bits.
_FAR = 2**40


@dataclass(frozen=True, slots=True)
class Misuse:
    """One wrong call after `_BEFORE` tokens.

    Args:
        name: What is wrong with it.
        input_ids, cache_position: Its inputs.
        equivalent_tokens: The tokens that it decodes for a program that accepts it; None if it makes no sense.
    """

    name: str
    input_ids: torch.Tensor
    cache_position: torch.Tensor
    equivalent_tokens: tuple[int, ...] | None = None


@clause("PAR-7")
def test_misuse(case: Case) -> None:
    """Each misuse in mid-sequence. The sequence then goes on, or starts again where a state sums up the past."""
    recurrent = case.oracle.summing_layer is not None
    tokens = case.space.text(0)
    session, accepted = case.new_session(), []
    before = token_by_token(tokens[:_BEFORE])
    following = token_by_token(tokens[:_AFTER]) if recurrent else token_by_token(tokens[_BEFORE:][:_AFTER], _BEFORE)
    misuses = _misuses(case, tokens)
    around = [
        (*inputs_of(before), (misuse.input_ids, misuse.cache_position), *inputs_of(following)) for misuse in misuses
    ]
    foresee((session, inputs) for calls in around for inputs in calls)
    for misuse in misuses:
        decoding = run_script(case, before, session)
        if not _refused(decoding, misuse):
            accepted.append(misuse.name)
        for call in following.calls:
            _next(decoding, call, misuse)
    if accepted:
        raise ClauseViolationError(
            Stage.EXECUTE,
            f"accepted:{'+'.join(accepted)}",
            observed=f"logits for {', '.join(accepted)}",
            expected="an error, or the logits of an equivalent valid call",
            script=token_by_token(tokens[:_BEFORE]),
        )
    case.metrics["misuses"] = len(misuses)


def _refused(decoding: Decoding, misuse: Misuse) -> bool:
    """Whether the session raises an error, or gives the logits of the equivalent valid call."""
    try:
        observed = decoding.session.step(misuse.input_ids, misuse.cache_position)
    except StageError:
        return True
    if misuse.equivalent_tokens is None:
        return False
    call = Call(len(decoding.held), misuse.equivalent_tokens)
    script = DecodeScript((*decoding.script.calls, call))
    try:
        assert_matches(decoding.case, observed, call.prefixes(decoding.held), script)
    except ClauseViolationError:
        return False
    return True


def _next(decoding: Decoding, call: Call, misuse: Misuse) -> None:
    try:
        decoding.call(call)
    except StageError as error:
        raise ClauseViolationError(
            Stage.EXECUTE,
            f"refused-after:{misuse.name}",
            observed=f"{error}, in the valid call {call}; before it came {misuse.name}",
            expected="logits",
            script=DecodeScript((*decoding.script.calls, call)),
        ) from error
    except ClauseViolationError as error:
        raise ClauseViolationError(
            Stage.EXECUTE,
            f"wrong-after:{misuse.name}",
            observed=f"{error.observed}; before it came {misuse.name}",
            expected=error.expected,
            script=error.script,
            relative_error=error.relative_error,
            observed_logits=error.observed_logits,
            expected_logits=error.expected_logits,
        ) from None


def _misuses(case: Case, tokens: tuple[int, ...]) -> list[Misuse]:
    """Every misuse of the cell's mode."""
    positional = case.oracle.positional  # otherwise a position only shows whether a sequence begins
    chunks = _chunks(case, tokens, positional) if case.mode is Mode.DYNAMIC else ()
    return [*_single(case, tokens, positional), *chunks]


def _single(case: Case, tokens: tuple[int, ...], positional: bool) -> Iterator[Misuse]:
    one = tokens[_BEFORE : _BEFORE + 1]
    ids, position = tensors(one, _BEFORE)
    anywhere = None if positional else one
    for name, wrong in (
        ("position-after-the-cache", case.space.length),
        ("negative-position", -1),
        ("position-far-after", _FAR),
    ):
        yield Misuse(name, ids, torch.full_like(position, wrong), anywhere)
    yield Misuse("int32-ids", ids.int(), position, one)
    yield Misuse("float-ids", ids.float(), position, one)
    yield Misuse("int32-position", ids, position.int(), one)
    yield Misuse("ids-of-rank-1", ids[0], position, one)
    yield Misuse("position-of-rank-2", ids, position[None], one)
    yield Misuse("position-of-rank-0", ids, position[0], one)
    wrong, name = (3, "three-rows") if batch_size(case.model) == 2 else (2, "two-rows")
    yield Misuse(name, ids.repeat(wrong, 1), position)
    yield Misuse("token-after-the-vocabulary", torch.full_like(ids, case.space.vocab), position)
    yield Misuse("negative-token", torch.full_like(ids, -1), position)
    yield Misuse("position-missing", *_inputs(tokens[_BEFORE : _BEFORE + 2], (_BEFORE,)))
    yield Misuse("token-missing", *_inputs(one, (_BEFORE, _BEFORE + 1)))
    yield Misuse("nothing", ids[:, :0], position[:0], ())
    if case.mode is Mode.DECODE:
        two = tokens[_BEFORE : _BEFORE + 2]
        yield Misuse("two-tokens", *tensors(two, _BEFORE), two)


def _chunks(case: Case, tokens: tuple[int, ...], positional: bool) -> Iterator[Misuse]:
    last, two = case.space.length - 1, tokens[_BEFORE : _BEFORE + 2]
    anywhere = None if positional else two
    yield Misuse("over-the-end", *_inputs(two, (last, last + 1)), anywhere)
    yield Misuse("longer-than-the-cache", *_inputs((*tokens, two[0]), range(last + 2)))
    yield Misuse("gap", *_inputs(two, (_BEFORE, _BEFORE + 2)), anywhere)
    yield Misuse("backwards", *_inputs(two, (_BEFORE + 1, _BEFORE)), anywhere)
    yield Misuse("position-twice", *_inputs(two, (_BEFORE, _BEFORE)), anywhere)


def _inputs(tokens: tuple[int, ...], positions: range | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([tokens]), torch.tensor(list(positions))
