"""From an exporter's name to the exporter."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.core.attention import PORTABLE
from conformance.core.contract import Mode
from conformance.core.dotted import imported
from conformance.core.errors import InputError
from conformance.core.exporter_names import ENVIRONMENTS, FILE, KNOWN
from conformance.core.suggest import unknown_exporter
from conformance.core.verdicts import NotApplicableError, Stage, at
from conformance.decoding.sessions import BufferDriver, Driver

ExportFunction = Callable[..., ExportedProgram]
#: The callable beside a module's exporter that makes the metadata for ExecuTorch's LLM runner; see `Exporter.metadata`.
METADATA = "runner_methods"


class UnknownExporterError(InputError):
    """No exporter has this name; the message lists the known ones."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """An exporter under test.

    Args:
        name: Its name in cells.
        export: With the signature of `convert_and_export_with_cache(model, example_input_ids=None,
            example_cache_position=None, *, dynamic_shapes=None, strict=...)`; the last two are optional.
        driver: How its programs are called.
        inapplicable: By id, the clauses that do not apply to it, and why.
        metadata: `metadata(model, *, dynamic: bool, max_seq_len: int | None = None, attention: str = "portable")` gives
            the constant methods that a program of that model is lowered with, by name; the last two arguments are
            optional. None where the exporter has none.
    """

    name: str
    export: ExportFunction
    driver: Driver = field(default_factory=BufferDriver)
    inapplicable: Mapping[str, str] = field(default_factory=dict)
    metadata: Callable[..., Mapping[str, Any]] | None = None

    def require(self, mode: Mode) -> None:
        """Raises `NotApplicableError` where the exporter cannot export in `mode`."""
        if mode is Mode.DYNAMIC:
            self.require_argument("dynamic_shapes")

    def require_argument(self, name: str) -> None:
        """Raises `NotApplicableError` where the exporter does not take the keyword argument `name`."""
        _require_argument(self.name, self.export, name)

    def require_clause(self, clause: str) -> None:
        """Raises `NotApplicableError` where the clause with this id does not apply to the exporter."""
        if clause in self.inapplicable:
            raise NotApplicableError(f"{self.name} {self.inapplicable[clause]}")

    def methods(
        self, model: PreTrainedModel, mode: Mode, longest: int | None = None, attention: str = PORTABLE
    ) -> dict[str, Any]:
        """The constant methods of the program of `model` in `mode`, by name.

        Args:
            model: The model that the program was exported from.
            mode: The program's mode.
            longest: The longest call, in tokens, where that is not the cache's length.
            attention: The attention that the program was exported with, one of `conformance.core.attention.ATTENTIONS`.
        """
        if self.metadata is None:
            return {}
        more: dict[str, Any] = {}
        if attention != PORTABLE:
            _require_argument(self.name, self.metadata, "attention")
            more["attention"] = attention
        if longest is not None and mode is Mode.DYNAMIC:
            _require_argument(self.name, self.metadata, "max_seq_len")
            more["max_seq_len"] = longest
        with at(Stage.EXPORT):
            return dict(self.metadata(model, dynamic=mode is Mode.DYNAMIC, **more))


def _require_argument(exporter: str, function: Callable[..., Any], name: str) -> None:
    parameters = inspect.signature(function).parameters.values()
    if not any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        raise NotApplicableError(f"{exporter} takes no {name}")


def of_a_file() -> Exporter:
    """What stands for the exporter of a program that is a `.pte` file: it exports nothing."""

    def export(*_: object, **__: object) -> ExportedProgram:
        raise NotApplicableError("the program is a file; nothing is exported")

    return Exporter(FILE, export)


def resolve(name: str) -> Exporter:
    """The exporter called `name`: a known name, or `package.module:callable`, where the callable may be an `Exporter`.

    Where the module has a callable `runner_methods` too, that is the exporter's metadata.

    Raises:
        UnknownExporterError: No such name, module or callable.
    """
    target = KNOWN.get(name, name)
    if ":" not in target:
        raise UnknownExporterError("unknown-name", unknown_exporter(name, KNOWN))
    hint = f"; it is in the environment of `{ENVIRONMENTS[name]}`" if name in ENVIRONMENTS else ""
    try:
        export = imported(target, "exporter", lambda value: isinstance(value, Exporter) or callable(value), hint)
    except InputError as error:
        raise UnknownExporterError(error.code, str(error)) from error
    if isinstance(export, Exporter):
        return dataclasses.replace(export, name=name)
    metadata: Any = getattr(sys.modules[target.partition(":")[0]], METADATA, None)
    return Exporter(name, export, metadata=metadata if callable(metadata) else None)
