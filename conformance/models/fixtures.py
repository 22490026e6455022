"""Fixtures made into models: `fixtures/configs/<model_type>.json` to a tiny, deterministic, discriminating model."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from conformance.core.errors import InputError
from conformance.core.files import architecture_file, read_regular_file
from conformance.core.paths import CONFIGS
from conformance.core.suggest import unknown
from conformance.models.tiny_config import tiny
from conformance.reference.transformers_api import PreTrainedConfig, declared_keys

#: Largest fixture that is read; they have 1 kB.
_MOST_BYTES = 4 << 20

#: Rows per call of every fixture program.
BATCH_SIZE = 1
#: Positions in the cache, in tokens: four times the fixtures' sliding window of 8, so that scripts wrap it often.
MAX_CACHE_LEN = 32
#: Token ids that end a text. Of the fixtures' 64 ids enough that greedy decoding meets one: a tiny model soon repeats
#: itself. A tokenizer knows of the first only; the others a runner can only have from the program.
EOS_IDS = (5, 12, 23, 34, 41, 58)
#: Gain of weight matrices over 1 / sqrt(fan-in). At 1, a fault moves deepseek_v3's logits by 55,000 tolerances and its
#: XNNPACK error is 2.6e-6 of their scale; at 1.5 that error is 6.0e-6, too near to the tolerance of 1e-5, and faults
#: show less. Transformers' own 0.02 would hide a cache that is all zero.
MATRIX_GAIN = 1.0
#: Standard deviation of what is added to biases, norm weights, sinks and gates, which start at a constant.
VECTOR_NOISE = 0.25
#: Keys that every config takes and none declares.
_CONFIG_KEYS = {"model_type", "per_layer_config"}
#: Keys by which a config can have Transformers fetch or import code: a kernel from the hub, a model's own module.
_CODE_KEYS = frozenset({"auto_map", "kernel_config", "name_or_path", "quantization_config", "use_kernels"})
_CODE_SUFFIXES = ("_implementation", "_implementation_internal")


class UnknownKeyError(InputError):
    """A fixture has a key that its config class does not know, and would keep and ignore; the message names it."""


def fixture_config(architecture: str, directory: Path = CONFIGS) -> PreTrainedConfig:
    """The architecture's tiny config, through Transformers' own config class.

    Raises:
        UnknownKeyError: A typo, or a key that the installed Transformers does not have yet or any more.
    """
    return config_of(_values(architecture, directory), f"{architecture}.json")


def config_of(values: dict[str, Any], source: str) -> PreTrainedConfig:
    """The config that `values` make, which `source` gave.

    Raises:
        UnknownKeyError: As `fixture_config` does.
    """
    config = AutoConfig.for_model(**values)
    stray = list(_stray_keys(config, values))
    if stray:
        raise UnknownKeyError("unknown-name", f"{source}: {', '.join(stray)}")
    return config


def has_fixture(architecture: str, directory: Path = CONFIGS) -> bool:
    """Whether there is a fixture for this architecture."""
    return architecture_file(directory, architecture).is_file()


def config_values(architecture: str) -> dict[str, Any]:
    """The source of the architecture's tiny config: its fixture or, if there is none, the first draft of one."""
    return _values(architecture, CONFIGS) if has_fixture(architecture) else drafted_values(architecture)


def drafted_values(architecture: str) -> dict[str, Any]:
    """The first draft of a fixture: the published config made tiny."""
    return {**tiny(default_config(architecture)), "model_type": architecture}


def default_config(architecture: str) -> PreTrainedConfig:
    """The config class's own defaults: the architecture as it is published, in size and in layer kinds."""
    return AutoConfig.for_model(architecture)


def build_model(
    config: PreTrainedConfig,
    max_cache_len: int = MAX_CACHE_LEN,
    *,
    batch_size: int = BATCH_SIZE,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A model in evaluation mode, with weights that depend on their names only.

    It asks for a static cache of `batch_size` rows and `max_cache_len` positions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a few vectors (the steps of Mamba) keep what their initialiser drew, plus noise
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    fill_weights(model)
    model.generation_config = GenerationConfig(
        use_cache=True,
        cache_implementation="static",
        cache_config={"batch_size": batch_size, "max_cache_len": max_cache_len},
        eos_token_id=list(EOS_IDS),
    )
    return model


def cache_length(model: PreTrainedModel) -> int:
    """Positions in the cache that the model asks for, in tokens."""
    return int(model.generation_config.cache_config["max_cache_len"])


def batch_size(model: PreTrainedModel) -> int:
    """Rows of the cache that the model asks for."""
    return int(model.generation_config.cache_config["batch_size"])


def code_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a config, or of a config within it, by which Transformers would fetch or import code."""
    for key, value in values.items():
        if key.lstrip("_") in _CODE_KEYS or key.endswith(_CODE_SUFFIXES):
            yield key
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, dict):
                yield from code_keys(part)


def fill_weights(model: PreTrainedModel) -> None:
    """Overwrite every weight and saved buffer with values of a healthy scale, the same on every machine and run.

    Upstream's initialisers leave zeros (biases, sinks, gates) and tiny values that no error can show through. Each
    tensor has a generator of its own, seeded by its name, so that adding a layer does not change the others.
    """
    with torch.no_grad():
        seen: set[int] = set()
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or tensor.data_ptr() in seen:  # tied weights appear twice
                continue
            seen.add(tensor.data_ptr())
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            if tensor.ndim < 2:
                tensor.add_(noise * VECTOR_NOISE)
            else:
                tensor.copy_(noise * (MATRIX_GAIN / tensor.shape[-1] ** 0.5))


def _stray_keys(config: PreTrainedConfig, values: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each key that the config class does not know."""
    kind = type(config)
    known = declared_keys(kind) | set(kind.attribute_map) | _CONFIG_KEYS
    with contextlib.suppress(Exception):  # some config classes refuse their own defaults, in ways of their own
        known |= set(vars(kind()))
    for key in values:
        if key not in known and not hasattr(kind, key):
            shown = [name for name in known if not name.startswith("_")]
            yield unknown(f"key of {kind.__name__}", key, shown)


def _values(architecture: str, directory: Path) -> dict[str, Any]:
    path = architecture_file(directory, architecture)
    try:
        values = json.loads(read_regular_file(path, _MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError("invalid-json", f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError("invalid-json", f"{path}: expected an object with the keys of a config")
    if values.get("model_type") != architecture:
        raise InputError("invalid-fixture", f"{path}: model_type is {values.get('model_type')!r}, not {architecture!r}")
    return values
