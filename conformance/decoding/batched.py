"""A session of several rows a call, driven as if it had one: each other row decodes a text of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from conformance.core.verdicts import ClauseViolationError, Stage
from conformance.decoding.scripts import Call, of_row
from conformance.decoding.sessions import Inputs, Session


class Batched:
    """Gives each call's tokens to the first row and other ones to the rest, and compares those with the oracle.

    An invalid call is passed on unchanged, and its result is that of the first row.

    Args:
        session: The session, of `rows` rows.
        rows: How many a call has.
        vocab: Number of token ids.
        expected: The oracle's logits after a prefix, shape [vocab].
        most: The largest error of a logit that counts as equal.
    """

    def __init__(
        self, session: Session, rows: int, vocab: int, expected: Callable[[tuple[int, ...]], torch.Tensor], most: float
    ) -> None:
        self._session = session
        self._rows = rows
        self._vocab = vocab
        self._expected = expected
        self._most = most
        self._held: tuple[int, ...] = ()

    def step(self, input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        """See `Session.step`: token ids, int64 [1, seq], to the first row's logits, [1, seq, vocab].

        Raises:
            ClauseViolationError: Another row's logits are not the oracle's.
            StageError: The call was refused.
        """
        call = self._call(input_ids, cache_position, self._held)
        logits = self._session.step(self._ids(input_ids, call), cache_position)
        if call is None:
            return logits[:1] if _is_row(input_ids) else logits
        if logits.shape[0] != self._rows:
            raise ClauseViolationError(
                Stage.EXECUTE, "wrong-shape", observed=f"logits {list(logits.shape)}", expected=f"{self._rows} rows"
            )
        self._held = self._held[: call.position] + call.tokens
        for row in range(1, self._rows):
            self._compare(logits[row], call, row)
        return logits[:1]

    def translated(self, calls: Sequence[Inputs]) -> tuple[Session, list[Inputs]]:
        """See `conformance.decoding.device.Translating`."""
        held, made = self._held, list[Inputs]()
        for input_ids, cache_position in calls:
            call = self._call(input_ids, cache_position, held)
            made.append((self._ids(input_ids, call), cache_position))
            if call is not None:
                held = held[: call.position] + call.tokens
        return self._session, made

    def _ids(self, input_ids: torch.Tensor, call: Call | None) -> torch.Tensor:
        """The token ids of all rows for `call`; of one that no decoder could make, the same in each row."""
        if call is not None:
            return torch.tensor([of_row(call.tokens, row, self._vocab) for row in range(self._rows)])
        return input_ids.repeat(self._rows, 1) if _is_row(input_ids) else input_ids

    def _call(self, input_ids: torch.Tensor, cache_position: torch.Tensor, held: tuple[int, ...]) -> Call | None:
        """The call, if a decoder that holds the tokens `held` could make it."""
        if not _is_row(input_ids):
            return None
        position = int(cache_position.flatten()[0]) if cache_position.numel() else -1
        tokens = tuple(map(int, input_ids[0].tolist()))
        expected = torch.arange(position, position + len(tokens))
        plain = input_ids.dtype == cache_position.dtype == torch.int64 and torch.equal(cache_position, expected)
        if plain and tokens and 0 <= position <= len(held) and all(0 <= each < self._vocab for each in tokens):
            return Call(position, tokens)
        return None

    def _compare(self, observed: torch.Tensor, call: Call, row: int) -> None:
        # A program may return the logits of the last token alone. Who calls checks their number, by the first row.
        prefixes = call.prefixes(self._held)[-len(observed) :]
        for logits, prefix in zip(observed, prefixes, strict=False):
            expected = self._expected(of_row(prefix, row, self._vocab))
            error = float((logits - expected).abs().max())
            if not error <= self._most:  # nan fails this comparison
                raise ClauseViolationError(
                    Stage.EXECUTE,
                    "row-differs",
                    observed=f"row {row} is off by {error:.3g} at position {len(prefix) - 1}, in the call {call}",
                    expected=f"the oracle's logits for the row's own text, within {self._most:.1g}",
                )


def _is_row(input_ids: torch.Tensor) -> bool:
    return input_ids.ndim == 2 and input_ids.shape[0] == 1
