"""Checkpoints: models in directories as `save_pretrained` writes them. Reading a config imports no torch.

Nothing in a directory is run, and nothing is fetched: weights are read from safetensors alone, and the model is made by
Transformers' own code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.core.files import read_regular_file
from conformance.core.suggest import unknown
from conformance.matrix.discovery import registered
from conformance.models.positions import reach

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
#: Largest config that is read; one with a rope factor for each dimension has 10 kB.
_MOST_BYTES = 4 << 20
#: Dtypes that programs can be exported in, and "auto", the one that the checkpoint was saved in.
DTYPES = ("auto", "float32", "bfloat16", "float16")
#: Where the text decoder's own config is, in that of a model of several.
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
#: What configs call the number of tokens that a sliding or chunked layer looks back on.
WINDOWS = ("sliding_window", "attention_chunk_size", "sliding_window_size", "attention_window_size", "local_attention")


class CheckpointError(ValueError):
    """A directory holds no checkpoint that can be exported; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, and how it is to be exported.

    Args:
        directory: Holds `config.json` and the weights as safetensors.
        model_type: As Transformers registers it.
        max_cache_len: Positions in the static cache, in tokens.
        dtype: One of `DTYPES`.
        config: What `config.json` says of the text decoder.
    """

    directory: Path
    model_type: str
    max_cache_len: int
    dtype: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The directory's name, without characters that separate the parts of a cell's id."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.directory.name).lstrip(".-")[:100] or "checkpoint"

    @property
    def tokenizer(self) -> Path | None:
        """The directory with the model's tokenizer, if there is one that ExecuTorch's runner can read."""
        return self.directory if (self.directory / _TOKENIZER).is_file() else None

    @property
    def windows(self) -> tuple[int, ...]:
        """The lengths of its sliding or chunked layers' windows, in tokens, ascending."""
        if self.config.get("use_sliding_window") is False:  # Qwen2 names a window that it does not use
            return ()
        return tuple(sorted({size for name in WINDOWS if isinstance(size := self.config.get(name), int) and size > 0}))

    @property
    def saved_dtype(self) -> str:
        """The dtype that the weights were saved in, as the config says."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "float32")

    @property
    def context(self) -> int | None:
        """The longest text that the model was made for, in tokens; None where its config does not say."""
        longest = reach(self.model_type, self.config)
        return longest.tokens if longest else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk."""
        return sum(path.stat().st_size for path in self.directory.glob("*.safetensors"))


def read_checkpoint(directory: Path, max_cache_len: int, dtype: str = "auto") -> Checkpoint:
    """The checkpoint in `directory`, of which only the config is read.

    Raises:
        CheckpointError: It holds no model that can be exported, or `max_cache_len` is longer than the model allows.
    """
    directory = directory.absolute()
    values = _object(directory)
    model_type = values.get("model_type")
    if model_type not in registered():
        raise CheckpointError(f"{directory / _CONFIG}: {unknown('model_type', str(model_type), registered())}")
    if values.get("quantization_config"):
        raise CheckpointError(f"{directory / _CONFIG}: the model is quantised already; backends need one of floats")
    if not any(directory.glob("*.safetensors")):
        pickled = next(iter(sorted(directory.glob("*.bin"))), None)
        reason = f"{pickled.name} is a pickle, which is code; " if pickled else ""
        raise CheckpointError(f"{directory}: no *.safetensors; {reason}save it with `model.save_pretrained(...)`")
    text = next((values[part] for part in _TEXT_PARTS if isinstance(values.get(part), dict)), values)
    checkpoint = Checkpoint(directory, str(model_type), max_cache_len, dtype, text)
    longest = reach(checkpoint.model_type, checkpoint.config)
    if longest is not None and max_cache_len > longest.tokens:
        raise CheckpointError(f"a cache of {max_cache_len} tokens is longer than {longest.what}; take at most that")
    return checkpoint


def load_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model with its weights, in evaluation mode; its generation config asks for a static cache of one row.

    Raises:
        CheckpointError: Weights are missing or do not fit, or the config is not one of its class.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    dtype = "auto" if checkpoint.dtype == "auto" else getattr(torch, checkpoint.dtype)
    load: Any = AutoModelForCausalLM.from_pretrained
    untrusted = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    try:
        model, info = load(str(checkpoint.directory), dtype=dtype, output_loading_info=True, **untrusted)
    except Exception as error:  # whatever a config class, safetensors or torch raises
        raise CheckpointError(f"{checkpoint.directory}: {type(error).__name__}: {error}") from error
    lacking = sorted(info["missing_keys"])
    if lacking or info["mismatched_keys"]:
        wrong = ", ".join([*lacking, *(str(key) for key in info["mismatched_keys"])][:5])
        raise CheckpointError(f"{checkpoint.directory}: weights that are missing or of another shape: {wrong}")
    model.eval()
    model.generation_config = GenerationConfig(
        **dict(_kept(model.generation_config)),
        use_cache=True,
        cache_implementation="static",
        cache_config={"batch_size": 1, "max_cache_len": checkpoint.max_cache_len},
    )
    loaded: PreTrainedModel = model
    return loaded


def _kept(generation: Any) -> Iterator[tuple[str, Any]]:
    """Of the checkpoint's generation config, what says where a text begins and ends."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(generation, name, None)
        if value is not None:
            yield name, value


def _object(directory: Path) -> dict[str, Any]:
    path = directory / _CONFIG
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory")
    try:
        values = json.loads(read_regular_file(path, _MOST_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; a checkpoint has one") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object with the keys of a config")
    return values
