"""Other methods for some modules of a model, while it runs to be traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced_methods(replacements: Mapping[nn.Module, Mapping[str, Callable[..., Any]]]) -> Iterator[None]:
    """Replace methods of single modules, not of their classes; undone on exit.

    Args:
        replacements: By module and the method's name, what is called instead, without the module as first argument.
    """
    # A module may have methods of its own already: accelerate's hooks replace `forward`.
    own = {
        module: {name: vars(module)[name] for name in vars(module).keys() & methods.keys()}
        for module, methods in replacements.items()
    }
    try:
        for module, methods in replacements.items():
            vars(module).update(methods)
        yield
    finally:
        for module, methods in replacements.items():
            for name in methods:
                vars(module).pop(name, None)
            vars(module).update(own[module])
