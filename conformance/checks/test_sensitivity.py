"""Sensitivity: would the checks notice a fault? The fixture shows faults, and has all parts of its architecture."""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

from conformance.checks.case import Case, clause
from conformance.core.cells import split_row
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage
from conformance.decoding.oracle import CacheFreeOracle, Oracle, cache_states
from conformance.models import neutral
from conformance.models.checkpoints import WINDOWS
from conformance.models.fixtures import config_values, default_config
from conformance.records.run import FieldsRecord
from conformance.reference.transformers_api import cache_argument, layer_types, lets_choose_experts

#: A fault must move the logits by this many tolerances, or the parity checks could miss a smaller one of its kind.
LEAST_EFFECT = 100
#: In half precision, rounding hides small faults; but if a fault is below the tolerance, parity proves nothing. The
#: same bound applies to a checkpoint, which was not made to show faults.
_LEAST_EFFECT_ROUNDED = 1
#: A field that moves the logits by fewer tolerances, whatever its value, does not count: a norm after it undoes it.
_LEAST_MOVE = 10
#: Layers of each kind in a fixture: with only one, mixing up two would not show.
_LEAST_LAYERS = 2


@clause("SEN-1")
def test_faults_show(case: Case) -> None:
    """Each fault, put into the oracle itself, moves the last logits far beyond the tolerance.

    Each kind of cache layer has to show it by itself: one that shows it would hide another that does not.
    """
    oracle = case.untried_oracle
    tokens = case.space.text(0)
    half = tokens[: len(tokens) // 2]
    faults: list[tuple[str, str, Callable[[StaticCache], bool]]] = []
    for kind in sorted({type(layer).__name__ for layer in oracle.new_cache().layers}):
        of = f" ({kind})"
        faults += [("zeroed_cache", of, partial(_zero, kind)), ("swapped_layers", of, partial(_swap, kind))]
    faults.append(("shifted_positions", "", _shift))
    effects: list[tuple[float, str, str]] = []
    for name, of, fault in faults:
        effect = _effect(oracle, half, fault)
        if effect is not None:
            effects.append((effect / case.tolerance, name, of))
    # One that the cache never fills, as of a checkpoint with a short cache, has nothing to drop: the screen says so.
    if any(
        getattr(layer, "is_sliding", False) and getattr(layer, "max_cache_len", 0) < oracle.max_cache_len
        for layer in oracle.new_cache().layers
    ):
        effect = _window_effect(oracle, tokens)
        # Moshi's caches slide, and its forward pass without a cache, which is its oracle, has no window to drop.
        if effect or type(oracle) is not CacheFreeOracle:
            effects.append((effect / case.tolerance, "dropped_window", ""))
    if all(name != "zeroed_cache" for _, name, _ in effects):  # nothing in the cache, and so nothing that shows
        effects.insert(0, (0.0, "zeroed_cache", ""))
    for effect, name, of in effects:
        if not math.isfinite(effect):
            raise ClauseViolationError(
                Stage.EAGER,
                "effect-not-finite",
                observed=f"{name}{of} moves the logits by {effect} times the tolerance",
                expected="finite logits, with the fault and without it",
            )
    for effect, name, _ in sorted(effects, reverse=True):  # of each fault, the least is kept
        case.metrics[f"effect_{name}"] = round(effect, 1)
    enough = _LEAST_EFFECT_ROUNDED if case.rounds else LEAST_EFFECT
    least, name, of = min(effects, key=lambda effect: effect[0])
    if least < enough:
        raise ClauseViolationError(
            Stage.EAGER,
            f"insensitive-to-{name}",
            observed=f"{name}{of} moves the logits by {least:.1f} times the tolerance",
            expected=f"at least {enough} times",
        )


@clause("SEN-2")
def test_fixture_is_whole(case: Case) -> None:
    """Cache layers, cached state and module kinds of the default config, and the row's cache kinds, are all there."""
    architecture = case.cell.architecture
    if case.caches is None:
        raise ClauseViolationError(
            Stage.BUILD,
            "unlisted",
            observed=f"{architecture} is registered by Transformers and has no row in models_matrix.yaml",
            expected=f"a row: conformance matrix add {architecture}",
        )
    kinds = Counter(layer_types(case.model.config.get_text_config(decoder=True)))
    if set(kinds) != set(case.caches) or min(kinds.values()) < _LEAST_LAYERS:
        raise ClauseViolationError(
            Stage.BUILD,
            "fixture-lacks-layers",
            observed=f"layers {dict(kinds)}",
            expected=f"at least {_LEAST_LAYERS} each of {', '.join(case.caches)}, as its row says",
        )
    # A new model, since a call may have changed the oracle's: big_bird swaps its attention for short texts, for good.
    fixture = _parts(case.builder.build(architecture), case.untried_oracle.new_cache())
    published = _published_parts(architecture, case.space.length)
    missing = {part: count - fixture[part] for part, count in published.items() if fixture[part] < count}
    case.metrics["parts"] = len(published)
    if missing:
        raise ClauseViolationError(
            Stage.BUILD,
            "fixture-lacks-parts",
            observed=f"the fixture lacks {', '.join(f'{count} {part}' for part, count in sorted(missing.items()))}",
            expected="two of each cache layer and one of each module kind that the default config has",
        )


@clause("SEN-3")
def test_no_field_is_neutral(case: Case) -> None:
    """Each field that moves the logits has a value, in the fixture or a variation of it, that cannot be ignored."""
    architecture, variation = split_row(case.cell.architecture)
    if variation is not None:
        raise NotApplicableError(f"its fields are judged in the row of {architecture}")
    tolerance = case.tolerance
    found = neutral.effects(
        config_values(architecture),
        case.space.text(0),
        rounding=_LEAST_MOVE * tolerance,
        least=LEAST_EFFECT * tolerance,
        overrides=case.overrides,
    )
    exercised, hidden = (
        {name: round(effect / tolerance, 1) for name, effect in fields.items()}
        for fields in (found.exercised, found.neutral)
    )
    left_out = {rule.value: tuple(names) for rule, names in found.left_out.items()}
    case.measured["fields"] = FieldsRecord(exercised, hidden, left_out)
    case.metrics["fields"] = len(exercised)
    if hidden:
        raise ClauseViolationError(
            Stage.EAGER,
            f"neutral:{'+'.join(hidden)}",
            observed="a program may ignore "
            + ", ".join(f"{name} (its effect: {effect:g} tolerances)" for name, effect in hidden.items()),
            expected=f"at least {LEAST_EFFECT} tolerances: give each a value that is not neutral, in "
            f"fixtures/configs/{architecture}.json or in a variation, such as fixtures/variations/options.yaml",
        )


@torch.inference_mode()
def _effect(oracle: Oracle, tokens: tuple[int, ...], fault: Callable[[StaticCache], bool]) -> float | None:
    """How far the last token's logits move, as a share of their scale, if `fault` struck just before it."""
    cache = oracle.new_cache()
    for token in tokens[:-1]:
        oracle.step(cache, token)
    # Of another oracle, decoding with a cache is wrong without a fault too. RecurrentGemma, whose state is not in its
    # cache, cannot take the same step twice.
    clean = copy.deepcopy(cache) if type(oracle) is CacheFreeOracle else None
    if not fault(cache):
        return None
    expected = oracle.logits(tokens) if clean is None else oracle.step(clean, tokens[-1])
    observed = oracle.step(cache, tokens[-1])
    return float((observed - expected).abs().max()) / oracle.scale


def _window_effect(oracle: Oracle, tokens: tuple[int, ...]) -> float:
    config: Any = copy.deepcopy(oracle.model.config)
    for part in (config, config.get_text_config(decoder=True)):
        for name in WINDOWS:
            if getattr(part, name, None):
                setattr(part, name, 2 * oracle.max_cache_len)
    with torch.random.fork_rng(devices=[]):
        model: Any = type(oracle.model)(config)
    model.to(oracle.model.dtype).eval()
    held = oracle.model.state_dict()
    model.load_state_dict({name: _widened(held[name], like) for name, like in model.state_dict().items()})
    windowless = type(oracle)(model, oracle.max_cache_len)
    return float((windowless.logits(tokens) - oracle.logits(tokens)).abs().max()) / oracle.scale


def _widened(weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`weight`, with zeros where it is as wide as the window (Inkling2's relative positions) and `like` is wider."""
    if weight.shape == like.shape:
        return weight
    widened = torch.zeros_like(like)
    widened[tuple(map(slice, weight.shape))] = weight
    return widened


def _states(cache: StaticCache, kind: str) -> list[list[tuple[str, torch.Tensor]]]:
    """The states of each layer of `kind`, the name of a class, by name."""
    layers: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for index, name, state in cache_states(cache):
        if type(cache.layers[index]).__name__ == kind:
            layers.setdefault(index, []).append((name, state))
    return list(layers.values())


def _zero(kind: str, cache: StaticCache) -> bool:
    layers = _states(cache, kind)
    for _, state in chain.from_iterable(layers):
        state.zero_()
    return bool(layers)


def _shift(cache: StaticCache) -> bool:
    moved = False
    for layer in cache.layers:
        for attribute in ("cumulative_length", "cumulative_length_int"):
            if hasattr(layer, attribute):
                setattr(layer, attribute, getattr(layer, attribute) + 1)
                moved = True
    return moved


def _swap(kind: str, cache: StaticCache) -> bool:
    """Exchange the states of the first two layers of `kind` that hold tensors of the same names and shapes."""
    alike: dict[object, list[tuple[str, torch.Tensor]]] = {}
    for states in _states(cache, kind):
        other = alike.setdefault(tuple((name, state.shape) for name, state in states), states)
        if other is not states:
            for (_, one), (_, two) in zip(other, states, strict=True):
                kept = one.clone()
                one.copy_(two)
                two.copy_(kept)
            return True
    return False


def _published_parts(architecture: str, max_cache_len: int) -> Counter[str]:
    config = default_config(split_row(architecture)[0])
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config)
            cache = StaticCache(config, max_cache_len)
        except Exception as error:
            raise NotApplicableError(
                f"layers are as its row says; {type(config).__name__}() builds no model to compare with: {error!r}"
            ) from error
        if lets_choose_experts(model):
            model.set_experts_implementation("batched_mm")  # `grouped_mm` computes no shapes on the meta device
        return _parts(model, cache)


def _parts(model: PreTrainedModel, cache: StaticCache) -> Counter[str]:
    """What a model is made of: cache layers (up to two of a kind), kinds of cached state, kinds of modules.

    A forward pass allocates the state. Some fail with a published config on the meta device, where their code path
    depends on the data, or with defaults that no published model has. Then the cache shows its layers only.
    """
    source = type(model).__module__
    modules = {type(part).__name__ for part in model.modules() if type(part).__module__ == source}
    with torch.no_grad(), contextlib.suppress(Exception):
        model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=True, **{cache_argument(model): cache})
    layers = Counter(f"cache layer {type(layer).__name__}" for layer in cache.layers)
    parts = Counter({kind: min(count, 2) for kind, count in layers.items()})
    parts.update({f"cached state {name}" for _, name, _ in cache_states(cache)})
    parts.update(f"module {name}" for name in modules)
    return parts
