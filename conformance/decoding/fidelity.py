"""The cost of rounding a model: its logits against those of the model as it was, over a text of that model's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from conformance.decoding.oracle import Oracle

#: What stands for the ratio of logits that are equal to the last bit, which have no noise at all, in dB.
EQUAL_DB = 300.0


class _Judge(Protocol):
    def logits(self, prefix: tuple[int, ...]) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How far a rounded model is from the float one.

    Args:
        sqnr_db: Signal to quantisation noise over all positions, in dB. Logits count from their mean at each position,
            since what all of them have in common changes no probability, and would hide noise.
        greedy_agreement: The share of positions at which both have the same best token.
        perplexity_float: The float model's perplexity on the text.
        perplexity_rounded: The rounded model's.
    """

    sqnr_db: float
    greedy_agreement: float
    perplexity_float: float
    perplexity_rounded: float


def fidelity(exact: Oracle, rounded: _Judge) -> Fidelity:
    """Measure over one text that fills the cache, drawn from the float model's own probabilities with a fixed seed.

    Raises:
        CellFailedError: One of them cannot decode.
    """
    text = own_text(exact)
    prefixes = [text[: end + 1] for end in range(len(text))]
    expected = torch.stack([exact.logits(prefix) for prefix in prefixes]).double()
    observed = torch.stack([rounded.logits(prefix) for prefix in prefixes]).double()
    centred = [each - each.mean(dim=-1, keepdim=True) for each in (expected, observed)]
    return Fidelity(
        sqnr_db=min(sqnr(*centred), EQUAL_DB),
        greedy_agreement=float((expected.argmax(dim=-1) == observed.argmax(dim=-1)).double().mean()),
        perplexity_float=_perplexity(expected, text),
        perplexity_rounded=_perplexity(observed, text),
    )


def sqnr(expected: torch.Tensor, observed: torch.Tensor) -> float:
    """Signal to quantisation noise of logits of equal shape, in dB; infinite where both are equal."""
    signal, noise = expected.double(), expected.double() - observed.double()
    return float(10 * torch.log10(signal.square().sum() / noise.square().sum()))


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the logits of equally good models are apart, each from the nearest of the others, at worst.

    Args:
        sqnr_db: Signal to quantisation noise, in dB.
        largest: The largest difference of a logit.
    """

    sqnr_db: float
    largest: float


def spread(models: Sequence[torch.Tensor]) -> Spread:
    """Compare the logits of each model, [vocab], with those of the others; two models at least."""
    worst, largest = math.inf, 0.0
    for one in models:
        nearest = max((other for other in models if other is not one), key=lambda other: sqnr(one, other))
        worst, largest = min(worst, sqnr(one, nearest)), max(largest, float((one - nearest).abs().max()))
    return Spread(worst, largest)


def own_text(oracle: Oracle, seed: int = 0) -> tuple[int, ...]:
    """A text that fills the cache, each token drawn by the model's probabilities (temperature 1) after those before."""
    generator = torch.Generator().manual_seed(seed)
    text = oracle.vocabulary.text(0, 1)
    while len(text) < oracle.max_cache_len:
        logits = oracle.logits(text).double()
        logits[list(oracle.vocabulary.left_out)] = -math.inf
        text = (*text, int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)))
    return text


def _perplexity(logits: torch.Tensor, text: tuple[int, ...]) -> float:
    """Of each token of `text` after the first, given those before."""
    return float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(text[1:])).exp())
