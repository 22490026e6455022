"""Tokenizers that ExecuTorch's LLM runner reads or writes otherwise than Transformers, each for one reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel

from conformance.exporters.resolve import Exporter
from conformance.models.fixtures import build_model, fixture_config
from conformance.pipeline.builder import Builder
from conformance.reference import convert_and_export_with_cache, runner_methods
from tests.support.checkpoints import write_tokenizer

#: Ids of the model that the tokenizers stand beside: all bytes, and a few words.
VOCAB = 400
_TEXT = ("A naïve café. Once upon a time there was a moon, and a girl who asked how far away it is. ",)


def beside_a_model(directory: Path) -> Builder:
    """Builds a model of `VOCAB` ids whose tokenizer is in `directory`, and the reference's programs of it."""

    def build(architecture: str) -> PreTrainedModel:
        config = fixture_config(architecture)
        config.vocab_size = VOCAB
        return build_model(config)

    exporters = {"reference": Exporter("reference", convert_and_export_with_cache, metadata=runner_methods)}
    return Builder(exporters, build=build, tokenizer=directory)


def changed(directory: Path, vocab: int, change: Callable[[Tokenizer], None]) -> None:
    """The usual tokenizer with something else in its `tokenizer.json`."""
    write_tokenizer(directory, vocab)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(directory / "tokenizer.json"))


def composes_accents(directory: Path, vocab: int) -> None:
    """Has text composed first, as Qwen does: the runner of ExecuTorch 1.5.1 drops what it composes."""

    def change(tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = normalizers.NFC()

    changed(directory, vocab, change)


def takes_the_space_before(directory: Path, vocab: int) -> None:
    """A token takes the space before it with it, as Phi-3's do; the runner leaves that where it is."""
    write_tokenizer(directory, vocab)
    path = directory / "tokenizer.json"
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    said["added_tokens"][-1]["lstrip"] = True
    path.write_text(json.dumps(said), encoding="utf-8")


def strips_spaces(directory: Path, vocab: int) -> None:
    """Strips a text's first space when it is written, as Llama 2's does; the runner does so with each token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<s>", "</s>", "<unk>"]
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special + all_bytes)
    tokenizer.train_from_iterator(_TEXT, trainer)
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = said["added_tokens"][: len(special)]
    _write(directory, said)


def unigrams(directory: Path, vocab: int) -> None:
    """Of another kind than byte pairs, as T5's and XLM-RoBERTa's are."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(_TEXT, trainer)
    _write(directory, json.loads(tokenizer.to_str()))


def has_more_ids_than_logits(directory: Path, vocab: int) -> None:
    """Another model's."""
    write_tokenizer(directory, vocab + 1)


def begin_with(single: str) -> Callable[[Tokenizer], None]:
    """Have a tokenizer put something around each text, with `$A` for the text itself."""

    def change(tokenizer: Tokenizer) -> None:
        special = [("<s>", 0), ("</s>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)

    return change


def _write(directory: Path, said: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}', encoding="utf-8")
