"""Deliberately faulty exporters that leave something behind: the program is the reference's, and EXP-8 must object.

Each is given the model, changes something, and returns what undoes that, for the sake of the tests that come after it;
it may be called several times before.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import _pytree
from transformers import PreTrainedModel, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from conformance.reference import convert_and_export_with_cache
from tests.faults.programs import Tensor

Undo = Callable[[], object]

_undo: list[Undo] = []


def undo() -> None:
    """Clean up after every fault of this module."""
    while _undo:
        _undo.pop()()


def _leaves(change: Callable[[PreTrainedModel], Undo]) -> Callable[..., ExportedProgram]:
    @functools.wraps(change)
    def export(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
        program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
        _undo.append(change(model))
        return program

    del export.__wrapped__  # the exporter's signature is what counts
    return export


def _removal(handle: Any) -> Undo:
    remove: Undo = handle.remove
    return remove


def _replaced(owner: Any, name: str, value: object) -> Undo:
    original = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, original)


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped


@_leaves
def leaves_a_hook(model: PreTrainedModel) -> Undo:
    """Looks at what a layer returns, for good."""
    return _removal(list(model.modules())[-1].register_forward_hook(lambda *_: None))


@_leaves
def leaves_a_hook_on_saving(model: PreTrainedModel) -> Undo:
    """Sees each checkpoint that is saved."""
    return _removal(list(model.modules())[-1].register_state_dict_post_hook(lambda *_: None))


@_leaves
def leaves_a_hook_on_a_weight(model: PreTrainedModel) -> Undo:
    """Sees each gradient of one weight."""
    return _removal(next(model.parameters()).register_hook(lambda gradient: gradient))


@_leaves
def leaves_a_global_hook(_model: PreTrainedModel) -> Undo:
    """Looks at what every module of the process returns."""
    return _removal(register_module_forward_hook(lambda *_: None))


@_leaves
def patches_a_layer(model: PreTrainedModel) -> Undo:
    """Wraps the forward of a class of Transformers, for all models of the process."""
    attention = next(type(module) for module in model.modules() if type(module).__name__.endswith("Attention"))
    return _replaced(attention, "forward", _wrapped(attention.forward))


@_leaves
def hides_an_inherited_method(model: PreTrainedModel) -> Undo:
    """Gives a class of Transformers a method of its own in place of the one that it inherits."""
    kind = type(model)
    kind.eval = _wrapped(PreTrainedModel.eval)  # type: ignore[method-assign]

    def put_back() -> None:
        if "eval" in vars(kind):
            del kind.eval

    return put_back


@_leaves
def patches_torch(_model: PreTrainedModel) -> Undo:
    """Wraps a function of torch."""
    return _replaced(functional, "silu", _wrapped(functional.silu))


@_leaves
def replaces_an_attention(_model: PreTrainedModel) -> Undo:
    """Registers its own function under the name of one that Transformers has."""
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _wrapped(original)
    return lambda: ALL_ATTENTION_FUNCTIONS.update(sdpa=original)


@_leaves
def turns_determinism_on(_model: PreTrainedModel) -> Undo:
    """Asks torch for deterministic algorithms."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    return lambda: torch.use_deterministic_algorithms(False)


@_leaves
def changes_the_default_dtype(_model: PreTrainedModel) -> Undo:
    """New tensors are of another dtype."""
    torch.set_default_dtype(torch.bfloat16)
    return lambda: torch.set_default_dtype(torch.float32)


@_leaves
def leaves_autocast_on(_model: PreTrainedModel) -> Undo:
    """Products are computed in half precision from now on."""
    torch.set_autocast_enabled("cpu", True)
    return lambda: torch.set_autocast_enabled("cpu", False)


@_leaves
def changes_a_setting_of_dynamo(_model: PreTrainedModel) -> Undo:
    """Lets TorchDynamo take integers for constants."""
    return _replaced(torch._dynamo.config, "specialize_int", not torch._dynamo.config.specialize_int)


@_leaves
def takes_more_threads(_model: PreTrainedModel) -> Undo:
    """Raises torch's number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    return lambda: torch.set_num_threads(threads)


@_leaves
def registers_a_pytree(_model: PreTrainedModel) -> Undo:
    """Tells torch how to take a cache apart."""
    if StaticCache in _pytree.SUPPORTED_NODES:
        return lambda: None
    _pytree.register_pytree_node(
        StaticCache, lambda cache: ([], cache), lambda _, cache: cache, serialized_type_name="conformance_tests.cache"
    )
    return lambda: _pytree._deregister_pytree_node(StaticCache)


@_leaves
def sets_a_variable(_model: PreTrainedModel) -> Undo:
    """Sets an environment variable that child processes inherit."""
    os.environ["TORCH_LOGS"] = "export"
    return lambda: os.environ.pop("TORCH_LOGS", None)
