"""A hundred million parameters, sharded, with tied embeddings: exported, talked to, and checked."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from conformance.core.paths import ROOT
from conformance.core.verdicts import Verdict
from conformance.records.run import load_run
from tests.support.checkpoints import REALISTIC, write_checkpoint

_VOCAB = 32_000
#: What `check` may take, as a multiple of the weights in float32. It took 12.7: three models, the programs of both
#: modes as files, two sessions, each of which packs the weights again, and 1.3 for Python and its libraries.
_MOST_MEMORY = 14


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("own") / f"llama-100m-{request.param}"
    dtype: torch.dtype = getattr(torch, request.param)
    return write_checkpoint(directory, REALISTIC, vocab=_VOCAB, dtype=dtype, shard="100MB")


def _command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conformance", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(ended.stdout)
    return ended


def test_checkpoint_is_of_the_size_that_it_should_be(saved: Path) -> None:
    shards = sorted(saved.glob("*.safetensors"))
    assert len(shards) > 1
    count = 0
    for shard in shards:
        with safe_open(shard, "pt") as held:
            count += sum(held.get_tensor(name).numel() for name in held.keys())  # noqa: SIM118  # it is no mapping
    assert 95e6 < count < 110e6
    assert json.loads((saved / "config.json").read_text())["tie_word_embeddings"] is True


def test_export_and_chat(saved: Path, tmp_path: Path) -> None:
    program = tmp_path / "model.pte"
    assert _command("model", "export", saved, "-o", program, "--cache-length", "128").returncode == 0
    message = _command(
        "model", "chat", program, "--tokenizer", saved, "--prompt", "Once upon a time", "--max-new-tokens", "8"
    )
    assert message.returncode == 0
    assert "tokens/s of the answer" in message.stdout


def test_check_says_yes_within_bounded_memory(saved: Path, tmp_path: Path) -> None:
    record = tmp_path / "check.json"
    ended = _command("model", "check", saved, "--output", record)
    assert ended.returncode == 0
    assert f"May {saved.name} be shipped on xnnpack? Yes." in ended.stdout
    run = load_run(record)
    assert {cell.clause for cell in run.cells if cell.verdict is Verdict.EXPECTED_FAILURE} == {"LOW-4"}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest process so far
    weights = 4 * 100e6
    print(f"peak memory: {peak / weights:.1f} times the weights in float32")
    assert peak < _MOST_MEMORY * weights


@pytest.mark.parametrize("saved", ["bfloat16"], indirect=True)
def test_check_says_yes_to_bfloat16_on_xnnpack(saved: Path, tmp_path: Path) -> None:
    clauses = "LOW-3,PAR-1,RUN-2"
    ended = _command(
        "model", "check", saved, "--dtype", "auto", "--clause", clauses, "--output", tmp_path / "check.json"
    )
    assert ended.returncode == 0
    assert "✓ Lowering, the program on xnnpack: 1 of 1 clause holds" in ended.stdout
    assert "✓ Parity, the program on xnnpack: 1 of 1 clause holds" in ended.stdout
    assert "✓ Runner, the program on xnnpack: 1 of 1 clause holds" in ended.stdout
