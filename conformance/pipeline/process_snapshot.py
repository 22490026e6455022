"""The state of the process that exporting must leave alone (EXP-8): patches, settings, registered pytrees, environment.

What comes with a module that was imported in between was not left behind by an exporter: names that a module did not
have before, settings of a new module, pytrees of types of a new module. Functions, classes and methods are compared by
identity, so what was put back has not changed.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo.config
import torch._export.config
import torch._functorch.config
from torch.nn.modules import module as nn_module
from torch.utils import _pytree
from torch.utils._config_module import ConfigModule
from transformers.utils.generic import GeneralInterface

#: Packages whose functions, classes and methods are compared, and parts of them that no export reaches.
_WATCHED = ("torch", "transformers")
_UNWATCHED = (
    *("torch._inductor", "torch.compiler._cache", "torch.distributed", "torch.onnx"),
    *("torch.testing", "torch.ao", "torch.cuda"),
)
#: What torch itself puts elsewhere when a setting changes: this one with the default dtype.
_FOLLOWING = frozenset({"torch.Storage"})
#: Where the code of TorchDynamo is.
_DYNAMO = f"{Path(torch.__file__).parent / '_dynamo'}{os.sep}"
_GONE = "absent"
#: Values that a message shows.
_READABLE = (bool, int, float, str, torch.dtype, torch.device)


@dataclass(frozen=True, slots=True)
class ProcessSnapshot:
    """What exporting must leave alone of its process.

    Args:
        functions: Of each namespace, its module's name or its class, itself, and the names and values that it had.
        facts: Everything else, by kind and by a name for readers.
        modules: The names of the modules that had been imported.
    """

    functions: Sequence[tuple[str | type, Mapping[str, object], Mapping[str, object]]]
    facts: Mapping[tuple[str, str], object]
    modules: frozenset[str]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was.

    Args:
        kind: "model", "hooks", "patches", "settings", "pytrees" or "environment".
        text: What changed, for readers.
    """

    kind: str
    text: str


def process_snapshot() -> ProcessSnapshot:
    """The process as it is now."""
    functions = [(owner, namespace, dict(namespace)) for owner, namespace in _namespaces()]
    return ProcessSnapshot(functions, dict(_facts()), frozenset(sys.modules))


def process_changes(before: ProcessSnapshot) -> list[Change]:
    """What is not as it was `before`."""
    after = dict(_facts())
    changes = [Change("patches", f"{name} is patched") for name in _patched(before)]
    for kind, name in {**before.facts, **after}:
        was, now = before.facts.get((kind, name), _GONE), after.get((kind, name), _GONE)
        if was != now and (was != _GONE or _is_left_behind(kind, now, before.modules)):
            changes.append(Change(kind, _words(kind, name, was, now)))
    return changes


def _is_left_behind(kind: str, now: object, modules: frozenset[str]) -> bool:
    """Whether something new comes of the export and not of a module that it was the first to import."""
    if kind == "pytrees":
        return isinstance(now, type) and now.__module__ in modules
    return kind != "settings"


def _namespaces() -> Iterator[tuple[str | type, Mapping[str, object]]]:
    classes: dict[type, None] = {}
    interfaces: dict[int, tuple[str, Mapping[str, object]]] = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or not _is_watched(name):
            continue
        yield name, vars(module)
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type):
                classes[value] = None
            elif isinstance(value, GeneralInterface):
                interfaces[id(value)] = f"{name}.{attribute}", value
    yield from interfaces.values()
    for kind in classes:
        if _is_watched(kind.__module__):
            yield kind, vars(kind)


def _is_watched(module: str) -> bool:
    return module.partition(".")[0] in _WATCHED and not module.startswith(_UNWATCHED)


def _patched(before: ProcessSnapshot) -> Iterator[str]:
    for owner, namespace, held in before.functions:
        for name in _replaced(owner, namespace, held):
            if not _is_torchs_own(f"{_name(owner)}.{name}", namespace.get(name)):
                yield f"{_name(owner)}.{name}"


def _replaced(owner: str | type, namespace: Mapping[str, object], held: Mapping[str, object]) -> Iterator[str]:
    for name, was in held.items():
        if namespace.get(name) is not was and _is_function(was):
            yield name
    # An import gives a class no new names. What hides an inherited method is a patch, unless it is the method.
    if isinstance(owner, type) and len(namespace) > len(held):
        for name in namespace.keys() - held.keys():
            value = namespace[name]
            if _is_function(value) and not any(vars(base).get(name) is value for base in owner.__mro__[1:]):
                yield name


def _is_torchs_own(name: str, now: object) -> bool:
    """Whether torch itself puts `now` there: TorchDynamo wraps some when it first compiles, for any exporter."""
    file = getattr(getattr(now, "__code__", None), "co_filename", "")
    return name in _FOLLOWING or (name.startswith("torch.") and file.startswith(_DYNAMO))


def _name(owner: str | type) -> str:
    return owner if isinstance(owner, str) else f"{owner.__module__}.{owner.__qualname__}"


def _is_function(value: object) -> bool:
    return callable(value) or isinstance(value, classmethod | staticmethod | property)


def _facts() -> Iterator[tuple[tuple[str, str], object]]:
    for hooks in (name for name in vars(nn_module) if name.startswith("_global") and name.endswith("hooks")):
        yield ("hooks", f"torch.nn.modules.module.{hooks}"), tuple(getattr(nn_module, hooks).values())
    for name, value in _settings():
        yield ("settings", name), value
    for kind in _pytree.SUPPORTED_NODES:
        yield ("pytrees", f"pytree of {kind.__module__}.{kind.__qualname__}"), kind
    for name, variable in os.environ.items():
        yield ("environment", f"environment variable {name}"), variable
    yield ("environment", "working directory"), os.getcwd()
    yield ("environment", "sys.path"), tuple(sys.path)


def _settings() -> Iterator[tuple[str, object]]:
    yield "inference mode", torch.is_inference_mode_enabled()
    yield "anomaly mode", (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
    yield "default dtype", torch.get_default_dtype()
    yield "default device", torch.get_default_device()
    yield "deterministic algorithms", torch.are_deterministic_algorithms_enabled()
    yield "deterministic algorithms, warnings only", torch.is_deterministic_algorithms_warn_only_enabled()
    yield "deterministic algorithms, filled memory", torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield "float32 matmul precision", torch.get_float32_matmul_precision()
    yield "threads", (torch.get_num_threads(), torch.get_num_interop_threads())
    for device in ("cpu", "cuda"):
        yield f"autocast on {device}", torch.is_autocast_enabled(device)
        yield f"autocast dtype on {device}", torch.get_autocast_dtype(device)
    yield "autocast cache", torch.is_autocast_cache_enabled()
    yield "function modes entered", torch._C._len_torch_function_stack()
    yield "dispatch modes entered", torch._C._len_torch_dispatch_stack()
    for name, value in _backend_flags():
        yield name, value
    for module in [module for module in list(sys.modules.values()) if isinstance(module, ConfigModule)]:
        for name, value in module.get_config_copy().items():
            yield f"{module.__name__}.{name}", value
    yield "Python's random state", random.getstate()
    kind, keys, *rest = np.random.get_state()
    yield "NumPy's random state", (kind, np.asarray(keys).tobytes(), *rest)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            yield f"logger {logger.name}", (logger.level, logger.disabled, logger.propagate)


def _backend_flags() -> Iterator[tuple[str, object]]:
    cuda = torch.backends.cuda
    for name in ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp"):
        yield f"torch.backends.cuda.{name}", getattr(cuda, f"{name}_enabled")()
    yield "torch.backends.mha.fastpath", torch.backends.mha.get_fastpath_enabled()
    for backend, flags in (
        ("cudnn", ("enabled", "deterministic", "benchmark")),
        ("mkldnn", ("enabled", "deterministic")),
    ):
        for flag in flags:
            yield f"torch.backends.{backend}.{flag}", getattr(getattr(torch.backends, backend), flag)


def _words(kind: str, name: str, was: Any, now: Any) -> str:
    if kind == "pytrees":
        return f"{name} {'registered' if was == _GONE else 'removed'}"
    # Not the values of environment variables: some are secrets, and records are published.
    if kind == "settings" and all(isinstance(value, _READABLE) for value in (was, now)):
        return f"{name}: {was} → {now}"
    return name
