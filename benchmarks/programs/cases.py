"""What is measured: shapes of real models, and whose programs are compared. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from conformance.core.contract import Mode
from conformance.core.suggest import unknown

#: Tokens of a timed prompt, where the cache has room for them.
PROMPT = 128
#: Single tokens that are timed near the beginning of the cache, and near its end.
BLOCK = 16
#: Layers of a slice, and how its name ends.
SLICE = 4
_SLICED = f"-{SLICE}"
DTYPES = ("float32", "bfloat16", "8da4w")
CACHES = (128, 1024, 2048)
#: Above these errors a program is wrong, and its figures say nothing. Logits without any relation to the right ones
#: are off by 1.4. Right ones are off by 3e-6 in float32. What rounding does in the others grows with depth: in 8da4w,
#: SmolLM2-135M is 4 to 37 dB from right logits, which is 0.6 to 0.01, since other ties are rounded.
LIMITS = {"float32": 1e-3, "bfloat16": 0.1, "8da4w": 0.7}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's config, by keys of Transformers; `name` is what it is called in results."""

    name: str
    values: dict[str, Any]

    def sliced(self) -> Shape:
        """The same with its last layers only: these have every kind of layer that the model has."""
        values = {**self.values, "num_hidden_layers": SLICE}
        if "layer_types" in values:
            values["layer_types"] = values["layer_types"][-SLICE:]
        return Shape(f"{self.name}{_SLICED}", values)


_VOCAB = {"vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192, "pad_token_id": None}
#: 105 to 160 million parameters each.
SHAPES = {
    shape.name: shape
    for shape in (
        # https://huggingface.co/HuggingFaceTB/SmolLM2-135M
        Shape(
            "smollm2",
            {
                "model_type": "llama",
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                **_VOCAB,
            },
        ),
        # Gemma 3's 270M without its vocabulary of 262,144 ids, which would be most of it.
        Shape(
            "gemma3",
            {
                "model_type": "gemma3_text",
                "hidden_size": 640,
                "intermediate_size": 2048,
                "num_hidden_layers": 18,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "head_dim": 256,
                "query_pre_attn_scalar": 256,
                "sliding_window": 512,
                "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 3,
                **_VOCAB,
            },
        ),
        # DeepSeek-V3's attention with a compressed latent; every layer is dense, since experts are another matter.
        Shape(
            "deepseek-v3",
            {
                "model_type": "deepseek_v3",
                "hidden_size": 768,
                "intermediate_size": 2048,
                "num_hidden_layers": 16,
                "first_k_dense_replace": 16,
                "num_attention_heads": 12,
                "num_key_value_heads": 12,
                "q_lora_rank": 384,
                "kv_lora_rank": 256,
                "qk_rope_head_dim": 32,
                "qk_nope_head_dim": 64,
                "v_head_dim": 64,
                **_VOCAB,
            },
        ),
        # LFM2-350M's order of layers (https://huggingface.co/LiquidAI/LFM2-350M), 768 wide in place of 1,024.
        Shape(
            "lfm2",
            {
                "model_type": "lfm2",
                "hidden_size": 768,
                "intermediate_size": 2048,
                "block_auto_adjust_ff_dim": False,
                "num_hidden_layers": 16,
                "num_attention_heads": 12,
                "num_key_value_heads": 4,
                "layer_types": [
                    {"c": "conv", "a": "full_attention"}[kind] for kind in ("c" * 2 + "a") * 3 + "c" * 1 + "acacac"
                ],
                **_VOCAB,
            },
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Side:
    """Whose program it is.

    Args:
        name: As in results.
        summary: How the program is made, for the page.
        exporter: The suite's name of the exporter; None where nothing is exported.
        attention: What the exporter is given as `attention`, if anything.
        as_documented: Lowered as Transformers' documentation does, not as the suite does.
        apart: Made by the Python of the environment that has optimum-executorch.
        scales: In 8da4w, torchao's name of how a group's scale is chosen, where that is not as the suite's recipe does.
    """

    name: str
    summary: str
    exporter: str | None = None
    attention: str | None = None
    as_documented: bool = False
    apart: bool = False
    scales: str | None = None


REFERENCE, CUSTOM, TRANSFORMERS, OPTIMUM, EAGER = (
    Side(
        "reference",
        "`conformance.reference`, lowered and emitted as the suite does: its XNNPACK recipe, caches updated in place",
        exporter="reference",
    ),
    Side(
        "reference-custom",
        'the same with `attention="custom"`: ExecuTorch\'s custom operators for attention and caches',
        exporter="reference",
        attention="custom",
    ),
    Side(
        "transformers",
        "`transformers.integrations.executorch.convert_and_export_with_cache`, then "
        "`to_edge_transform_and_lower(partitioner=[XnnpackPartitioner()]).to_executorch()`, as Transformers' "
        "documentation has it",
        exporter="transformers",
        as_documented=True,
    ),
    Side(
        "optimum",
        "optimum-executorch's recipe `xnnpack` with `--use_custom_sdpa --use_custom_kv_cache`, and `--qlinear 8da4w` "
        "for 8da4w, with the Transformers that it pins",
        apart=True,
        scales="hqq_scale_only",
    ),
    Side("eager", "the Transformers model, with the cache that it makes by itself"),
)
SIDES = {side.name: side for side in (REFERENCE, CUSTOM, TRANSFORMERS, OPTIMUM, EAGER)}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: programs of one model, of one cache length in tokens, with calls of one shape."""

    shape: Shape
    dtype: str
    cache: int
    mode: Mode

    @property
    def name(self) -> str:
        """Such as `smollm2-4-float32-1024-decode`."""
        return f"{self.shape.name}-{self.dtype}-{self.cache}-{self.mode}"

    @property
    def prompt(self) -> int:
        """Tokens of a prompt. Transformers' exporter and optimum-executorch's take less than the whole cache a call."""
        return min(PROMPT, self.cache - 1)

    @property
    def backend(self) -> str:
        """The suite's recipe for it."""
        return "xnnpack-8da4w" if self.dtype == "8da4w" else "xnnpack"

    @property
    def model_dtype(self) -> str:
        """Of the weights before they are quantised, and of the caches: torch's name."""
        return "float32" if self.dtype == "8da4w" else self.dtype

    def as_values(self) -> dict[str, Any]:
        """For another process."""
        return dataclasses.asdict(self)

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> Case:
        """The case that `as_values` was of."""
        return cls(Shape(**values["shape"]), values["dtype"], values["cache"], Mode(values["mode"]))


#: What is measured unless more is asked for, in ten minutes, and the whole table: by option, the names that it takes.
SELECTIONS = {
    False: {
        "shapes": [f"smollm2{_SLICED}"],
        "dtypes": ["float32"],
        "caches": ["1024"],
        "modes": [*map(str, Mode)],
    },
    True: {
        "shapes": [f"smollm2{_SLICED}", *SHAPES],
        "dtypes": [*DTYPES],
        "caches": [*map(str, CACHES)],
        "modes": [*map(str, Mode)],
    },
}


def shape_named(name: str) -> Shape:
    """The shape of this name, or the slice of one.

    Raises:
        ValueError: No shape has this name; the message lists those there are.
    """
    base = SHAPES.get(name.removesuffix(_SLICED))
    if base is None:
        raise ValueError(unknown("shape", name, [*SHAPES, *(f"{each}{_SLICED}" for each in SHAPES)]))
    return base if name in SHAPES else base.sliced()


def sides_named(names: str | None) -> tuple[Side, ...]:
    """The sides of these names, separated by commas; all, if none are given.

    Raises:
        ValueError: No side has this name; the message lists those there are.
    """
    return tuple(SIDES[_known("side", name, SIDES)] for name in (names.split(",") if names else SIDES))


def selected(*, full: bool, **given: str | None) -> list[Case]:
    """The cases of every combination.

    Args:
        full: Of the whole table, not of the quick selection.
        given: By a key of these, names separated by commas that replace those of the selection.

    Raises:
        ValueError: A name is unknown, or a cache too short to tell its beginning from its end.
    """
    names = {key: text.split(",") if (text := given.get(key)) else chosen for key, chosen in SELECTIONS[full].items()}
    return [
        Case(shape_named(shape), _known("dtype", dtype, DTYPES), _length(cache), Mode(_known("mode", mode, list(Mode))))
        for shape in names["shapes"]
        for dtype in names["dtypes"]
        for cache in names["caches"]
        for mode in names["modes"]
    ]


def _known(kind: str, name: str, known: Collection[str]) -> str:
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return name


def _length(cache: str) -> int:
    if not cache.isdecimal() or int(cache) < PROMPT:
        raise ValueError(f"a cache of {cache!r} tokens cannot be measured: write a number from {PROMPT} on")
    return int(cache)
