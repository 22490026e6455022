"""Decode scripts, the sequences of calls that parity is judged on, and Hypothesis strategies for them."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

#: How far the ids of a batch's next row are from those of the one before.
_ROW_STEP = 17


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the program: `tokens` at consecutive cache positions from `position` on."""

    position: int
    tokens: tuple[int, ...]

    def __str__(self) -> str:
        return f"{list(self.tokens)} at {self.position}"

    def prefixes(self, held: tuple[int, ...]) -> list[tuple[int, ...]]:
        """For each of its tokens, what its logits depend on; `held` is in the cache before the call or after it."""
        return [held[: self.position] + self.tokens[: end + 1] for end in range(len(self.tokens))]


@dataclass(frozen=True, slots=True)
class DecodeScript:
    """Calls in order, on a session that has just been loaded."""

    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return ", then ".join(map(str, self.calls))

    def steps(self) -> Iterator[tuple[Call, tuple[int, ...]]]:
        """Each call with the whole prefix that is in the cache after it."""
        held: tuple[int, ...] = ()
        for call in self.calls:
            held = held[: call.position] + call.tokens
            yield call, held


def text(seed: int, length: int, vocab: int) -> tuple[int, ...]:
    """`length` token ids other than 0, for prompts; `Vocabulary.text` is for parity.

    They are different ones, and begin again only where there are fewer.
    """
    others = range(1, vocab) if vocab > 1 else range(1)
    ids = random.Random(seed).sample(others, min(length, len(others)))
    return tuple(ids[index % len(ids)] for index in range(length))


def of_row(tokens: Sequence[int], row: int, vocab: int) -> tuple[int, ...]:
    """What row `row` of a batch holds where the first holds `tokens`: other ids, as often and in the same places."""
    return tuple((token + _ROW_STEP * row) % vocab for token in tokens)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids of a model, and which of them its texts hold.

    Args:
        size: Number of token ids.
        padding: The id that fills rows which have ended.
        special: Padding, beginning, end: texts hold these before any others.
        left_out: Ids that no text holds, because the model has no right answer for them.
        repeats: Whether a text may hold an id more than once.
    """

    size: int
    padding: int = 0
    special: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    repeats: bool = True

    def text(self, seed: int, length: int) -> tuple[int, ...]:
        """A fixed text that fills a cache of `length` positions. Few texts keep the oracle's answers shared.

        Texts 0 and 1 hold each id once, as far as two texts reach: 0, the last one, the special ones, 255 and 256
        come first, then others at random. Text 2 repeats ids in a row and apart, the first of these before others.
        The next ones are drawn from all ids. Where ids may not repeat, there are only texts 0 and 1.
        """
        ids = _ids(self)
        if seed < 2 or not self.repeats:
            shuffled = random.Random(0).sample(ids[: 2 * length], min(2 * length, len(ids)))
            # Where all ids fit into one text a whole number of times, the next would be the same one.
            start = seed % 2 * (length if length % len(shuffled) else length + 1)
            return tuple(shuffled[index % len(shuffled)] for index in range(start, start + length))
        if seed == 2:
            pairs = zip(ids[::2], ids[1::2] or ids, strict=False)
            repeated = itertools.chain.from_iterable((a, a, b, a, b, b) for a, b in itertools.cycle(pairs))
            return tuple(itertools.islice(repeated, length))
        return tuple(random.Random(seed).choices(ids, k=length))


@functools.cache
def _ids(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Every id that a text may hold, those that must be in one first."""
    first = (0, vocabulary.size - 1, *vocabulary.special, 255, 256)
    others = random.Random(0).sample(range(vocabulary.size), vocabulary.size)
    left_out = set(vocabulary.left_out)
    return tuple(i for i in dict.fromkeys((*first, *others)) if 0 <= i < vocabulary.size and i not in left_out)


def in_chunks(tokens: Sequence[int], lengths: Sequence[int], start: int = 0) -> DecodeScript:
    """`tokens` fed in chunks of these lengths, and the remaining ones token by token."""
    calls, offset = [], 0
    lengths = (*lengths, *[1] * (len(tokens) - sum(lengths)))
    for length in lengths:
        calls.append(Call(start + offset, tuple(tokens[offset : offset + length])))
        offset += length
    return DecodeScript(tuple(calls))


def token_by_token(tokens: Sequence[int], start: int = 0) -> DecodeScript:
    """`tokens` fed one a call."""
    return in_chunks(tokens, (), start)


def joined(*scripts: DecodeScript) -> DecodeScript:
    """One script after the other, on one session."""
    return DecodeScript(tuple(call for script in scripts for call in script.calls))


@dataclass(frozen=True, slots=True)
class ScriptSpace:
    """The scripts that a program can run.

    Args:
        vocabulary: The token ids.
        length: Positions in the cache.
        chunk: Longest chunk of a call: 1 in decode mode, up to `length` in dynamic mode.
    """

    vocabulary: Vocabulary
    length: int
    chunk: int

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.vocabulary.size

    def text(self, seed: int) -> tuple[int, ...]:
        """A text that fills the whole cache; see `Vocabulary.text`."""
        return self.vocabulary.text(seed, self.length)

    @property
    def texts(self) -> st.SearchStrategy[tuple[int, ...]]:
        """Texts that fill the whole cache."""
        return st.integers(0, 3).map(self.text)

    def in_chunks(self, tokens: Sequence[int], lengths: Sequence[int], start: int = 0) -> DecodeScript:
        """See `in_chunks`; chunks that are longer than a call may be are split."""
        pieces = (min(self.chunk, n - at) for n in lengths for at in range(0, n, self.chunk))
        return in_chunks(tokens, tuple(pieces), start)

    def chunk_lengths(self, total: int) -> st.SearchStrategy[tuple[int, ...]]:
        """Chunks that make up at most `total` tokens; the rest goes token by token."""
        if self.chunk == 1:
            return st.just(())
        # Six chunks at most: more of them look like single tokens, which the rest becomes anyway.
        return st.lists(st.integers(1, min(self.chunk, total)), max_size=6).map(lambda drawn: _fitting(drawn, total))

    def prefills(self, least: int = 1, most: int | None = None) -> st.SearchStrategy[DecodeScript]:
        """From position 0 to between `least` and `most` tokens, in any chunks."""
        return _prefill(self, least, self.length if most is None else most)

    def prompts(self) -> st.SearchStrategy[DecodeScript]:
        """Prefills, in any chunks, of three lengths: what the oracle generates after one prompt serves many."""
        lengths = st.sampled_from((1, 3, self.length // 2))
        return lengths.flatmap(lambda length: self.prefills(length, length))

    def singles(self) -> st.SearchStrategy[DecodeScript]:
        """From position 0 on, token by token."""
        lengths = st.integers(1, self.length)
        return st.builds(lambda tokens, length: token_by_token(tokens[:length]), self.texts, lengths)

    def rewinds(self) -> st.SearchStrategy[DecodeScript]:
        """A prefill, then one to three times back to an earlier position, not 0, with other tokens."""
        return _rewinding(self)

    def restarts(self) -> st.SearchStrategy[DecodeScript]:
        """Two to four sequences, each from position 0."""
        return st.lists(self.prefills(), min_size=2, max_size=4).map(lambda scripts: joined(*scripts))


@st.composite
def _prefill(draw: st.DrawFn, space: ScriptSpace, least: int, most: int) -> DecodeScript:
    tokens = draw(space.texts)[: draw(st.integers(least, most))]
    return in_chunks(tokens, draw(space.chunk_lengths(len(tokens))))


@st.composite
def _rewinding(draw: st.DrawFn, space: ScriptSpace) -> DecodeScript:
    script = draw(space.prefills(least=2))
    for _ in range(draw(st.integers(1, 3))):
        held = list(script.steps())[-1][1]
        start = draw(st.integers(1, max(1, len(held) - 1)))
        tokens = draw(space.texts)[: draw(st.integers(1, space.length - start))]
        script = joined(script, in_chunks(tokens, draw(space.chunk_lengths(len(tokens))), start))
    return script


def _fitting(lengths: Sequence[int], total: int) -> tuple[int, ...]:
    fitting: list[int] = []
    for length in lengths:
        if sum(fitting) + length <= total:
            fitting.append(length)
    return tuple(fitting)
