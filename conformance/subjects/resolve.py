"""From a subject's name to something that exports."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.contract import Mode
from conformance.subjects import KNOWN
from conformance.suggest import unknown
from conformance.verdicts import NotApplicableError, Stage, at

ExportFunction = Callable[..., ExportedProgram]
#: What a module offers beside its exporter for programs to run in ExecuTorch's LLM runner; see `Subject.metadata`.
METADATA = "runner_methods"


class UnknownSubjectError(ValueError):
    """There is no such subject; the message says what there is."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An exporter under test.

    `export` has the signature of `convert_and_export_with_cache(model, example_input_ids=None,
    example_cache_position=None, *, dynamic_shapes=None, strict=...)`; the last two are optional.

    `metadata(model, *, dynamic: bool)` gives the constant methods that a program of that model is lowered with, by
    name; None where the subject has none.
    """

    name: str
    export: ExportFunction
    metadata: Callable[..., Mapping[str, Any]] | None = None

    def require(self, mode: Mode) -> None:
        """Raises `NotApplicableError` where the exporter has no way to be asked for `mode`."""
        parameters = inspect.signature(self.export).parameters.values()
        takes = any(p.name == "dynamic_shapes" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        if mode is Mode.DYNAMIC and not takes:
            raise NotApplicableError(f"{self.name} takes no dynamic_shapes")

    def methods(self, model: PreTrainedModel, mode: Mode) -> dict[str, Any]:
        """The constant methods of the program of `model` in `mode`, by name."""
        if self.metadata is None:
            return {}
        with at(Stage.EXPORT):
            return dict(self.metadata(model, dynamic=mode is Mode.DYNAMIC))


def resolve(name: str) -> Subject:
    """The subject called `name`: a known name, or `package.module:callable`.

    Where the module has a callable `runner_methods` too, that is the subject's metadata.

    Raises:
        UnknownSubjectError: No such name, module or callable.
    """
    target = KNOWN.get(name, name)
    module_name, colon, attribute = target.partition(":")
    if not colon:
        raise UnknownSubjectError(f"{unknown('subject', name, KNOWN)}, or write package.module:callable")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UnknownSubjectError(f"no subject {name!r}: {error}") from error
    export: Any = getattr(module, attribute, None)
    if not callable(export):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownSubjectError(f"{module_name}: {unknown('callable', attribute, public)}")
    metadata: Any = getattr(module, METADATA, None)
    return Subject(name, export, metadata if callable(metadata) else None)
