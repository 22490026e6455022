"""`conformance matrix add`: a fixture and a row for an architecture that the matrix lacks."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from transformers import PreTrainedModel

from conformance.core.files import atomic_write
from conformance.core.paths import CONFIGS
from conformance.core.verdicts import CellFailedError
from conformance.decoding.oracle import ROUNDINGS, Oracle
from conformance.matrix.known_failures import ANY_EXPORTER, TODO, Cause, Undecodable
from conformance.matrix.schema import Matrix, Row, Tier, cause_text, row_text, write_matrix
from conformance.matrix.update import UNEXPLAINED
from conformance.models.fixtures import MAX_CACHE_LEN, drafted_values, has_fixture
from conformance.models.tiny_config import layer_kinds
from conformance.pipeline.backends import FLOAT32_TOLERANCE
from conformance.pipeline.stages import build

#: What a row exercises if neither config nor modules show more.
_UNTOLD = "causal language model"
#: Names of modules that hold an embedding for each position.
_LEARNED = ("wpe", "position_embeddings", "embed_positions", "positions_embed")


@dataclass(frozen=True, slots=True)
class Draft:
    """What to add for an architecture.

    Args:
        fixture: The text of `fixtures/configs/<model_type>.json`.
        row: Its row.
        cause: Why it cannot decode with a static cache, still to be explained; None if it can.
        tried: A sentence for each thing tried, in order.
        architecture: The `model_type`.
    """

    fixture: str
    row: Row
    cause: Cause | None
    tried: tuple[str, ...]
    architecture: str

    @property
    def text(self) -> str:
        """The row, and the entry of its cause, as they will be written."""
        row = row_text(self.architecture, self.row) + "\n"
        return row if self.cause is None else row + cause_text(self.row.known[0], self.cause)


def draft(architecture: str) -> Draft:
    """Shrink the published config (or take the fixture that is there), and try the model."""
    tried: list[str] = []
    if has_fixture(architecture):
        fixture = (CONFIGS / f"{architecture}.json").read_text(encoding="utf-8")
        tried.append("used the existing fixture")
    else:
        values = drafted_values(architecture)
        fixture = json.dumps(values, indent=2) + "\n"
        tried.append(f"shrunk the published config: {len(values) - 1} values changed")
    caches: list[str] = []
    exercises, cause = _UNTOLD, None
    try:
        model = build(architecture)
        caches = list(dict.fromkeys(layer_kinds(model.config.get_text_config(decoder=True))))
        exercises = "; ".join(mechanisms(model))
        tried.append(f"built {type(model).__name__}: {model.num_parameters():,} parameters, layers {', '.join(caches)}")
        oracle = Oracle(model, MAX_CACHE_LEN)
        oracle.agree_without_cache()
        tried.append("decoded with a static cache: agrees with the forward pass without cache")
        if ROUNDINGS * oracle.noise > FLOAT32_TOLERANCE:
            tried.append(_rounds(oracle.noise))
    except CellFailedError as error:
        cause = Cause((ANY_EXPORTER,), TODO, (Undecodable(error.signature),))
        tried.append(f"failed at stage {error.stage}: {error}")
    known = (f"{architecture.lower()}-undecodable",) if cause else ()
    row = Row(Tier.FULL, tuple(caches), exercises, known)
    return Draft(fixture, row, cause, tuple(tried), architecture)


def add(architecture: str, matrix: Matrix) -> Draft:
    """Write the draft's fixture and its row, among those of tier full by name."""
    made = draft(architecture)
    atomic_write(CONFIGS / f"{architecture}.json", made.fixture.encode())
    write_matrix(with_draft(matrix, made))
    return made


def _rounds(noise: float) -> str:
    """Weights are random, so some fixtures magnify rounding by chance: 4 of 183 do, and another size cures most."""
    return (
        f"float32 puts its logits off by {noise:.1e} of their scale, and correct programs must come within "
        f"{FLOAT32_TOLERANCE:.0e}: change a size in the fixture, such as intermediate_size, and try again"
    )


def with_draft(matrix: Matrix, made: Draft) -> Matrix:
    """The matrix with the draft's row and cause."""
    full = sorted([*(name for name, row in matrix.architectures.items() if row.tier is Tier.FULL), made.architecture])
    rows = {name: row for name, row in matrix.architectures.items() if row.tier is not Tier.FULL}
    rows |= {name: matrix.architectures.get(name, made.row) for name in full}
    if made.cause is None:
        return dataclasses.replace(matrix, architectures=rows)
    return dataclasses.replace(
        matrix,
        architectures=rows,
        causes={**matrix.causes, made.row.known[0]: made.cause},
        owners={**matrix.owners, made.row.known[0]: UNEXPLAINED},
    )


def mechanisms(model: PreTrainedModel) -> list[str]:
    """The parts of a decoder, as far as its config and modules show them."""
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
