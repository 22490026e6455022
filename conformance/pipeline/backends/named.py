"""Backends that are not the suite's: `package.module:NAME`, and `recipe:NAME` for one of ExecuTorch's own recipes.

NAME is a `Backend`, an `ExportRecipe` of `executorch.export`, or a callable without arguments that gives partitioners.
What these do not say is not made up: without a baseline LOW-3 is not run, nor LOW-10 without a list of operators.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from conformance.core.dotted import imported
from conformance.core.errors import InputError
from conformance.core.exporter_names import RECIPE
from conformance.core.suggest import unknown
from conformance.pipeline.backends.base import FLOAT32_TOLERANCE, Backend, Quantisation
from conformance.pipeline.backends.quantised import AS_TORCH_DOES, quantised_by_pt2e, quantised_by_torchao
from conformance.pipeline.backends.recipes import checked_edge

#: What is asked of a recipe, which promises nothing: what keeps most of its weights is not a quantised program, and
#: noise as strong as the signal is nonsense. Fixtures of 8da4w, whose groups do not fit all widths, reach 62 %.
_LEAST = Quantisation(least_share=0.5, least_sqnr=0.0)
#: By the object that has them, the fields of a recipe that the suite has no counterpart of: it exports by the exporter
#: under test, calibrates with texts of its own, and lowers without knowing the program.
_LEFT_OUT = {
    "": ("aten_transform_passes", "pipeline_stages", "source_transform_in_place"),
    "quantization_recipe": (
        *("is_qat", "train_fn", "calibration_inputs_fn"),
        *("pre_prepare_passes", "post_prepare_passes", "pre_convert_passes", "post_convert_passes"),
    ),
    "lowering_recipe": ("edge_transform_passes", "edge_manager_transform_passes"),
}


@functools.cache
def named(name: str) -> Backend:
    """The backend that `name` names.

    Raises:
        ValueError: Nothing is called so, or it is a recipe that asks for what the suite does not do.
    """
    module, _, attribute = name.partition(":")
    if module == RECIPE:
        return _of_recipe(name, functools.partial(_registered, attribute))
    found = imported(name, "backend", _fits)
    if isinstance(found, Backend):
        return dataclasses.replace(found, name=name)
    if _is_recipe(found):
        return _of_recipe(name, lambda: found)
    return Backend(
        name,
        functools.partial(_as_list, found),
        FLOAT32_TOLERANCE,
        delegating=True,
        summary="what its partitioners take",
    )


def recipe_names() -> tuple[str, ...]:
    """The recipes that the installed ExecuTorch registers and that can run here, as they are named."""
    return tuple(sorted(f"{RECIPE}:{kind.name}" for kind in _kinds()))


def _fits(value: Any) -> bool:
    return isinstance(value, Backend) or _is_recipe(value) or callable(value)


def _is_recipe(value: Any) -> bool:
    # By its fields: to import its class is to import torch, for which the message about a typo need not wait.
    return hasattr(value, "lowering_recipe") and not isinstance(value, type)


def _as_list(make: Callable[[], Any]) -> list[Any]:
    made = make()
    return list(made) if isinstance(made, list | tuple) else [made]


def _kinds() -> Iterator[Any]:
    try:
        from executorch.backends.xnnpack.recipes import XNNPackRecipeType
    except ImportError:  # an older release, or one without torchao
        return
    yield from XNNPackRecipeType


def _registered(name: str) -> Any:
    from executorch.export import ExportRecipe

    kinds = {kind.name: kind for kind in _kinds()}
    if name not in kinds:
        raise InputError("unknown-name", unknown("recipe", name, kinds))
    return ExportRecipe.get_recipe(kinds[name])


def _of_recipe(name: str, make: Callable[[], Any]) -> Backend:
    recipe = make()
    for holder, fields in _LEFT_OUT.items():
        held = getattr(recipe, holder) if holder else recipe
        for field in fields:
            if getattr(held, field, None):
                raise InputError(
                    "unsupported-recipe",
                    f"{name} has {'.'.join(filter(None, (holder, field)))}, which the suite does not apply",
                )
    quantising: dict[str, Any] = {}
    quantisation = recipe.quantization_recipe
    if quantisation is not None and (quantisation.quantizers or quantisation.ao_quantization_configs):
        quantising = {"precision": AS_TORCH_DOES, "quantisation": _LEAST}
        if quantisation.ao_quantization_configs:
            quantising["prepare"] = functools.partial(_by_torchao, make)
        if quantisation.quantizers:
            quantising["requantise"] = functools.partial(_by_pt2e, make)
    return Backend(
        name,
        lambda: _partitioners(make()),
        FLOAT32_TOLERANCE,
        delegating=bool(_partitioners(recipe)),
        summary=f"ExecuTorch's recipe {recipe.name}" if recipe.name else "a recipe of ExecuTorch's kind",
        edge=lambda: getattr(make().lowering_recipe, "edge_compile_config", None) or checked_edge(),
        emission=lambda: _emission(make()),
        **quantising,
    )


def _partitioners(recipe: Any) -> list[Any]:
    given = getattr(recipe.lowering_recipe, "partitioners", None) or []
    return list(given.get("forward", [])) if isinstance(given, dict) else list(given)


def _emission(recipe: Any) -> Any:
    from executorch.exir import ExecutorchBackendConfig

    return copy.deepcopy(recipe.executorch_backend_config) or ExecutorchBackendConfig()


def _by_torchao(make: Callable[[], Any], model: Any) -> Any:
    prepared = copy.deepcopy(model)
    for each in make().quantization_recipe.ao_quantization_configs:
        quantised_by_torchao(prepared, each.ao_base_config, each.filter_fn)
    return prepared


def _by_pt2e(make: Callable[[], Any], *of_the_program: Any) -> Any:
    from torchao.quantization.pt2e.quantizer import ComposableQuantizer

    quantizers = make().quantization_recipe.quantizers
    quantizer = quantizers[0] if len(quantizers) == 1 else ComposableQuantizer(quantizers)
    return quantised_by_pt2e(quantizer, *of_the_program)
