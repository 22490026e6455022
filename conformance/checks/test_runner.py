"""The runner: a program's metadata for ExecuTorch's LLM runner, and the answers that the runner gives with it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from conformance.checks.case import Case, clause
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage
from conformance.decoding.llm_runner import DEFAULT_SECONDS, Answer, Turn, converse
from conformance.decoding.reading import Opening
from conformance.decoding.tokenizers import CheckpointTokenizer
from conformance.models.fixtures import batch_size
from conformance.reference.metadata import eos_ids

#: Prompts that are tried until the answer of one ends before the cache does.
_SEARCHED = 16
#: The same, and seconds for a conversation, for a checkpoint, whose tokens cost a hundred times as much.
_SEARCHED_CHECKPOINT, _CHECKPOINT_SECONDS = 2, 3600
#: Tokens of an answer after which a conversation goes on.
_FEW = 4

#: ExecuTorch's own operators of attention and caches, in the words of an emitted program.
_OWN_ATTENTION = re.compile(r"llama::(\w*sdpa\w*|update_cache\w*)(\.|$)")

Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One metadata method of a program.

    Args:
        name: The method.
        truth: The right values, for a reader.
        holds: Whether its values are right.
        default: The values that the runner uses without it; None where it uses none.
        without: What the runner does without it.
    """

    name: str
    truth: str
    holds: Callable[[Values], bool]
    default: Values | None
    without: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, with a runner that has just been loaded."""

    turns: tuple[Turn, ...]

    def __str__(self) -> str:
        return ", then ".join(map(str, self.turns))


@clause("RUN-1")
def test_metadata(case: Case) -> None:
    """Each method, or the runner's default in its place, against the program."""
    _require_runtime(case)
    metadata = case.built.metadata()
    missing: list[Fact] = []
    untrue: list[Fact] = []
    for fact in _facts(case, metadata):
        values = metadata.get(fact.name, fact.default)
        if values is not None and fact.holds(values):
            continue
        (untrue if fact.name in metadata else missing).append(fact)
    case.metrics["metadata_methods"] = len(metadata)
    if missing or untrue:
        codes = [f"{kind}:{'+'.join(f.name for f in group)}" for kind, group in _kinds(missing, untrue) if group]
        seen = [f"{fact.name} is missing, so the runner {fact.without}" for fact in missing]
        seen += [f"{fact.name} is {_shown(metadata[fact.name])}" for fact in untrue]
        raise ClauseViolationError(
            Stage.LOAD,
            ",".join(codes),
            observed="; ".join(seen),
            expected="; ".join(f"{fact.name}: {fact.truth}" for fact in (*missing, *untrue)),
        )


@clause("RUN-2")
def test_answers(case: Case) -> None:
    """Prompts of every boundary length, each with a new runner, until the context is full or the text ends."""
    _require_runner(case)
    sizes = [_turn(case, 0, size) for size in sorted(_sizes(case))]
    turns = _written(case, [*sizes, _turn(case, 0, 3, most=1), _turn(case, 0, 3, most=_FEW)])
    ending, endless = _ending_and_endless(case)
    turns += [turn for turn in (ending, endless, _chat_turn(case)) if turn is not None]
    _hold(case, [Conversation((turn,)) for turn in turns])
    case.metrics["answers_that_end"] = int(ending is not None)
    case.metrics["answers_that_fill_the_cache"] = int(endless is not None)


def _require_runtime(case: Case) -> None:
    interpreter = case.backend.interpreter
    if interpreter is not None:
        raise NotApplicableError(
            f"{interpreter.name} runs {case.backend.name}; ExecuTorch's runtime, into which the runner loads programs, "
            "has no such delegate"
        )


def _require_runner(case: Case) -> None:
    _require_runtime(case)
    device = case.backend.runs_on
    if device is not None:
        raise NotApplicableError(f"the driver of {device.name} makes calls, and has no LLM runner")
    rows = batch_size(case.model)
    if rows > 1:
        raise NotApplicableError(f"the runner calls with one row, and the program takes {rows}")


@clause("RUN-3")
def test_further_answers(case: Case) -> None:
    """The conversation goes on, starts again, has a prompt without room refused, and goes on regardless of that."""
    _require_runner(case)
    turns = (
        _turn(case, 0, 5, most=_FEW),
        _turn(case, 1, 3, most=_FEW, goes_on=True),
        _turn(case, 0, 5, most=_FEW, again=True),
        _turn(case, 2, case.space.length, goes_on=True),
        _turn(case, 1, 1, most=_FEW, goes_on=True),
        _turn(case, 2, 2, again=True),
    )
    _hold(case, [Conversation(tuple(_written(case, turns)))])


@clause("RUN-4")
def test_tokenizer(case: Case) -> None:
    """What the runner's reader makes of texts of many kinds, against Transformers with the same tokenizer."""
    tokenizer = case.runner_tokenizer
    if not isinstance(tokenizer, CheckpointTokenizer):
        raise NotApplicableError("there is no tokenizer; the suite gives the runner a letter for each token id")
    case.metrics["tokenizer_ids"] = tokenizer.size
    case.metrics["logits"] = tokenizer.vocab
    differing = tokenizer.differences()
    if differing:
        first = differing[0]
        kinds = ", ".join(dict.fromkeys(each.kind for each in differing))
        raise ClauseViolationError(
            Stage.LOAD,
            "reads-otherwise" if first.reads else "writes-otherwise",
            observed=f"{first.observed}; it differs in {len(differing)} texts: {kinds}",
            expected=first.expected,
        )
    case.metrics["num_bos"] = tokenizer.opening.num_bos


def _written(case: Case, turns: Sequence[Turn | None]) -> list[Turn]:
    """The turns that the tokenizer can write; the record has how many it cannot."""
    written = [turn for turn in turns if turn is not None]
    if len(written) < len(turns):
        case.metrics["prompts_left_out"] = len(turns) - len(written)
    if not written:
        raise NotApplicableError("no prompt was found that the tokenizer reads back as it was written")
    return written


def _turn(
    case: Case, seed: int, size: int, *, most: int = -1, again: bool = False, goes_on: bool = False
) -> Turn | None:
    """A turn with a prompt of `size` tokens, or of a token less or two where the tokenizer writes no such prompt.

    None where it writes none of these. Unless the conversation `goes_on`, what begins a text is among them; at least
    one token comes after it.
    """
    opening = Opening() if goes_on else case.runner_tokenizer.opening
    size = max(1, size - len(opening.ids(())))
    for fewer in range(min(3, size)):
        prompt = case.runner_tokenizer.prompt(seed, size - fewer)
        if prompt is not None:
            return _opened(opening, prompt[0], prompt[1], most, again)
    return None


def _opened(opening: Opening, written: str, ids: tuple[int, ...], most: int = -1, again: bool = False) -> Turn:
    """A turn with a prompt of these `ids`, and what begins a text before it."""
    return Turn(opening.ids(ids), opening.text(written), most, again, opening.num_bos)


def _chat_turn(case: Case) -> Turn | None:
    """A question in the words of the chat template, where there is one and the cache has room for an answer to it."""
    tokenizer = case.runner_tokenizer
    asked = tokenizer.chat_prompt() if isinstance(tokenizer, CheckpointTokenizer) else None
    if asked is None or len(asked[1]) >= case.space.length:
        return None
    case.metrics["chat_prompts"] = 1
    return Turn(asked[1], asked[0])


def _kinds(missing: list[Fact], untrue: list[Fact]) -> tuple[tuple[str, list[Fact]], ...]:
    return ("missing", missing), ("untrue", untrue)


def _facts(case: Case, metadata: dict[str, Values]) -> Iterator[Fact]:
    """Every metadata method that the runner, or an app around it, reads."""
    length, dynamic = case.space.length, case.mode is Mode.DYNAMIC
    ends = set(eos_ids(case.model))
    longest = "from 1 to the cache's length" if "get_max_context_len" in metadata else "the cache's length"
    yield Fact(
        "get_max_seq_len",
        f"{longest}, {length}",
        lambda values: len(values) == 1 and 1 <= values[0] <= length,
        None,
        "refuses to load the program",
    )
    context = metadata.get("get_max_seq_len", (length,))
    yield _exactly("get_max_context_len", length, context, f"takes get_max_seq_len, {_shown(context)}, for it")
    yield _exactly("use_kv_cache", True, (True,), "assumes a cache")
    yield _exactly("enable_dynamic_shape", dynamic, (False,), "feeds prompts token by token")
    operators = sorted(filter(_OWN_ATTENTION.match, case.built.kernels))
    yield _exactly("use_sdpa_with_kv_cache", bool(operators), (False,), "assumes no such operator")
    yield Fact(
        "get_eos_ids",
        f"{sorted(ends)}, where the model's texts end",
        lambda values: set(values) == ends,
        None if ends else (),
        "stops at the end of text of the tokenizer alone",
    )
    yield _exactly("get_vocab_size", case.space.vocab, (case.space.vocab,), "uses that of the tokenizer")


def _exactly(name: str, value: object, default: Values | None, without: str) -> Fact:
    return Fact(name, str(value), lambda values: values == (value,), default, without)


def _shown(values: Values) -> str:
    return str(values[0]) if len(values) == 1 else str(list(values))


def _sizes(case: Case) -> set[int]:
    """Lengths of prompts: one token, both sides of where the runner splits, and up to the last that leaves any room."""
    length = case.space.length
    split = case.built.metadata().get("get_max_seq_len", (length,))[0]
    sizes = (1, 2, split - 1, split, split + 1, length // 2, length - 2, length - 1)
    # A program's metadata may allow calls longer than its cache: one that fills it is the longest that is tried.
    return {min(size, length) for size in sizes if size > 0}


def _ends(case: Case) -> tuple[int, ...]:
    """The ids that end a text, the tokenizer's first; where the model names none, there is the tokenizer's alone."""
    named = tuple(token for token in eos_ids(case.model) if token < case.space.vocab)
    end = case.runner_tokenizer.eos_id
    return (end, *(token for token in named if token != end)) if end in named or not named else named


def _ending_and_endless(case: Case) -> tuple[Turn | None, Turn | None]:
    """A prompt whose answer ends before the cache does, and one whose answer does not; None where none was found."""
    ending = endless = None
    known, *others = _ends(case)
    for seed in range(_SEARCHED_CHECKPOINT if case.is_checkpoint else _SEARCHED):
        turn = _turn(case, seed, 1 + seed % 3)
        if seed % 2 and others:  # a model that repeats its prompt, as with tied embeddings, has no other end
            inner = _turn(case, seed, 1 + seed % 3, goes_on=True)
            prompt = (*(inner.prompt if inner else ()), others[seed % len(others)])
            written = case.runner_tokenizer.encode_to_text(prompt)
            turn = turn if written is None else _opened(case.runner_tokenizer.opening, written, prompt)
        if turn is None:
            continue
        last = _last_of_answer(case, turn.prompt)
        if last is None:
            endless = endless or turn
        elif last != known or not others:  # the tokenizer's own would end it whatever the program says
            ending = ending or turn
        if ending and endless:
            break
    return ending, endless


def _last_of_answer(case: Case, prompt: tuple[int, ...]) -> int | None:
    """The id that ends the oracle's answer, its first token apart; None where only the cache ends it."""
    ends, held = _ends(case), prompt
    while len(held) < case.space.length:
        held = (*held, int(case.expected.logits(held).argmax()))
        if held[-1] in ends and len(held) > len(prompt) + 1:
            return held[-1]
    return None


def _hold(case: Case, conversations: Sequence[Conversation]) -> None:
    """Hold the conversations, and compare each answer with what eager greedy decoding gives.

    The metric `answers` counts those that were compared: what is in the cache after one that was cut is not known.
    """
    case.metrics["answers"] = 0
    seconds = _CHECKPOINT_SECONDS if case.is_checkpoint else DEFAULT_SECONDS
    bounded = [[_bounded(case, turn) for turn in conversation.turns] for conversation in conversations]
    answered = converse(case.built.emitted, case.runner_tokenizer, bounded, seconds)
    for conversation, answers in zip(conversations, answered, strict=True):
        _judge_answers(case, conversation, answers)


def _judge_answers(case: Case, conversation: Conversation, answers: Sequence[Answer]) -> None:
    held: tuple[int, ...] | None = ()
    for number, (turn, answer) in enumerate(zip(conversation.turns, answers, strict=True), 1):
        before = () if turn.again else held
        if before is None:
            continue
        case.metrics["answers"] += 1
        so_far = Conversation(conversation.turns[:number])
        room = case.space.length - len(before) - len(turn.prompt)
        if room > 0:
            held = _judge(case, so_far, (*before, *turn.prompt), answer, room)
        elif answer.refusal is None:
            raise _violation("accepted-without-room", f"an answer of {len(answer.pieces)} tokens", "an error", so_far)


def _bounded(case: Case, turn: Turn) -> Turn:
    """The turn as an app has to ask for it where calls are shorter than the cache, as the user has asked for.

    The runner of ExecuTorch 1.5.1 then takes the room for each answer to be that of an empty cache.
    """
    room = case.space.length - len(turn.prompt)
    if case.builder.shape.prompt_chunk is None or turn.most > 0 or room < 1:
        return turn
    return dataclasses.replace(turn, most=room)


def _judge(case: Case, asked: Conversation, held: tuple[int, ...], answer: Answer, room: int) -> tuple[int, ...] | None:
    """Compare one answer with greedy decoding after `held`; returns what is in the cache after it, if that is known."""
    ends = _ends(case)
    tokens: tuple[int, ...] = ()
    for index, piece in enumerate(answer.pieces[:room]):  # beyond, there is nothing to compare with
        token = _meant(case, (*held, *tokens), piece)
        _require_best(case, (*held, *tokens), token, index, asked)
        tokens = (*tokens, token)
    if answer.cut:
        prefix = (*held, *tokens)
        _require_best(case, prefix, _likeliest(case, prefix, case.runner_tokenizer.undecodable_ids), len(tokens), asked)
        case.metrics["answers_cut"] = case.metrics.get("answers_cut", 0) + 1
        return None
    if answer.refusal is not None:
        seen = f"{answer.refusal}, after {len(answer.pieces)} tokens"
        raise _violation("refused", seen, f"an answer; there is room for {room} tokens", asked)
    most = room if asked.turns[-1].most < 0 else min(room, asked.turns[-1].most)
    if len(answer.pieces) not in _lengths(tokens, ends, most):
        last = f", the last of them {tokens[-1]}" if tokens else ""
        seen = f"an answer of {len(answer.pieces)} tokens{last}"
        raise _violation("length-differs", seen, f"one that ends at {sorted(ends)} or after {most} tokens", asked)
    # The runner shows a token when it has chosen it, and gives it to the program in the next step, if there is one.
    return (*held, *tokens[:-1])


def _meant(case: Case, prefix: tuple[int, ...], piece: str) -> int:
    """The id that the runner wrote as `piece`: of several, the likeliest; -1 where there is none."""
    meanings = case.runner_tokenizer.ids_for(piece)
    return meanings[0] if len(meanings) == 1 else _likeliest(case, prefix, meanings)


def _likeliest(case: Case, prefix: tuple[int, ...], ids: tuple[int, ...]) -> int:
    return ids[int(case.expected.logits(prefix)[list(ids)].argmax())] if ids else -1


def _require_best(case: Case, prefix: tuple[int, ...], token: int, index: int, asked: Conversation) -> None:
    behind, best = _behind(case, prefix, token)
    if behind > 0:
        seen = f"token {token} as number {index + 1} of the answer"
        wanted = f"token {best}, ahead by {behind:.1e} of the logits' scale"
        size = case.runner_tokenizer.size
        if best >= size:
            wanted += f"; the runner chooses among the {size} ids of the tokenizer, the model among {case.space.vocab}"
            raise _violation("token-beyond-tokenizer", seen, wanted, asked)
        raise _violation("tokens-differ", seen, wanted, asked)


def _lengths(tokens: Sequence[int], ends: Sequence[int], most: int) -> set[int]:
    """How long the answer may be. The runner of ExecuTorch 1.5.1 does not see that an answer's first token ends it."""
    ended = next((index + 1 for index, token in enumerate(tokens) if token in ends and index > 0), most)
    return {ended, 1} if tokens and tokens[0] in ends else {ended}


def _behind(case: Case, prefix: tuple[int, ...], token: int) -> tuple[float, int]:
    """How far `token` is behind the best one after `prefix`, as a share of the logits' scale, and the best one.

    0 where rounding decides between the two, and neither is wrong.
    """
    if not 0 <= token < case.space.vocab:
        return float("inf"), int(case.expected.logits(prefix).argmax())
    best = int(case.expected.logits(prefix).argmax())
    if token == best:
        return 0.0, token
    tie = 2 * case.tolerance if case.precision is None else case.precision_after(prefix).tie_margin
    least = float("inf")
    for oracle in chain([case.expected], case.perturbed_oracles()):
        logits = oracle.logits(prefix)
        behind = float(logits.max() - logits[token]) / case.expected.scale
        if behind <= tie:
            return 0.0, token
        if behind < least:
            least, best = behind, int(logits.argmax())
    return least, best


def _violation(code: str, observed: str, expected: str, conversation: Conversation) -> ClauseViolationError:
    return ClauseViolationError(Stage.EXECUTE, code, observed=observed, expected=expected, script=conversation)
