"""`python -m conformance new-architecture`: a fixture and a row for an architecture that the matrix lacks."""

from __future__ import annotations

import json
from dataclasses import dataclass

from transformers import PreTrainedModel

from conformance.core.paths import CONFIGS
from conformance.core.suggest import unknown
from conformance.core.verdicts import CellFailedError
from conformance.decoding.oracle import Oracle
from conformance.matrix.discovery import registered
from conformance.matrix.schema import MATRIX_PATH, TODO, Matrix
from conformance.models.fixtures import MAX_CACHE_LEN, drafted_values, has_fixture
from conformance.models.tiny_config import layer_kinds
from conformance.pipeline.stages import build

#: What a row exercises where neither config nor modules tell more.
_UNTOLD = "causal language model"
#: What modules are called that hold a position's own embedding.
_LEARNED = ("wpe", "position_embeddings", "embed_positions", "positions_embed")


class NewArchitectureError(ValueError):
    """It cannot be added; the message says why and what to do instead."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What to add for an architecture.

    Args:
        fixture: The text of `fixtures/configs/<model_type>.json`.
        row: The lines to append to `models_matrix.yaml`.
        tried: A sentence for each thing tried, in order.
    """

    fixture: str
    row: str
    tried: tuple[str, ...]


def draft(architecture: str) -> Draft:
    """Shrink the published config (or take the fixture that is there), and try what it makes."""
    if architecture not in registered():
        raise NewArchitectureError(
            unknown("causal-LM architecture of the installed Transformers", architecture, registered())
        )
    tried: list[str] = []
    if has_fixture(architecture):
        fixture = (CONFIGS / f"{architecture}.json").read_text(encoding="utf-8")
        tried.append("took the fixture that is there")
    else:
        values = drafted_values(architecture)
        fixture = json.dumps(values, indent=2) + "\n"
        tried.append(f"shrunk the published config: {len(values) - 1} values changed")
    caches: list[str] = []
    exercises, undecodable = _UNTOLD, None
    try:
        model = build(architecture)
        caches = list(dict.fromkeys(layer_kinds(model.config.get_text_config(decoder=True))))
        exercises = "; ".join(mechanisms(model))
        tried.append(f"built {type(model).__name__}: {model.num_parameters():,} parameters, layers {', '.join(caches)}")
        Oracle(model, MAX_CACHE_LEN).agree_without_cache()
        tried.append("decoded with a static cache: agrees with the forward pass without cache")
    except CellFailedError as error:
        undecodable = error.signature
        tried.append(f"failed at stage {error.stage}: {error}")
    return Draft(fixture, _row(architecture, caches, exercises, undecodable), tuple(tried))


def add(architecture: str, matrix: Matrix) -> Draft:
    """Write the draft's fixture and append its row.

    Raises:
        NewArchitectureError: There is a row already, or Transformers has no such architecture.
    """
    if architecture in matrix.architectures:
        raise NewArchitectureError(
            f"{architecture} exists: it has a row in {MATRIX_PATH.name}; --force shows what would be written for it"
        )
    made = draft(architecture)
    (CONFIGS / f"{architecture}.json").write_text(made.fixture, encoding="utf-8")
    text = MATRIX_PATH.read_text(encoding="utf-8")
    MATRIX_PATH.write_text(text + made.row, encoding="utf-8")
    return made


def mechanisms(model: PreTrainedModel) -> list[str]:
    """What a decoder is made of, as far as its config and modules tell."""
    config = model.config.get_text_config(decoder=True)
    modules = [type(module).__name__.lower() for module in model.modules()]

    def number(*names: str) -> int:
        values = [getattr(config, name, None) for name in names]
        return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)

    heads = number("num_attention_heads", "n_head", "n_heads", "num_heads")
    key_values = number("num_key_value_heads", "num_kv_heads") or heads
    layers = set(layer_kinds(config))
    attends = any("attention" in kind or "hybrid" in kind for kind in layers - {"linear_attention"})
    found = {
        "multi-head latent attention": number("kv_lora_rank") > 0,
        "multi-query attention": attends and key_values == 1 < heads,
        "grouped-query attention": attends and 1 < key_values < heads,
        "multi-head attention": attends and key_values == heads and not number("kv_lora_rank"),
        "sparse-attention indexer": any("indexer" in module for module in modules),
        "sliding window": "sliding_attention" in layers or "hybrid_sliding" in layers,
        "chunked attention": "chunked_attention" in layers,
        "convolution state": "conv" in layers,
        "linear or recurrent state": bool({"linear_attention", "hybrid", "mamba"} & layers),
        "experts": any("experts" in module or "moe" in module for module in modules),
        "shared key-value layers": number("num_kv_shared_layers") > 0,
        "attention sinks": any("sinks" in name for name, _ in model.named_parameters()),
        "soft-capped logits": bool(
            getattr(config, "final_logit_softcapping", None) or getattr(config, "attn_logit_softcapping", None)
        ),
        "ALiBi positions": any("alibi" in module for module in modules) or bool(getattr(config, "alibi", False)),
        "rotary positions": any("rotary" in module for module in modules),
        "learned positions": any(name.endswith(_LEARNED) for name, _ in model.named_modules()),
        "normalised queries and keys": any(
            name.endswith(("q_norm", "q_layernorm")) for name, _ in model.named_modules()
        ),
    }
    return [name for name, present in found.items() if present] or [_UNTOLD]


def _row(architecture: str, caches: list[str], exercises: str, undecodable: str | None) -> str:
    lines = [
        f"  {architecture}:",
        "    tier: full",
        f"    caches: [{', '.join(caches)}]",
        f"    exercises: {exercises}",
    ]
    if undecodable:
        lines += ["    undecodable:", f"      signature: {json.dumps(undecodable)}", f"      reason: {TODO}"]
    return "\n".join(lines) + "\n"
