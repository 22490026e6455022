"""Programs for ExecuTorch's multimodal runner: it generates with them what eager greedy decoding does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel

from conformance.decoding.oracle import Oracle
from conformance.decoding.tokenizers import CharTokenizer
from conformance.models.fixtures import MAX_CACHE_LEN
from conformance.pipeline.backends import PORTABLE, XNNPACK, Backend
from conformance.pipeline.stages import build
from conformance.reference import (
    convert_and_export_for_multimodal,
    runner_methods,
)
from tests.support.harness import one_layer
from tests.support.messages import refused

pytestmark = pytest.mark.torch

_ANSWER = 8
_PROMPTS = ((3, 4, 5), (7,), (9, 11, 13, 15, 17))
#: No id ends a text in these conversations but the last, which none of them comes to.
_LETTERS = CharTokenizer(vocab=64, eos_id=63)


def _model(architecture: str, make: Callable[[str], PreTrainedModel] = build) -> PreTrainedModel:
    model = make(architecture)
    model.generation_config.eos_token_id = [_LETTERS.eos_id]
    return model


def _answers(
    programs: Mapping[str, ExportedProgram], methods: dict[str, Any], directory: Path, backend: Backend = PORTABLE
) -> list[list[int]]:
    from executorch.extension.llm.runner import GenerationConfig, MultimodalRunner, make_text_input

    with torch.no_grad():
        edge = to_edge_transform_and_lower(
            dict(programs),
            partitioner={name: backend.partitioners() for name in programs},
            compile_config=backend.edge(),
            constant_methods=methods,
        )
        (directory / "model.pte").write_bytes(bytes(edge.to_executorch(backend.emission()).buffer))
    runner = MultimodalRunner(str(directory / "model.pte"), str(_LETTERS.install(directory)))
    answers = []
    for prompt in _PROMPTS:
        runner.reset()
        pieces: list[str] = []
        greedy = GenerationConfig(max_new_tokens=_ANSWER, temperature=0.0, echo=False)
        runner.generate([make_text_input(_LETTERS.encode_to_text(prompt))], greedy, token_callback=pieces.append)
        answers.append([_LETTERS.ids_for(piece)[0] for piece in pieces])
    return answers


def _expected(model: PreTrainedModel) -> list[list[int]]:
    oracle, answers = Oracle(model, MAX_CACHE_LEN), []
    for prompt in _PROMPTS:
        held = prompt
        for _ in range(_ANSWER):
            held = (*held, int(oracle.logits(held).argmax()))
        answers.append(list(held[len(prompt) :]))
    return answers


def _programs(model: PreTrainedModel) -> dict[str, ExportedProgram]:
    return convert_and_export_for_multimodal(model, Dim("seq", min=1, max=MAX_CACHE_LEN))


@pytest.mark.parametrize(
    ("architecture", "backend"), [("llama", XNNPACK), ("gemma3_text", PORTABLE), ("qwen3", PORTABLE)]
)
def test_runner_generates_what_eager_decoding_does(architecture: str, backend: Backend, tmp_path: Path) -> None:
    model = _model(architecture, one_layer if backend is XNNPACK else build)
    methods = runner_methods(model, dynamic=True)
    assert _answers(_programs(model), methods, tmp_path, backend) == _expected(model)


def test_embedding_that_is_not_scaled_shows(tmp_path: Path) -> None:
    class Unscaled(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight.detach().clone())

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return nn.functional.embedding(input_ids, self.weight)

    model = _model("gemma3_text", one_layer)
    weight: torch.Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    programs = _programs(model)
    seq = Dim("seq", min=1, max=MAX_CACHE_LEN)
    ids = torch.zeros((1, 2), dtype=torch.long)
    programs["token_embedding"] = torch.export.export(Unscaled(weight), (ids,), dynamic_shapes={"input_ids": {1: seq}})
    assert _answers(programs, runner_methods(model, dynamic=True), tmp_path) != _expected(model)


def test_model_that_takes_only_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("llama")

    def forward(input_ids: torch.Tensor, past_key_values: object = None, use_cache: bool = True) -> None: ...

    monkeypatch.setattr(model, "forward", forward)
    with refused("no-inputs-embeds"):
        _programs(model)
