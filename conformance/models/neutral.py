"""Fields of a decoder's config that its fixture leaves neutral: a program that ignores such a field passes all checks.

Which fields count is found by trying: each is changed on the same weights, and counts if that moves the logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from conformance.core.verdicts import Stage, at
from conformance.models.config_fields import (
    Field,
    Fields,
    Rule,
    fields_of,
    is_same,
    neutral_values,
    other_values,
    value_at,
    with_value,
)
from conformance.models.fixtures import build_model
from conformance.models.variations import varied

Changes = Mapping[str, Any]

#: The share of the logits' scale that stands for all above it, and for logits that are not finite.
_FARTHEST = 1e6


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of a config's fields on the logits.

    Args:
        exercised: By field, the least that a neutral value moves the logits by, as a share of their scale.
        neutral: The same of fields whose value is neutral, or hardly differs from a neutral one.
        left_out: The fields that do not count, by rule.
    """

    exercised: Mapping[str, float]
    neutral: Mapping[str, float]
    left_out: Mapping[Rule, Sequence[str]]


def effects(
    values: Changes, tokens: tuple[int, ...], *, rounding: float, least: float, overrides: Sequence[Changes] = ()
) -> Effects:
    """Try every field of a fixture's decoder config.

    Args:
        values: The fixture.
        tokens: The text whose logits are compared, each token's with those of the forward pass without cache.
        rounding: The share of the logits' scale below which nothing has moved.
        least: The share by which neutral values have to move the logits.
        overrides: Of each variation, its changes of the decoder's config. A field that is neutral in the fixture is
            tried in those that change it.

    Raises:
        CellFailedError: The fixture, or a variation that is needed, builds no model, or one that cannot be called.
    """
    fixture = _Subject(values, {}, tokens)
    varied_subjects: dict[int, _Subject] = {}
    exercised: dict[str, float] = {}
    neutral: dict[str, float] = {}
    fields: Fields = fields_of(fixture.text_config)
    for field in fields.to_try:
        moved = fixture.moved_by(field, rounding, least)
        if isinstance(moved, Rule) and moved is not Rule.REFUSED:
            fields.leave_out(moved, field.name)
            continue
        for number, changes in enumerate(overrides):
            if field.path[0] not in changes or (isinstance(moved, float) and moved >= least):
                continue
            if number not in varied_subjects:
                varied_subjects[number] = _Subject(values, changes, tokens)
            moved = _farther(moved, varied_subjects[number].moved_if_changed(field, rounding, least))
        if isinstance(moved, Rule):
            fields.leave_out(moved, field.name)
        elif moved >= least:
            exercised[field.name] = moved
        else:
            neutral[field.name] = moved
    return Effects(exercised, neutral, fields.left_out)


class _Subject:
    """A config, and its model's logits."""

    def __init__(self, values: Changes, changes: Changes, tokens: tuple[int, ...]) -> None:
        self._values = values
        self._changes = changes
        self._tokens = torch.tensor([tokens])
        with at(Stage.BUILD):
            model = self._model({})
        self.text_config = model.config.get_text_config(decoder=True)
        self._shapes = _shapes(model)
        self._vectors = {name: part.detach() for name, part in model.named_parameters() if part.ndim < 2}
        with at(Stage.EAGER):
            self._logits = self._run(model)
        self._scale = float(self._logits.abs().max())

    def moved_by(self, field: Field, rounding: float, least: float) -> float | Rule:
        """The least that a neutral value of `field` moves the logits by, or the rule by which it does not count."""
        found: list[float] = []
        counts = False
        for neutral in neutral_values(self.text_config, field):
            moved = 0.0 if is_same(neutral, field.value) else self._moved(field, neutral)
            if moved is Rule.SIZE:
                return moved
            if isinstance(moved, float):
                found.append(moved)
                # Zero switches off whatever the field scales, even where a norm undoes every other scale.
                counts = counts or (moved > rounding and neutral != 0)
        if counts or (found and min(found) >= least):
            return min(found)
        others = [self._moved(field, other) for other in other_values(field)]
        if Rule.SIZE in others:
            return Rule.SIZE
        moves = [moved for moved in others if isinstance(moved, float)]
        if any(moved > rounding for moved in moves):
            return min(found, default=max(moves))
        return Rule.NOTHING if found and moves else Rule.REFUSED

    def moved_if_changed(self, field: Field, rounding: float, least: float) -> float | Rule:
        """The same of another config's `field`, if it has another value here."""
        try:
            here = Field(field.path, value_at(self.text_config, field.path))
        except KeyError:
            return Rule.REFUSED
        return Rule.NOTHING if is_same(here.value, field.value) else self.moved_by(here, rounding, least)

    def _moved(self, field: Field, value: Any) -> float | Rule:
        """How far another value of `field` moves the logits, as a share of their scale."""
        try:
            model = self._model(with_value(self.text_config, field.path, value))
        except Exception:  # configs and models refuse values in ways of their own
            return Rule.REFUSED
        shapes = _shapes(model)
        same = shapes.keys() == self._shapes.keys() and all(shapes[name] == self._shapes[name] for name in shapes)
        if not same and not isinstance(value, bool):  # a switch may add biases and norms
            return Rule.SIZE
        with torch.no_grad():  # what an initialiser has drawn depends on what it drew before
            for name, part in model.named_parameters():
                if name in self._vectors and part.shape == self._vectors[name].shape:
                    part.copy_(self._vectors[name])
        try:
            logits = self._run(model)
        except Exception:  # as above
            return Rule.REFUSED
        moved = float((logits - self._logits).abs().max()) / self._scale
        return min(moved, _FARTHEST) if math.isfinite(moved) else _FARTHEST

    def _model(self, changes: Changes) -> PreTrainedModel:
        values = copy.deepcopy(dict(self._values))
        return build_model(AutoConfig.for_model(**varied(values, {**self._changes, **changes})))

    def _run(self, model: PreTrainedModel) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=self._tokens, use_cache=False).logits[0]
            return logits.float()


def _farther(one: float | Rule, other: float | Rule) -> float | Rule:
    if isinstance(one, Rule):
        return one if isinstance(other, Rule) else other
    return one if isinstance(other, Rule) else max(one, other)


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in model.state_dict().items()}
