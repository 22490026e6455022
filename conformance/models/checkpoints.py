"""Checkpoints: models in directories as `save_pretrained` writes them. Reading a config imports no torch.

Nothing in a directory is run, and nothing is fetched: weights are read from safetensors alone, and the model is made by
Transformers' own code.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.core.commands import install_command
from conformance.core.suggest import unknown
from conformance.core.text import first_few
from conformance.matrix.discovery import is_architecture, registered
from conformance.models.model_files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    SHOWN,
    CheckpointError,
    Saved,
    Weights,
    code_files,
    gguf_file,
    has_adapter,
    merging_by_hand,
    read_object,
    read_weights,
    require_config,
)
from conformance.models.positions import reach

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["DTYPES", "WINDOWS", "Checkpoint", "CheckpointError", "load_model", "read_checkpoint"]

_TOKENIZER = "tokenizer.json"
_GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Keys of a config by which it chooses what computes it.
_IMPLEMENTATION_KEYS = frozenset(
    {
        *(f"{before}{what}_implementation" for what in ("attn", "experts") for before in ("", "_")),
        *(f"_{what}_implementation_internal" for what in ("attn", "experts")),
        *("use_kernels", "kernel_config", "fusion_config"),
    }
)
#: The values of these that need torch only and that torch.export traces.
_IMPLEMENTATIONS = frozenset({"eager", "sdpa", "grouped_mm", "batched_mm"})
#: Dtypes that programs can be exported in, and "auto", the one that the checkpoint was saved in.
DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Where the text decoder's own config is, in that of a model of several.
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
#: Names in configs for the number of tokens that a sliding or chunked layer looks back on.
WINDOWS = ("sliding_window", "attention_chunk_size", "sliding_window_size", "attention_window_size", "local_attention")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, and how it is to be exported.

    Args:
        directory: Holds `config.json` and the weights as safetensors.
        model_type: As Transformers registers it.
        max_cache_len: Positions in the static cache, in tokens.
        dtype: One of `DTYPES`.
        config: The text decoder's part of `config.json`.
        batch_size: Rows in a call.
        values: All of `config.json`, without the keys that choose what computes it.
        replaced: Those keys, each with what it names, such as `flash_attention_2`.
        weights: Its weights, of which only the headers have been read.
        gguf: The name of the GGUF file that it is in, if it is in one.
        notes: Notes for the user before it is loaded, one line each.
    """

    directory: Path
    model_type: str
    max_cache_len: int
    dtype: str
    config: Mapping[str, Any]
    batch_size: int = 1
    values: Mapping[str, Any] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)
    notes: tuple[str, ...] = ()
    gguf: str | None = None

    @property
    def path(self) -> Path:
        """The directory, or the GGUF file in it: what names the checkpoint."""
        return self.directory / self.gguf if self.gguf else self.directory

    @property
    def name(self) -> str:
        """The directory's name, or that of the GGUF file, without characters that separate the parts of a cell's id."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.path.name.removesuffix(".gguf")).lstrip(".-")[:100] or "checkpoint"

    @property
    def windows(self) -> tuple[int, ...]:
        """The lengths of its sliding or chunked layers' windows, in tokens, ascending."""
        if self.config.get("use_sliding_window") is False:  # Qwen2 names a window that it does not use
            return ()
        return tuple(sorted({size for name in WINDOWS if isinstance(size := self.config.get(name), int) and size > 0}))

    @property
    def saved_dtype(self) -> str:
        """The dtype that the weights were saved in, from the config."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def context(self) -> int | None:
        """The longest text that the model was made for, in tokens; None if its config does not have it."""
        longest = reach(self.model_type, self.config)
        return longest.tokens if longest else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk."""
        return sum(path.stat().st_size for path in self.weights.files)


def read_checkpoint(directory: Path, max_cache_len: int, dtype: str = "auto", batch_size: int = 1) -> Checkpoint:
    """The checkpoint in `directory`, of which only the config and the headers of its weights are read.

    Raises:
        CheckpointError: It holds no model that can be exported, or `max_cache_len` is longer than the model allows.
    """
    directory = directory.absolute()
    if gguf := gguf_file(directory):
        checkpoint = _read_gguf(gguf, max_cache_len, dtype)
    else:
        checkpoint = _read_directory(directory, max_cache_len, dtype)
    checkpoint = replace(checkpoint, batch_size=batch_size)
    longest = reach(checkpoint.model_type, checkpoint.config)
    if longest is not None and max_cache_len > longest.tokens:
        raise CheckpointError(
            "cache-too-long",
            f"a cache of {max_cache_len} tokens is longer than {longest.what}; use at most {longest.tokens}",
        )
    return dataclasses.replace(checkpoint, notes=(*checkpoint.notes, *_note_on_memory(checkpoint)))


def _read_directory(directory: Path, max_cache_len: int, dtype: str) -> Checkpoint:
    require_config(directory)
    values = read_object(directory / CONFIG)
    _require_float_decoder(directory, values)
    weights = read_weights(directory, values)
    if has_adapter(directory):
        _require_applicable(directory)
    values, replaced = without_implementations(values)
    text = next((values[part] for part in _TEXT_PARTS if isinstance(values.get(part), dict)), values)
    return Checkpoint(
        directory,
        str(values["model_type"]),
        max_cache_len,
        dtype,
        text,
        values=values,
        replaced=replaced,
        weights=weights,
        notes=tuple(_notes_on_files(directory, values, weights)),
    )


def _read_gguf(file: Path, max_cache_len: int, dtype: str) -> Checkpoint:
    """A GGUF file, which holds its own config. Transformers reads that with torch."""
    lacking = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if lacking:
        raise CheckpointError(
            "missing-package",
            f"{file.name} is a GGUF file, which Transformers reads with {' and '.join(lacking)} installed: "
            f"{install_command(*lacking)}",
        )
    if has_adapter(file.parent):
        raise CheckpointError(
            "adapter-not-merged",
            f"{file.parent} holds an adapter beside {file.name}; move one of them to its own directory",
        )
    from gguf import GGUFReader
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
        read = GGUFReader(file).tensors
    except (
        Exception
    ) as error:  # whatever the two packages raise of a file that is damaged, or of a model unknown to them
        raise CheckpointError(
            "model-not-loaded", f"{file}: Transformers cannot read this GGUF file: {error}"
        ) from error
    if config.model_type not in registered():
        raise CheckpointError("unknown-name", f"{file}: {unknown('model_type', config.model_type, registered())}")
    tensors = {part.name: Saved(part.tensor_type.name, tuple(map(int, part.shape))) for part in read}
    values = config.to_dict()
    kinds = sorted({saved.dtype for saved in tensors.values()})
    note = f"{file.name} holds {', '.join(kinds)}: its weights are quantised already, and are used as they are"
    return Checkpoint(
        file.parent,
        config.model_type,
        max_cache_len,
        dtype,
        values,
        values=values,
        weights=Weights((file,), tensors),
        notes=(note,) if {*kinds} - {"F32", "F16", "BF16"} else (),
        gguf=file.name,
    )


def load_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model with its weights, in evaluation mode; its generation config asks for a static cache of that size.

    Raises:
        CheckpointError: As `conformance.models.loading.load_checkpoint` does.
    """
    from conformance.models.loading import load_checkpoint  # imports torch

    return load_checkpoint(checkpoint).model


def _require_float_decoder(directory: Path, values: Mapping[str, Any]) -> None:
    """Refuse models that Transformers has no decoder for, and quantised ones."""
    path, model_type = directory / CONFIG, values.get("model_type")
    if model_type not in registered():
        code = ", ".join(sorted({*code_files(values)}))
        if code:
            raise CheckpointError(
                "model-is-code",
                f"{path}: the model {str(model_type)!r} is defined by code ({code}), which is not run, and the "
                "installed Transformers has no class for it; try a newer release",
            )
        if model_type is None:
            raise CheckpointError(
                "no-model-type", f"{path} has no model_type, such as 'llama'; save the model with Transformers"
            )
        if isinstance(model_type, str) and is_architecture(model_type):
            raise CheckpointError(
                "not-causal", f"{path}: Transformers has no causal language model of type {model_type}"
            )
        raise CheckpointError("unknown-name", f"{path}: {unknown('model_type', str(model_type), registered())}")
    for part in (values, *(part for part in values.values() if isinstance(part, dict))):
        if quantised := part.get("quantization_config"):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else None
            raise CheckpointError(
                "already-quantised",
                f"{path}: the model is already quantised{f', by {method}' if method else ''}; backends need float "
                "weights: AutoModelForCausalLM.from_pretrained(DIR).dequantize().save_pretrained(NEW_DIR), with the "
                "packages of its quantisation installed",
            )
    if values.get("is_encoder_decoder"):
        raise CheckpointError(
            "encoder-decoder",
            f"{path}: {model_type} is an encoder-decoder model (is_encoder_decoder); save its decoder as a causal "
            "language model",
        )


def _require_applicable(directory: Path) -> None:
    """Refuse an adapter beside the model that cannot be merged here: without it, it is another model."""
    lacking = [name for name in (ADAPTER, ADAPTER_WEIGHTS) if not (directory / name).is_file()]
    if lacking:
        problem = f"{directory} holds a model and an adapter for it without {' and '.join(lacking)}"
        raise CheckpointError("adapter-not-merged", f"{problem}; {merging_by_hand(directory)}")
    if not has_peft():
        raise CheckpointError(
            "adapter-not-merged",
            f"{directory} holds a model and an adapter for it ({ADAPTER_WEIGHTS}). With peft installed it is merged: "
            f"{install_command('peft')}; or {merging_by_hand(directory)}",
        )


def has_peft() -> bool:
    """Whether adapters can be merged here."""
    return importlib.util.find_spec("peft") is not None


def _notes_on_files(directory: Path, values: Mapping[str, Any], weights: Weights) -> Iterator[str]:
    code = ", ".join(sorted({*code_files(values)}))
    if code:
        yield f"{CONFIG} names code ({code}), which is not run; Transformers' own {values['model_type']} is used"
    below = sorted(path.parent.name for path in directory.glob(f"*/{ADAPTER}"))
    if below:
        yield f"{first_few(below, SHOWN)}: an adapter in a folder below the model, which is not applied"
    if weights.unread:
        names = first_few([path.name for path in weights.unread], SHOWN)
        yield f"{names}: not read; Transformers reads {first_few([path.name for path in weights.files], SHOWN)}"


def without_implementations(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A config without the keys that choose what computes it, other than what torch alone has; and those keys.

    They are about the machine that it was saved on. Some are not installed here, some would be fetched as code.
    """
    kept: dict[str, Any] = {}
    replaced: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key.endswith("_config") and key not in _IMPLEMENTATION_KEYS:
            kept[key], inner = without_implementations(value)
            replaced |= inner
        elif key not in _IMPLEMENTATION_KEYS or (isinstance(value, str) and value in _IMPLEMENTATIONS):
            kept[key] = value
        elif value:
            replaced[key.lstrip("_")] = value if isinstance(value, str) else json.dumps(value)
    return kept, replaced


def _note_on_memory(checkpoint: Checkpoint) -> Iterator[str]:
    computes = checkpoint.saved_dtype if checkpoint.dtype == "auto" else checkpoint.dtype
    needed = sum(math.prod(saved.shape) for saved in checkpoint.weights.tensors.values()) * _BYTES.get(computes, 4)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        yield (
            f"its weights are {needed / _GIB:.0f} GiB in {computes}, and this machine has {memory / _GIB:.0f} GiB of "
            "memory; it may run out, and the process end without a message"
        )
