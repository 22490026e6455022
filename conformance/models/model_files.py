"""The files of a model directory, by their names and the headers of its weights. Imports no torch, and runs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from conformance.core.commands import command
from conformance.core.errors import InputError
from conformance.core.files import read_regular_file
from conformance.core.text import first_few, plural

CONFIG, ADAPTER, ADAPTER_WEIGHTS = "config.json", "adapter_config.json", "adapter_model.safetensors"
#: The names by which Transformers looks for weights, in its order.
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
#: Largest config that is read; one with a rope factor for each dimension has 10 kB.
_MAX_CONFIG_BYTES = 4 << 20
#: Largest index that is read: 100 bytes a tensor, of which a mixture of experts has 100,000.
_MAX_INDEX_BYTES = 64 << 20
#: Names in a message before "and N more".
SHOWN = 3
_LFS = b"version https://git-lfs"
_LOAD = "AutoModelForCausalLM.from_pretrained"
#: Weights as Meta's and Mistral's own code reads them; Mistral puts them beside those for Transformers.
_OF_OTHERS = "consolidated*"
#: Files that are not weights as safetensors, by pattern, and what to do about them; the first that matches is named.
_FORMATS = (
    ("*.gguf", "is one of several GGUF files; pass the path of the one to export"),
    (
        _OF_OTHERS,
        "is in the format of Meta's and Mistral's own code; download the weights for Transformers, or convert it with "
        "convert_llama_weights_to_hf.py or convert_mistral_weights_to_hf.py of Transformers' repository",
    ),
    (
        "tf_model*.h5",
        f"is in TensorFlow's format; with Transformers 4: {_LOAD}(DIR, from_tf=True).save_pretrained(NEW_DIR)",
    ),
    (
        "flax_model*.msgpack",
        f"is in Flax's format; with Transformers 4: {_LOAD}(DIR, from_flax=True).save_pretrained(NEW_DIR)",
    ),
    *(
        (pattern, f"is a pickle, which can run code; if you trust it: {_LOAD}(DIR).save_pretrained(NEW_DIR)")
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt")
    ),
    (
        "*.pte",
        "is an exported program, for `conformance model chat`; export the model that it was made from",
    ),
    ("*.onnx", "is an ONNX program; export the model that it was made from"),
    ("*.tflite", "is a TensorFlow Lite program; export the model that it was made from"),
)


class CheckpointError(InputError):
    """A directory holds no checkpoint that can be exported; the message says why, and what to do."""


class Saved(NamedTuple):
    """A tensor in a file: its dtype as safetensors calls it, such as `BF16`, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_floating_point(self) -> bool:
        """Whether it can hold weights; masks and positions are booleans or integers."""
        return self.dtype.startswith(("F", "BF"))


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's weights as safetensors, of which only the headers have been read.

    Args:
        files: Those that Transformers reads.
        tensors: The tensors in them, by name.
        unread: Other safetensors in the directory, which Transformers does not read.
    """

    files: tuple[Path, ...] = ()
    tensors: Mapping[str, Saved] = field(default_factory=dict)
    unread: tuple[Path, ...] = ()


def read_object(path: Path, max_bytes: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        values = json.loads(read_regular_file(path, max_bytes))
    except OSError as error:
        raise CheckpointError.of_file(path, error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError("invalid-json", f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError("invalid-json", f"{path}: expected a JSON object")
    return values


def require_config(directory: Path) -> None:
    """Look for `config.json`.

    Raises:
        CheckpointError: There is none; the message has what the directory, or the file, holds instead.
    """
    if directory.is_file():
        raise CheckpointError("not-a-model", _of_file(directory))
    if not directory.is_dir():
        raise CheckpointError(
            "file-error",
            f"{directory}: no such directory; a model on the Hub is not downloaded: hf download NAME --local-dir DIR",
        )
    if (directory / CONFIG).exists():
        return
    if has_adapter(directory):
        raise CheckpointError("adapter-alone", _adapter_alone(directory))
    what = (
        _other_format(directory)
        or _models_below(directory)
        or "pass a directory as `model.save_pretrained(...)` writes it"
    )
    raise CheckpointError("not-a-model", f"{directory} has no {CONFIG}; {what}")


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that is the only model in a directory; None if there is none, or several."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf"))
    return files[0] if len(files) == 1 and not any(path.glob("*.safetensors")) else None


def read_weights(directory: Path, config: Mapping[str, Any]) -> Weights:
    """The weights that Transformers reads from `directory`.

    Raises:
        CheckpointError: There are none, or they are not complete.
    """
    name = config.get("transformers_weights") or next(
        (name for name in (_WHOLE, _INDEX) if (directory / name).is_file()), None
    )
    if name is None and has_adapter(directory):
        raise CheckpointError("adapter-alone", _adapter_alone(directory))
    if name is None:
        raise CheckpointError("no-weights", _without_weights(directory))
    index: Mapping[str, str] = {}
    files = [directory / str(name)]
    if str(name).endswith(".json"):
        index = _index(files[0])
        files = [directory / shard for shard in sorted(set(index.values()))]
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        source = name if index else CONFIG
        raise CheckpointError(
            "incomplete-weights", f"{directory}: {source} names {first_few(lacking, SHOWN)}, which does not exist"
        )
    tensors = {tensor: saved for file in files for tensor, saved in read_header(file).items()}
    absent = sorted(index.keys() - tensors.keys())
    if absent:
        raise CheckpointError(
            "incomplete-weights",
            f"{directory}: {name} lists {plural(len(absent), 'tensor')} that its files lack: "
            f"{first_few(absent, SHOWN)}",
        )
    unread = tuple(sorted({*directory.glob("*.safetensors")} - {*files, directory / ADAPTER_WEIGHTS}))
    _require_no_part_of_it(directory, str(name), tensors, unread)
    return Weights(tuple(files), tensors, unread)


def read_header(file: Path) -> dict[str, Saved]:
    """The tensors in a safetensors file, by name.

    Raises:
        CheckpointError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open  # comes with Transformers, without which nothing is exported

    try:
        with safe_open(str(file), framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: Saved(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        with file.open("rb") as start:
            is_pointer = start.read(len(_LFS)) == _LFS
        reason = "a Git LFS pointer; run `git lfs pull`" if is_pointer else f"damaged or cut off ({error})"
        raise CheckpointError("damaged-weights", f"{file}: {reason}") from error


def _index(path: Path) -> dict[str, str]:
    names = read_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError("invalid-weight-index", f"{path}: expected a weight_map, with the file of each tensor")
    strays = sorted({str(file) for file in names.values() if not isinstance(file, str) or Path(file).name != file})
    if strays:
        raise CheckpointError(
            "invalid-weight-index", f"{path}: {first_few(strays, SHOWN)} is not the name of a file in this directory"
        )
    return names


def _require_no_part_of_it(directory: Path, name: str, tensors: Mapping[str, object], unread: tuple[Path, ...]) -> None:
    """Refuse a file that holds more weights of the model. One of another format, such as Mistral's, has other names."""
    roots = {tensor.partition(".")[0] for tensor in tensors}
    for file in unread:
        more = [tensor for tensor in read_header(file) if tensor not in tensors and tensor.partition(".")[0] in roots]
        if more and not file.match(_OF_OTHERS):
            raise CheckpointError(
                "unread-weights",
                f"{directory}: {name} leaves out {file.name}, which holds {plural(len(more), 'tensor')} that no other "
                f"file has: {first_few(more, SHOWN)}; save the model again, or move the file if it belongs to "
                "another model",
            )


def _without_weights(directory: Path) -> str:
    named = sorted(path.name for path in directory.glob("*.safetensors"))
    if named and not any(Path(name).match(_OF_OTHERS) for name in named):
        return (
            f"{directory}: Transformers reads {_WHOLE} or {_INDEX}, and there is {first_few(named, SHOWN)}; rename it"
        )
    what = _other_format(directory) or _models_below(directory)
    return f"{directory}: no {_WHOLE}; {what or 'save it with `model.save_pretrained(...)`'}"


def _other_format(directory: Path) -> str | None:
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    for pattern, what in _FORMATS:
        for name in names:
            if Path(name).match(pattern):
                return f"{name} {what}"
    return None


def _models_below(directory: Path) -> str | None:
    # A trainer's checkpoints, and those of the Hub's cache.
    found = [path.parent for pattern in ("*", "snapshots/*") for path in directory.glob(f"{pattern}/{CONFIG}")]
    below = sorted(found, key=_by_number)
    if not below:
        return None
    names = [str(path.relative_to(directory)) for path in below]
    return f"there is one in {first_few(names, SHOWN)}; pass {below[-1]}"


def _by_number(path: Path) -> list[tuple[int, str]]:
    """`checkpoint-500` before `checkpoint-1000`."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]


def _of_file(path: Path) -> str:
    if path.suffix == ".pte":
        chat = command("model", "chat", str(path), "--tokenizer", "MODEL_DIR")
        return f"{path} is an exported program; to talk to it: {chat}"
    if path.suffix in (".safetensors", ".json"):
        return f"{path} is a file of a model; pass its directory, {path.parent}"
    for pattern, what in _FORMATS:
        if path.match(pattern):
            return f"{path} {what}"
    return f"{path} is a file; pass a directory as `model.save_pretrained(...)` writes it"


def _merging(base: str, adapter: str) -> str:
    return f"PeftModel.from_pretrained({_LOAD}({base!r}), {adapter!r}).merge_and_unload().save_pretrained('NEW_DIR')"


def has_adapter(directory: Path) -> bool:
    """Whether an adapter as peft saves it is in `directory`, or a part of one."""
    return any((directory / name).exists() for name in (ADAPTER, ADAPTER_WEIGHTS, "adapter_model.bin"))


def merging_by_hand(directory: Path) -> str:
    """The next step where a model and an adapter for it are in one directory.

    With peft installed, Transformers attaches an adapter that it finds beside a model, and peft would add it again.
    """
    merge = _merging(str(directory), "ADAPTER_DIR")
    return f"move adapter_* to ADAPTER_DIR, then export only the base, or merge it: {merge}"


def _adapter_alone(directory: Path) -> str:
    values = read_object(directory / ADAPTER) if (directory / ADAPTER).exists() else {}
    base = str(values.get("base_model_name_or_path") or "")
    return (
        f"{directory} holds only an adapter for {base or 'a base that it does not name'}; merge it: "
        f"{_merging(base or 'BASE_DIR', str(directory))}"
    )


def code_files(values: Mapping[str, Any]) -> Iterator[str]:
    """The Python files that a config names as its code, such as `modeling_own.py`."""
    classes = values.get("auto_map")
    for names in classes.values() if isinstance(classes, dict) else ():
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, str):
                yield f"{name.rpartition('--')[2].partition('.')[0]}.py"
