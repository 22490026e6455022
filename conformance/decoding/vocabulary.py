"""The vocabulary of a model: which token ids have a right answer."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PreTrainedModel

from conformance.decoding.scripts import Vocabulary

#: A config with this field chooses the keys that a token attends to by their values alone (Doge). Equal tokens tie
#: there, and which of them is chosen is left to the kernel that sorts.
_KEYS_CHOSEN_BY_VALUE = "keep_window_size"
#: Embeddings with this method count the tokens that are not padding (RoBERTa and its family). After a padding token,
#: decoding with a cache, which counts all tokens, and the forward pass without it differ by design.
_COUNTS_WITHOUT_PADDING = "create_position_ids_from_input_ids"


def vocabulary_of(model: PreTrainedModel) -> Vocabulary:
    """The vocabulary of `model`."""
    config = model.config.get_text_config(decoder=True)
    padding: int | None = getattr(config, "pad_token_id", None)
    counted = not any(hasattr(module, _COUNTS_WITHOUT_PADDING) for module in model.modules())
    return Vocabulary(
        size=int(config.vocab_size),
        padding=padding or 0,
        special=tuple(_special(model)),
        left_out=() if padding is None or counted else (padding,),
        repeats=not hasattr(config, _KEYS_CHOSEN_BY_VALUE),
    )


def _special(model: PreTrainedModel) -> Iterator[int]:
    """The ids of padding, beginning and end in the model's configs."""
    for config in (model.config.get_text_config(decoder=True), model.generation_config):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            ids = getattr(config, name, None)
            yield from ids if isinstance(ids, list) else [] if ids is None else [ids]
