"""Load a checkpoint's weights, all of them: what Transformers would leave out without an error is refused or named."""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from conformance.core.text import first_few, plural
from conformance.models.checkpoints import Checkpoint, without_implementations
from conformance.models.model_files import (
    ADAPTER_WEIGHTS,
    CONFIG,
    SHOWN,
    CheckpointError,
    Saved,
    has_adapter,
    merging_by_hand,
    read_header,
)
from conformance.reference.transformers_api import declared_keys

#: Names of modules in models of several parts that hold the text decoder.
_DECODER_PARTS = frozenset({"language_model", "text_model"})

#: Last parts of names of tensors that are computed from the config: old releases saved them as buffers.
_COMPUTED = frozenset({"inv_freq", "cos_cached", "sin_cached", "masked_bias", "position_ids"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its weights.

    Args:
        model: In evaluation mode; its generation config asks for a static cache of one row.
        notes: Notes on how it was loaded, one line each, those of the checkpoint among them.
    """

    model: PreTrainedModel
    notes: tuple[str, ...]


class _Unexpected(NamedTuple):
    """Keys in the files that the model does not have: weights that it would lose, and those of parts beside it."""

    lost: set[str]
    outside: set[str]


def load_checkpoint(checkpoint: Checkpoint) -> Loaded:
    """Load the model. No code of the directory is run, and nothing is fetched.

    Raises:
        CheckpointError: Weights are missing, unknown to the model, of another shape, or not finite; an adapter
            cannot be merged; the model sees later tokens; or Transformers cannot read it.
    """
    try:
        config = _config(checkpoint)
        model, info = _from_pretrained(checkpoint, config)
    except Exception as error:  # whatever a config class, safetensors or torch raises
        gaps = _missing_of_experts(checkpoint.weights.tensors)
        what = f"{plural(len(gaps), 'weight')} missing: {_first(gaps)}" if gaps else f"{type(error).__name__}: {error}"
        raise CheckpointError("model-not-loaded", f"{checkpoint.directory}: {what}") from error
    unexpected = _unexpected(checkpoint, model, config, info["unexpected_keys"])
    _require_all(checkpoint, config, model, info, unexpected.lost)
    _require_one_head(checkpoint, model)
    merged = _with_adapter(checkpoint, model) if has_adapter(checkpoint.directory) else None
    model = merged.model if merged else model
    _require_finite(checkpoint, model)
    model.eval()
    model.config.name_or_path = str(checkpoint.directory)
    _require_causal(checkpoint, model)
    model.generation_config = GenerationConfig(
        **dict(_kept(model.generation_config)),
        use_cache=True,
        cache_implementation="static",
        cache_config={"batch_size": checkpoint.batch_size, "max_cache_len": checkpoint.max_cache_len},
    )
    notes = [
        *checkpoint.notes,
        *_notes_on_replaced(checkpoint, model),
        *(merged.notes if merged else ()),
        *_note_on_parts(model, unexpected.outside),
    ]
    return Loaded(model, tuple(notes))


def _config(checkpoint: Checkpoint) -> Any:
    kind: Any = CONFIG_MAPPING[checkpoint.model_type]
    values = checkpoint.values
    if not checkpoint.gguf:  # as Transformers reads it: among others, infinity has a notation of its own
        values = without_implementations(kind.get_config_dict(str(checkpoint.directory), local_files_only=True)[0])[0]
    return kind.from_dict(dict(values))


def _from_pretrained(checkpoint: Checkpoint, config: Any) -> tuple[Any, dict[str, Any]]:
    """Transformers' model, and its report on the keys."""
    options: dict[str, Any] = {
        "config": config,
        "dtype": "auto" if checkpoint.dtype == "auto" else getattr(torch, checkpoint.dtype),
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # so that all are named, and not by a traceback
    }
    load: Any = AutoModelForCausalLM.from_pretrained
    if checkpoint.gguf:
        return _from_gguf(load, checkpoint, options)
    with tempfile.TemporaryDirectory() as base:
        directory = checkpoint.directory
        if has_adapter(directory):
            # Where peft is installed, Transformers would attach the adapter, and not merge it.
            directory = Path(base)
            for path in checkpoint.directory.iterdir():
                if not path.name.startswith("adapter_"):
                    (directory / path.name).symlink_to(path)
        loaded: tuple[Any, dict[str, Any]] = load(str(directory), **options)
        return loaded


def _from_gguf(load: Any, checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    kind = getattr(transformers, "GgufConfig", None)
    if kind is not None:  # otherwise it would keep blocks, and fetch kernels for them where `kernels` is installed
        options["quantization_config"] = kind(dequantize=True)
    model, info = load(str(checkpoint.directory), gguf_file=checkpoint.gguf, **options)
    for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(holder, name):  # it is a model of floats now
            delattr(holder, name)
    model.is_quantized = False
    return model, info


def _unexpected(checkpoint: Checkpoint, model: PreTrainedModel, config: Any, keys: Collection[str]) -> _Unexpected:
    tensors = checkpoint.weights.tensors
    unplaced = {key for key in keys if _holds_weights(key, tensors.get(key), model)}
    modules: set[str] = set()
    if type(model.config) is not type(config):  # the text decoder alone
        modules = {name for name, _ in model.named_modules()} - {"", model.base_model_prefix}
    outside = {
        key
        for key in unplaced
        if (modules and not _is_of_decoder(key, modules)) or _predicts_more_tokens(key, checkpoint.config)
    }
    # What the class itself declares as left out, Transformers does not report.
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    present = model.state_dict()
    ignored = {
        name
        for name, saved in tensors.items()
        if name not in present
        and any(re.search(pattern, name) for pattern in patterns)
        and _holds_weights(name, saved, model)
    }
    return _Unexpected(unplaced - outside, outside | ignored)


def _holds_weights(name: str, saved: Saved | None, model: PreTrainedModel) -> bool:
    """Whether a tensor in a file was learned. Old releases saved what is computed too, as buffers."""
    if name.rpartition(".")[2] in _COMPUTED or any(name == buffer for buffer, _ in model.named_buffers()):
        return False
    if saved is None:
        return True
    is_mask = name.endswith(".bias") and len(saved.shape) == 4  # GPT-2's causal mask, [1, 1, positions, positions]
    return saved.is_floating_point and not is_mask


def _is_of_decoder(key: str, modules: Collection[str]) -> bool:
    """Whether a key of a model of several parts is one of the text decoder's."""
    parts = key.split(".")
    below = (".".join(parts[:length]) for length in range(1, len(parts)))
    return not _DECODER_PARTS.isdisjoint(parts) or any(prefix in modules for prefix in below)


def _predicts_more_tokens(key: str, config: Mapping[str, Any]) -> bool:
    """Whether a key is of a layer after the last that predicts further tokens, as the config declares (DeepSeek-V3)."""
    count, more = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers")
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
    return bool(layer and isinstance(count, int) and isinstance(more, int) and count <= int(layer[1]) < count + more)


def _notes_on_replaced(checkpoint: Checkpoint, model: PreTrainedModel) -> Iterator[str]:
    for key, value in checkpoint.replaced.items():
        used = None
        for kind in ("attn", "experts"):
            if kind in key:
                used = getattr(model.config, f"_{kind}_implementation", None)
        instead = f"replaced by {used}, which computes the same" if used else "left out"
        yield f"{key} {value} of {CONFIG}, which torch alone does not have, is {instead}"


def _note_on_parts(model: PreTrainedModel, names: Collection[str]) -> Iterator[str]:
    if names:
        parts = sorted({_part(name) for name in names})
        yield (
            f"left out: {plural(len(names), 'tensor')} of {first_few(parts, SHOWN)}, which {type(model).__name__} does "
            "not have"
        )


def _part(name: str) -> str:
    """`model.visual` for `model.visual.blocks.0.norm.weight`."""
    parts = name.split(".")
    deep = 2 if parts[0] == "model" else 1
    return ".".join(parts[: deep + 1] if parts[deep - 1 : deep] == ["layers"] else parts[:deep])


def _require_all(
    checkpoint: Checkpoint, config: Any, model: PreTrainedModel, info: Mapping[str, Any], unexpected: set[str]
) -> None:
    """Refuse what Transformers loads with weights left out or made up."""
    missing = set(info["missing_keys"])
    shapes = sorted(_other_shape(checkpoint, model, key) for key in info["mismatched_keys"])
    problems = []
    if unexpected:
        problems.append(f"{plural(len(unexpected), 'weight')} that the model does not have: {_first(unexpected)}")
    if missing:
        problems.append(f"{plural(len(missing), 'weight')} missing: {_first(missing)}")
    if shapes:
        problems.append(f"{plural(len(shapes), 'weight')} of another shape: {first_few(shapes, SHOWN)}")
    problems += [str(error) for error in info.get("error_msgs", ())]
    if not problems:
        return
    classes = [str(name) for name in checkpoint.values.get("architectures") or ()]
    if classes and type(model).__name__ not in classes:
        problems.append(f"the model was saved as {classes[0]}, and is loaded as {type(model).__name__}")
    fitting = None if shapes else _fitting(config, model, unexpected, missing)
    advice = (
        f"set {fitting} in {CONFIG} to make them fit"
        if fitting
        else f"save the whole model again, or use the {CONFIG} that the weights were saved with"
    )
    raise CheckpointError("weights-do-not-fit", f"{checkpoint.directory}: {'; '.join(problems)}; {advice}")


def _missing_of_experts(tensors: Collection[str]) -> set[str]:
    """The weights that some experts of a layer have and others lack: Transformers cannot stack them, nor names them."""
    numbered = [found.groups() for name in tensors if (found := re.fullmatch(r"(.+\.experts)\.(\d+)\.(.+)", name))]
    kinds = {(layer, kind) for layer, _, kind in numbered}
    experts = {(layer, number) for layer, number, _ in numbered}
    every = {f"{layer}.{number}.{kind}" for layer, kind in kinds for other, number in experts if other == layer}
    return every.difference(tensors)


def _other_shape(checkpoint: Checkpoint, model: PreTrainedModel, key: Any) -> str:
    """A key of which the file and the config differ: with both shapes or, in 4.57, its name alone."""
    if isinstance(key, str):
        name, saved, wanted = key, checkpoint.weights.tensors[key].shape, model.state_dict()[key].shape
    else:
        name, saved, wanted = key
    return f"{name} is {list(saved)} in the file, {list(wanted)} by the config"


def _first(names: Collection[str]) -> str:
    return first_few(sorted(names), SHOWN)


def _fitting(config: Any, model: PreTrainedModel, unexpected: set[str], missing: set[str]) -> str | None:
    """The keys of the config that would make all weights fit, found by trying; None if there are none.

    Each switch of the config is tried the other way round, and the number of layers that the names have.
    """
    before = _names(model)
    needed = (before - missing) | unexpected
    text = config.get_text_config(decoder=True)
    switches = sorted(key for key in declared_keys(type(text)) if isinstance(getattr(text, key, None), bool))
    tries: list[dict[str, Any]] = [{key: not getattr(text, key)} for key in switches]
    numbers = [int(found) for name in needed for found in re.findall(r"\.(\d+)\.", name)[:1]]
    if numbers:
        tries.append({"num_hidden_layers": max(numbers) + 1})
    useful: dict[str, Any] = {}
    for change in tries:
        after = _names_with(config, change)
        if after is not None and after != before and after - before <= unexpected and before - after <= missing:
            useful |= change
    if not useful or _names_with(config, useful) != needed:
        return None
    return ", ".join(f'"{key}": {str(value).lower()}' for key, value in useful.items())


def _names_with(config: Any, change: Mapping[str, Any]) -> set[str] | None:
    """The names of the weights with a changed config; None if there is no such model."""
    changed = copy.deepcopy(config)
    try:
        for key, value in change.items():
            setattr(changed.get_text_config(decoder=True), key, value)
        with torch.device("meta"):
            return _names(AutoModelForCausalLM.from_config(changed))
    except Exception:  # whatever a model class says of a config that it cannot be made from
        return None


def _names(model: PreTrainedModel) -> set[str]:
    """The weights of a model that files have to hold: of those that are tied, one."""
    saved = model.state_dict()
    named = {name for name, _ in model.named_parameters()}
    return named | {name for name, _ in model.named_buffers() if name in saved}


def _require_one_head(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Refuse two saved matrices that the config ties, unless they are equal: releases differ in which they load."""
    text: Any = model.config.get_text_config(decoder=True)
    tied = tuple(getattr(model, "_tied_weights_keys", None) or ())  # a dict from 5.0 on; of some classes, none
    head, embedding = (
        f"{name}.weight"
        for module in (model.get_output_embeddings(), model.get_input_embeddings())
        for name in [next((name for name, other in model.named_modules() if other is module), "")]
    )
    if not getattr(text, "tie_word_embeddings", False) or not any(re.search(key, head) for key in tied):
        return
    names = [name for name in (_name_in_files(checkpoint, head), _name_in_files(checkpoint, embedding)) if name]
    if len(set(names)) == 2 and not torch.equal(*(_saved(checkpoint, name) for name in names)):
        raise CheckpointError(
            "tied-weights-differ",
            f"{checkpoint.directory}: {names[0]} differs from {names[1]}, but {CONFIG} ties them; "
            f'"tie_word_embeddings": false keeps both',
        )


def _name_in_files(checkpoint: Checkpoint, name: str) -> str | None:
    """A weight's name in the files, where the text decoder may have another prefix; None if none or several end so."""
    end = ".".join(name.split(".")[-2:])
    found = [tensor for tensor in checkpoint.weights.tensors if tensor == end or tensor.endswith(f".{end}")]
    return found[0] if len(found) == 1 else None


def _saved(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    for file in checkpoint.weights.files:
        with safe_open(str(file), framework="pt") as opened:
            if name in opened.keys():  # noqa: SIM118
                tensor: torch.Tensor = opened.get_tensor(name)
                return tensor
    raise KeyError(name)


def _require_finite(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Refuse weights that are not finite: their results are NaN, and equal to nothing."""
    wrong = [
        name
        for name, weight in model.named_parameters()
        # The extremes of a tensor with NaN are NaN, and need no second tensor as `isfinite` does.
        if weight.is_floating_point() and weight.numel() and not all(map(torch.isfinite, weight.detach().aminmax()))
    ]
    if wrong:
        narrowed = str(model.dtype).removeprefix("torch.")
        hint = f"; {narrowed} may be too narrow for them" if narrowed == "float16" != checkpoint.saved_dtype else ""
        raise CheckpointError(
            "weights-not-finite",
            f"{checkpoint.directory}: {plural(len(wrong), 'weight')} with NaN or infinity: {_first(wrong)}; such a "
            f"model cannot be judged{hint}",
        )


def _require_causal(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    """Refuse an encoder, such as a BERT without `is_decoder`: it has a causal class, and looks at later tokens."""
    text: Any = model.config.get_text_config(decoder=True)
    if getattr(text, "is_decoder", None) is not False:
        return
    padding = getattr(text, "pad_token_id", None)
    first, *others = [token for token in range(4) if token != padding][:3]
    try:
        with torch.no_grad():
            one, two = (
                model(input_ids=torch.tensor([[first, other]]), use_cache=False).logits[0, 0] for other in others
            )
    except Exception:  # of a model with other inputs, which the export reports
        return
    if (one - two).abs().max() > 1e-3 * one.abs().max():
        raise CheckpointError(
            "not-causal",
            f"{checkpoint.directory}: the model is an encoder: its logits depend on later tokens; a decoder of this "
            'kind was trained with "is_decoder": true in config.json',
        )


def _with_adapter(checkpoint: Checkpoint, model: PreTrainedModel) -> Loaded:
    """The model with the adapter beside it merged into its weights.

    Raises:
        CheckpointError: peft cannot apply it, all of it, or merge it.
    """
    import peft

    directory = checkpoint.directory
    saved = set(read_header(directory / ADAPTER_WEIGHTS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel.from_pretrained(model, str(directory), local_files_only=True)
        applied = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
        if saved != applied:
            wrong = _first(saved ^ applied)
            raise CheckpointError(
                "adapter-not-merged",
                f"peft does not apply {plural(len(saved ^ applied), 'tensor')} of the adapter: {wrong}",
            )
        merged = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # whatever peft raises
        raise CheckpointError(
            "adapter-not-merged",
            f"{directory}: the adapter ({ADAPTER_WEIGHTS}) cannot be merged: {error}; {merging_by_hand(directory)}",
        ) from error
    kind = next(iter(adapted.peft_config.values())).peft_type.value
    tensors = plural(len(saved), "tensor")
    return Loaded(merged, (f"the {kind} adapter beside the model is merged into it, {tensors}, by peft",))


def _kept(generation: Any) -> Iterator[tuple[str, Any]]:
    """The ids in the checkpoint's generation config that begin and end a text."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(generation, name, None)
        if value is not None:
            yield name, value
