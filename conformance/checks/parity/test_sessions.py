"""Sessions: the same each time, apart from each other, and generating what the oracle would."""

from __future__ import annotations

from functools import cache, partial

import torch
from transformers import GenerationConfig

from conformance.checks.case import Case, clause, tensors
from conformance.checks.compare import assert_matches, assert_oracle_finite, once
from conformance.checks.signature import assert_signature
from conformance.core.cells import EXPORTED
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage
from conformance.decoding.device import foresee
from conformance.decoding.scripts import Call, DecodeScript, joined, token_by_token
from conformance.decoding.sessions import Session
from conformance.pipeline.stages import export

#: Rows and sessions that have to keep apart.
_ROWS, _SESSIONS = 3, 2
#: Tokens that the longest row decodes, and how many fewer each next row has.
_LENGTH, _SOONER = 8, 2
#: Tokens of each call with all rows, where several are taken: `_LENGTH` in all.
_CALLS = (3, 1, 4)
#: Tokens generated after a prompt. Each costs a step of the oracle, which takes as long as three of the program.
_GENERATED = 12


@clause("PAR-9")
def test_same_bytes(case: Case) -> None:
    """The same script on two new sessions, bit by bit.

    A script that is the beginning of one that passed is not run: its calls were the first of both sessions.
    """

    def judge(script: DecodeScript) -> None:
        first = _logits(case.session_for(script), script)
        for index, (one, other) in enumerate(zip(first, _logits(case.session_for(script), script), strict=True)):
            if one.numpy().tobytes() != other.numpy().tobytes():
                raise ClauseViolationError(
                    Stage.EXECUTE,
                    "bytes-differ",
                    observed=f"other logits for the call {script.calls[index]} on a second session",
                    expected="the same bytes",
                    script=DecodeScript(script.calls[: index + 1]),
                )

    pinned = token_by_token(case.space.text(0)[:_LENGTH])
    case.try_scripts(case.space.prefills(), once(judge), (pinned,), sessions=2)


@clause("PAR-10")
def test_greedy_generation(case: Case) -> None:
    """After prompts in any chunks, the most likely token each time; after the shortest, until the cache is full."""
    # Each prompt once: in mode decode, where all of them go token by token, there are only twelve.
    whole = partial(_with_answer, case)
    case.metrics["tokens_compared"] = 0
    case.try_scripts(case.space.prompts(), cache(partial(_generate, case)), (_shortest(case),), whole=whole)
    if not case.metrics["tokens_compared"]:
        raise NotApplicableError("at each token the two best ones tie within the tolerance, so rounding chooses")


@clause("PAR-11")
def test_sessions_and_rows_keep_apart(case: Case) -> None:
    """Two sessions with other texts, call by call in turn; then the rows of a batch."""
    texts = [case.space.text(seed)[:_LENGTH] for seed in range(_ROWS)]
    sessions = [case.independent_session() for _ in range(_SESSIONS)]
    turns = [(session, tokens, at) for at in range(_LENGTH) for tokens, session in zip(texts, sessions, strict=False)]
    foresee((session, tensors(tokens[position : position + 1], position)) for session, tokens, position in turns)
    for session, tokens, position in turns:
        logits = session.step(*tensors(tokens[position : position + 1], position))
        _assert_next(case, logits, tokens[: position + 1])
    # Rows depend on the exporter alone; lowering them as well would double the cost of a cell for little.
    if case.cell.backend == EXPORTED:
        _assert_rows_apart(case, [tokens[: _LENGTH - _SOONER * row] for row, tokens in enumerate(texts)])


def _assert_rows_apart(case: Case, texts: list[tuple[int, ...]]) -> None:
    """Rows that end at different times: those that have ended get padding, and are not compared any more.

    Nor are the logits of a call's last token, where these alone are returned and it is padding.
    """
    session, padding, position = _batched_session(case), case.space.vocabulary.padding, 0
    for length in _CALLS if case.space.chunk >= max(_CALLS) else (1,) * _LENGTH:
        end = position + length
        rows = [(*tokens, *[padding] * _LENGTH)[position:end] for tokens in texts]
        logits = session.step(torch.tensor(rows), torch.arange(position, end))
        for row, tokens in enumerate(texts):
            held = tokens[:end]
            if position < len(held) and (len(held) == end or not case.builder.shape.last_logits):
                call = Call(position, held[position:])
                script = joined(token_by_token(held[:position]), DecodeScript((call,)))
                assert_matches(case, logits[row : row + 1, : len(call.tokens)], call.prefixes(held), script)
        position = end


def _assert_next(case: Case, logits: torch.Tensor, held: tuple[int, ...]) -> None:
    assert_matches(case, logits, [held], token_by_token(held))


def _generate(case: Case, prompt: DecodeScript) -> None:
    session = case.session_for(prompt, partial(_with_answer, case))
    observed = _logits(session, prompt)[-1]
    script, held = prompt, list(prompt.steps())[-1][1]
    most = _most(case, prompt, held)
    token = _next_token(case, observed[:, -1:], held, script)
    while len(held) < most:
        call = Call(len(held), (token,))
        script, held = joined(script, DecodeScript((call,))), (*held, token)
        observed = session.step(*tensors(call.tokens, call.position))
        token = _next_token(case, observed[:, -1:], held, script)


def _most(case: Case, prompt: DecodeScript, held: tuple[int, ...]) -> int:
    """Where the text after `prompt`, which holds the tokens `held`, ends at the latest."""
    return min(case.space.length, len(held) + (case.space.length if prompt == _shortest(case) else _GENERATED))


def _with_answer(case: Case, prompt: DecodeScript) -> DecodeScript:
    """`prompt` and the calls that follow it if the program's tokens are the oracle's."""
    held = list(prompt.steps())[-1][1]
    start = len(held)
    while len(held) < _most(case, prompt, held[:start]):
        held = (*held, int(case.expected.logits(held).argmax()))
    return joined(prompt, token_by_token(held[start:], start))


def _next_token(case: Case, logits: torch.Tensor, held: tuple[int, ...], script: DecodeScript) -> int:
    """The token that greedy decoding goes on with: the program's best, which the oracle has to have among its best.

    Where several of the oracle's tie within the tolerance, rounding chooses, and the text goes on with the program's.
    The metric `tokens_compared` counts the others, of which only one is right.
    """
    chosen = int(logits[0, -1].argmax())
    if case.precision is not None:
        # Rounding may go another way than in the oracle, and the text with it: what was chosen is judged instead.
        assert_matches(case, logits, [held], script)
        case.metrics["tokens_compared"] += 1
        return chosen
    expected = case.expected.logits(held)
    assert_oracle_finite(expected, script)
    best, second = expected.topk(2).values.tolist()
    tie = 2 * case.tolerance * case.expected.scale
    if best - float(expected[chosen]) > tie:
        raise ClauseViolationError(
            Stage.EXECUTE,
            "tokens-differ",
            observed=f"token {chosen} after the call {script.calls[-1]}",
            expected=f"token {int(expected.argmax())}, {best - float(expected[chosen]):.2g} above it",
            script=script,
            observed_logits=logits[0],
            expected_logits=expected[None],
        )
    case.metrics["tokens_compared"] += best - second > tie
    return chosen


def _shortest(case: Case) -> DecodeScript:
    return token_by_token(case.space.text(0)[:1])


def _logits(session: Session, script: DecodeScript) -> list[torch.Tensor]:
    return [session.step(*tensors(call.tokens, call.position)) for call in script.calls]


def _batched_session(case: Case) -> Session:
    """A session of the exporter's program for `_ROWS` rows a call."""
    model = case.model_to_export()
    model.generation_config = GenerationConfig(
        use_cache=True,
        cache_implementation="static",
        cache_config={"batch_size": _ROWS, "max_cache_len": case.space.length},
    )
    program = export(case.exporter, model, case.mode, case.builder.shape)
    if case.exporter.driver.by_contract:
        assert_signature(program, case.space.vocab, _ROWS, shape=case.builder.shape)
    return case.session_of(program)
