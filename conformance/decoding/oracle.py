"""The oracle: eager decoding of the unchanged model with Transformers' own `StaticCache`, one token at a time."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel, StaticCache

from conformance.core.verdicts import ClauseViolationError, Stage, StageError, at
from conformance.decoding.sessions import Session
from conformance.decoding.vocabulary import vocabulary_of
from conformance.reference.transformers_api import cache_argument

#: Attributes of Transformers' cache layers whose content sums up the past, so that it cannot be rewound but to 0.
_RECURRENT_STATE = ("conv_states", "recurrent_states")
#: Two programs that round may each be as far from the truth as eager decoding is, in opposite directions, and one text
#: in ten is worse than the one on which that was measured.
ROUNDINGS = 4
#: Seeds of the texts that scripts draw from most.
_TEXTS = range(3)
#: Bytes of logits and caches that an oracle keeps. Those of all texts of a fixture take a tenth of it.
_KEPT_BYTES = 1 << 27
#: Share of the logits' scale that tells a wrong cache (0.04 and more) from rounding (5e-4 at most, see PAR-8).
_GROSS = 5e-3


class Oracle:
    """Expected logits for any prefix of tokens, each computed once, as long as there is room to keep them.

    A decode script's effective prefix decides what a call must return, whatever chunks, rewinds and resets led there,
    so results are kept by prefix, and a prefix that continues a known one costs a step for each new token. Batch size
    is 1.

    Raises:
        CellFailedError: The model cannot decode a text that fills the cache, or all its logits are 0.
    """

    def __init__(self, model: PreTrainedModel, max_cache_len: int) -> None:
        self.model = model
        self.max_cache_len = max_cache_len
        self.vocabulary = vocabulary_of(model)
        self._cache_argument = cache_argument(model)
        #: By prefix, the one that was asked for last at the end.
        self._known: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._caches: OrderedDict[tuple[int, ...], StaticCache] = OrderedDict()
        self._kept_bytes = 0
        #: Largest absolute logit over a full cache: what errors are measured against. A model that keeps a state of its
        #: own (RecurrentGemma) is stepped here before it has been called in any other way.
        self.scale = _largest(self, self.vocabulary.text(0, max_cache_len))

    def new_cache(self) -> StaticCache:
        """An empty static cache of Transformers' own choosing, sliding layers and all."""
        with at(Stage.EAGER):
            return StaticCache(config=self.model.config, max_cache_len=self.max_cache_len)

    def step(self, cache: Any, token: int) -> torch.Tensor:
        """Decode one token with `cache`; returns its logits, float32, shape [vocab].

        The cache's states become inference tensors, which can be changed in `torch.inference_mode` alone. It saves a
        fifth of the step.
        """
        with at(Stage.EAGER), torch.inference_mode():
            held = {self._cache_argument: cache}
            outputs = self.model(input_ids=torch.tensor([[token]]), use_cache=True, **held)
            logits: torch.Tensor = outputs.logits[0, -1]
            return logits.float().clone()

    def logits(self, prefix: tuple[int, ...]) -> torch.Tensor:
        """The logits after the last token of `prefix`, shape [vocab]."""
        if prefix not in self._known:
            self._decode(prefix)
        self._known.move_to_end(prefix)
        return self._known[prefix]

    def without_cache(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """The logits of a plain forward pass over all `tokens`, shape [len(tokens), vocab]."""
        with at(Stage.EAGER), torch.no_grad():
            logits: torch.Tensor = self.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
            return logits.float()

    def agree_without_cache(self) -> None:
        """Raises `ClauseViolationError` where decoding with the cache is grossly off the forward pass without it."""
        tokens = self.vocabulary.text(0, self.max_cache_len)
        decoded = torch.stack([self.logits(tokens[: length + 1]) for length in range(len(tokens))])
        error = float((decoded - self.without_cache(tokens)).abs().max()) / self.scale
        if not error < max(_GROSS, ROUNDINGS * self.rounding):  # nan does not agree either
            raise ClauseViolationError(
                Stage.EAGER,
                "static-cache-decoding-differs",
                observed=f"eager decoding with StaticCache is off by {error:.1e} of the logits' scale",
                expected="the logits of the forward pass without cache",
            )

    @cached_property
    def rounding(self) -> float:
        """How far rounding to the model's dtype moves its logits, as a share of their scale; 0 for float32.

        Measured over one text that fills the cache, against the same weights in float32.
        """
        return self._rounding_of((0,))

    @cached_property
    def noise(self) -> float:
        """`rounding`, and for float32 the same against float64, which a fixture of a few layers need not be asked for.

        SmolLM2-135M's 30 layers put a correct program off by 2.1e-5 of the scale over 128 tokens, where this is 8.6e-6.
        It is 0 where the model does not compute in float64, or memory has no room for a copy of it.
        """
        if self.model.dtype is not torch.float32:
            return self.rounding
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        if 2 * sum(value.nbytes for value in self.model.parameters()) > room // 2:
            return 0.0
        try:
            return self._rounding_of((0,), torch.float64)
        except StageError:
            return 0.0

    @cached_property
    def rounding_of_all(self) -> float:
        """The same over every text: what a fixture can be measured on, and a large checkpoint would take too long for.

        Two correct programs that round may then differ by twice as much, each as far off in an opposite direction.
        """
        return self._rounding_of(_TEXTS)

    def _rounding_of(self, seeds: Sequence[int], wider: torch.dtype = torch.float32) -> float:
        if self.model.dtype is wider:
            return 0.0
        # The copy never has the weights in their own dtype as well: of a checkpoint these are gigabytes.
        held = {id(each): torch.nn.Parameter(each.detach().to(wider)) for each in self.model.parameters()}
        exact: Any = copy.deepcopy(self.model, held)
        exact, worst = exact.to(wider), 0.0
        for seed in seeds:
            tokens = self.vocabulary.text(seed, self.max_cache_len)
            with at(Stage.EAGER), torch.no_grad():
                logits: torch.Tensor = exact(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
            worst = max(worst, float((self.without_cache(tokens) - logits).abs().max()))
        return worst / self.scale

    @property
    def summing_layer(self) -> str | None:
        """The class of the cache's first layer with convolution or recurrent state, if there is one."""
        layers = self.new_cache().layers
        return next(
            (type(layer).__name__ for layer in layers if any(hasattr(layer, a) for a in _RECURRENT_STATE)), None
        )

    @property
    def positional(self) -> bool:
        """Whether any layer of the cache keeps something by position."""
        return any(hasattr(layer, "keys") for layer in self.new_cache().layers)

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self.vocabulary.size

    def _decode(self, prefix: tuple[int, ...]) -> None:
        """Decode `prefix`, from the longest part whose cache is known. A copy of one takes a seventh of a step."""
        start = len(prefix) - 1
        while start and prefix[:start] not in self._caches:
            start -= 1
        cache = copy.deepcopy(self._caches[prefix[:start]]) if start else self.new_cache()
        for end in range(start + 1, len(prefix) + 1):
            logits = self.step(cache, prefix[end - 1])
            self._keep(prefix[:end], logits, cache if end == len(prefix) else copy.deepcopy(cache))

    def _keep(self, prefix: tuple[int, ...], logits: torch.Tensor, cache: StaticCache | None = None) -> None:
        """Keep what is known after `prefix`, and let go of what was asked for least recently: caches, then logits."""
        for held in (self._known.pop(prefix, None), self._caches.pop(prefix, None)):
            self._kept_bytes -= 0 if held is None else _bytes(held)
        self._known[prefix] = logits
        self._kept_bytes += _bytes(logits)
        if cache is not None:
            self._caches[prefix] = cache
            self._kept_bytes += _bytes(cache)
        kept: tuple[OrderedDict[tuple[int, ...], Any], ...] = (self._caches, self._known)
        for each in kept:
            while self._kept_bytes > _KEPT_BYTES and len(each) > 1:
                self._kept_bytes -= _bytes(each.popitem(last=False)[1])


class CacheFreeOracle(Oracle):
    """The forward pass without cache, for a model whose decoding with a `StaticCache` is wrong in Transformers.

    What is known of the cache is still that of Transformers' static one.
    """

    def agree_without_cache(self) -> None:
        """Raises `ClauseViolationError` where what follows a token changes its logits: no decoding can agree then."""
        tokens = self.vocabulary.text(0, self.max_cache_len)
        half = len(tokens) // 2
        error = float((self.without_cache(tokens)[:half] - self.without_cache(tokens[:half])).abs().max()) / self.scale
        if not error < max(_GROSS, ROUNDINGS * self.rounding):
            raise ClauseViolationError(
                Stage.EAGER,
                "forward-pass-not-causal",
                observed=f"tokens that follow move the logits by {error:.1e} of their scale",
                expected="the forward pass without cache is causal",
            )

    def _decode(self, prefix: tuple[int, ...]) -> None:
        for end, logits in enumerate(self.without_cache(prefix), start=1):
            self._keep(prefix[:end], logits.clone())


class ProgramOracle:
    """Expected logits for any prefix, of an exported program that torch runs one token a call.

    Those that were asked for least recently are let go of where there are too many; they are computed anew when needed.

    Args:
        new_session: Starts a session of the program, which ends the one before.
        text: A text that fills its cache.
    """

    def __init__(self, new_session: Callable[[], Session], text: tuple[int, ...]) -> None:
        self._new_session = new_session
        self._text = text
        #: By prefix, the one that was asked for last at the end.
        self._known: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._kept_bytes = 0
        self._session: Session | None = None
        #: The tokens that the session's cache holds.
        self._held: tuple[int, ...] = ()

    @cached_property
    def scale(self) -> float:
        """Largest absolute logit over a full cache."""
        return _largest(self, self._text)

    def logits(self, prefix: tuple[int, ...]) -> torch.Tensor:
        """The logits after the last token of `prefix`, shape [vocab].

        Raises:
            StageError: The program refuses a call; the next prefix then starts a new session.
        """
        if prefix not in self._known:
            self._decode(prefix)
        self._known.move_to_end(prefix)
        return self._known[prefix]

    def _decode(self, prefix: tuple[int, ...]) -> None:
        session, held = self._session, self._held
        if session is None or held != prefix[: len(held)] or len(held) == len(prefix):
            session, held = self._new_session(), ()
        self._session = None  # after an error, nobody knows what it holds
        for end in range(len(held) + 1, len(prefix) + 1):
            outputs = session.step(torch.tensor([[prefix[end - 1]]]), torch.tensor([end - 1]))
            self._keep(prefix[:end], outputs[0, -1].clone())
        self._session, self._held = session, prefix

    def _keep(self, prefix: tuple[int, ...], logits: torch.Tensor) -> None:
        known = self._known.pop(prefix, None)
        self._kept_bytes += logits.nbytes - (0 if known is None else known.nbytes)
        self._known[prefix] = logits
        while self._kept_bytes > _KEPT_BYTES and len(self._known) > 1:
            self._kept_bytes -= self._known.popitem(last=False)[1].nbytes


def _largest(oracle: Oracle | ProgramOracle, tokens: tuple[int, ...]) -> float:
    largest = max(float(oracle.logits(tokens[: end + 1]).abs().max()) for end in range(len(tokens)))
    if largest == 0:  # errors are shares of it
        raise ClauseViolationError(
            Stage.EAGER, "logits-all-zero", observed="logits of 0 alone", expected="logits that differ"
        )
    return largest


def perturbed_model(model: PreTrainedModel, std: float, seed: int) -> PreTrainedModel:
    """A copy with relative noise of standard deviation `std` on its embeddings: as good an oracle, with other ties.

    It shares all other weights with `model`: a checkpoint has many, and several copies are made.
    """
    copied: PreTrainedModel = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    embedding: Any = copied.get_input_embeddings()
    factors = _factors(torch.Size(embedding.weight.shape), std, seed)
    # Of what it gives, since its table may be one of integers.
    embedding.register_forward_hook(lambda _, ids, found: (found.float() * factors[ids[0]]).to(found.dtype))
    return copied


def perturbed_program(program: ExportedProgram, std: float, seed: int) -> ExportedProgram:
    """The same of an exported program."""
    copied = copy.deepcopy(program)
    targets = {spec.arg.name: spec.target for spec in copied.graph_signature.input_specs if spec.target}
    for node in copied.graph.nodes:
        if node.op == "call_function" and node.target == torch.ops.aten.embedding.default:
            target = targets[node.args[0].name]
            weight = copied.state_dict[target]
            moved = (weight.detach().float() * _factors(weight.shape, std, seed)).to(weight.dtype)
            copied.state_dict[target] = torch.nn.Parameter(moved) if isinstance(weight, torch.nn.Parameter) else moved
    return copied


def _factors(shape: torch.Size, std: float, seed: int) -> torch.Tensor:
    return 1 + std * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cache_states(cache: Any) -> Iterator[tuple[int, str, torch.Tensor]]:
    """Every state tensor of an allocated cache: its layer, its name, itself. Counters do not count."""
    for index, layer in enumerate(cache.layers):
        for name, held in vars(layer).items():
            for key, tensor in held.items() if isinstance(held, dict) else [("", held)]:
                if isinstance(tensor, torch.Tensor) and tensor.ndim > 1:
                    yield index, f"{name}{key}", tensor


def _bytes(held: torch.Tensor | StaticCache) -> int:
    if isinstance(held, torch.Tensor):
        return held.nbytes
    return sum(state.nbytes for _, _, state in cache_states(held))
