"""The reference's programs against those of Transformers' own exporter, on XNNPACK: export, calls, and sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.pairs import BASE, OURS, note
from conformance.core.cells import Program
from conformance.core.contract import Mode
from conformance.exporters.resolve import resolve
from conformance.pipeline import stages
from conformance.pipeline.builder import Builder

#: Of those that both can export, with one mechanism each: grouped queries, a sliding window, learned positions.
ARCHITECTURES = ("llama", "mistral", "gpt2")
SIDES = {"reference": OURS, "transformers": BASE}
BACKEND = "xnnpack"
#: Never worse by more than the noise between two builds of one program.
BOUND = 1.03
#: Tokens of a prompt: half a cache.
PROMPT = 16

pytestmark = pytest.mark.parametrize(
    ("architecture", "subject"), [(name, subject) for name in ARCHITECTURES for subject in SIDES]
)


@pytest.fixture(scope="module")
def builder() -> Builder:
    """Programs of the architecture that is being measured."""
    torch.set_num_threads(1)
    return Builder({name: resolve(name) for name in SIDES})


def test_export(benchmark: Any, builder: Builder, architecture: str, subject: str) -> None:
    exporter = builder.exporter(subject)
    note(benchmark, f"{architecture}: export", SIDES[subject], BOUND)

    def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (exporter, stages.build(architecture), Mode.DECODE), {}

    benchmark.pedantic(stages.export, setup=fresh, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("mode", list(Mode))
def test_call(benchmark: Any, builder: Builder, architecture: str, subject: str, mode: Mode) -> None:
    """One token in the middle of the cache, or a prompt of half of it."""
    built = builder.program(Program(architecture, subject, mode, BACKEND))
    artifact, session = built.artifact, built.new_session()
    length = 1 if mode is Mode.DECODE else PROMPT
    ids = torch.ones((1, length), dtype=torch.long)
    position = torch.tensor([PROMPT]) if mode is Mode.DECODE else torch.arange(length)
    emission = artifact.emission
    sizes = {"program bytes": len(artifact.program), "planned bytes": emission.planned_bytes}
    what = "one token" if mode is Mode.DECODE else f"a prompt of {PROMPT} tokens"
    note(benchmark, f"{architecture}: {what}", SIDES[subject], BOUND, sizes)
    benchmark.pedantic(session.step, (ids, position), rounds=400, iterations=5, warmup_rounds=20)
