"""Checkpoints as people have them, made here: sharded safetensors, tied embeddings, a tokenizer that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from conformance.models.fixtures import fill_weights

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
#: 100 million parameters, a third of them in the embeddings.
REALISTIC = {
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 5,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
}
BEGIN, END = 0, 1
#: What tokenizers are trained on: a text of its own, since another one makes other tokens, and other answers.
_TEXT = Path(__file__).with_name("tokenizer_text.txt")


def write_checkpoint(
    directory: Path,
    sizes: dict[str, int] | None = None,
    *,
    model_type: str = "llama",
    vocab: int = 400,
    dtype: torch.dtype = torch.float32,
    shard: str = "50KB",
    **more: Any,
) -> Path:
    """A model with tied embeddings in several files, and a tokenizer of as many ids."""
    config = AutoConfig.for_model(
        model_type,
        **{**SMALL, **(sizes or {}), **more},
        vocab_size=vocab,
        bos_token_id=BEGIN,
        eos_token_id=END,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    fill_weights(model)
    model.tie_weights()
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    write_tokenizer(directory, vocab)
    return directory


def write_tokenizer(directory: Path, vocab: int) -> None:
    """Byte pairs, as GPT-2, Llama 3 and Qwen have them: some ids are parts of characters."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([_TEXT.read_text(encoding="utf-8")], trainer)
    filler = [f"<unused{number}>" for number in range(vocab - tokenizer.get_vocab_size())]
    tokenizer.add_tokens(filler)
    tokenizer.save(str(directory / "tokenizer.json"))
    names = json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
    (directory / "tokenizer_config.json").write_text(names, encoding="utf-8")
