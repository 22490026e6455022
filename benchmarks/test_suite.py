"""The suite against what it cannot do without: a bare script for one architecture, and its imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from benchmarks.pairs import BASE, OURS, note
from conformance.core.contract import CHECKED
from conformance.core.paths import ROOT

#: Builds, exports, lowers, loads and steps one architecture, once, as a user's script does.
_BARE = """
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.integrations.executorch import convert_and_export_with_cache
import json

torch.set_num_threads(1)
values = json.load(open("fixtures/configs/llama.json"))
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
model.generation_config = GenerationConfig(
    use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 32}
)
with torch.no_grad():
    program = convert_and_export_with_cache(model)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    emitted = lowered.to_executorch()
method = Runtime.get().load_program(bytes(emitted.buffer)).load_method("forward")
method.execute((torch.ones((1, 1), dtype=torch.long), torch.tensor([0])))
"""
#: Makes the programs of two architectures in both modes, on portable kernels and on XNNPACK, in one process.
_BARE_PROGRAMS = """
import copy, json
import torch
from executorch.exir import to_edge_transform_and_lower
from torch.export import Dim
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from conformance.pipeline.backends import PORTABLE, XNNPACK
from conformance.reference import convert_and_export_with_cache

torch.set_num_threads(1)
seq = Dim("seq", min=1, max=32)
for name in ("gpt2", "mistral"):
    values = json.load(open(f"fixtures/configs/{name}.json"))
    for shapes in (None, {"input_ids": {1: seq}, "cache_position": {0: seq}}):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
        model.generation_config = GenerationConfig(
            use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 32}
        )
        with torch.no_grad():
            program = convert_and_export_with_cache(model, dynamic_shapes=shapes)
            for backend in (PORTABLE, XNNPACK):
                lowered = to_edge_transform_and_lower(
                    copy.deepcopy(program), partitioner=backend.partitioners(), compile_config=backend.edge()
                )
                lowered.to_executorch(backend.emission()).buffer
"""
#: What building and exporting a model needs: a run that lowers nothing imports nothing of ExecuTorch.
_IMPORTS = "import pytest, hypothesis, torch.export; from transformers import PreTrainedModel, StaticCache"
#: In GPT-NeoX's attention.
_BEFORE_THE_EDIT = "        attn_output, attn_weights = attention_interface("
_ONE_PROGRAM = ("--arch", "llama", "--backend", "xnnpack", "--mode", "decode", "--cache-limit", "0")


def _run(*arguments: str, path: Path | None = None) -> None:
    """Python with these arguments; modules of `path`, if given, come before those that are installed."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _suite(record: Path, *arguments: str) -> tuple[str, ...]:
    return ("-m", "pytest", "conformance", *arguments, "-n0", "--output", str(record))


@pytest.mark.parametrize("side", [OURS, BASE])
def test_whole_cost_of_an_architecture(benchmark: Any, tmp_path: Path, side: str) -> None:
    """Every clause with 25 scripts a parity cell, nothing out of the store; LOW-8, which starts processes, apart."""
    note(benchmark, "llama on XNNPACK, mode decode: the suite / a bare script", side, 1.35)
    clauses = ",".join(sorted({clause.id for clause in CHECKED} - {"LOW-8"}))
    command = _suite(tmp_path / "run.json", *_ONE_PROGRAM, "--clause", clauses) if side == OURS else ("-c", _BARE)
    benchmark.pedantic(_run, command, rounds=3)


@pytest.mark.parametrize("side", [OURS, BASE])
def test_start_to_first_verdict(benchmark: Any, tmp_path: Path, side: str) -> None:
    note(benchmark, "to the first verdict / the imports", side, 1.2)
    command = (
        _suite(tmp_path / "run.json", "--arch", "llama", "--clause", "SEN-2") if side == OURS else ("-c", _IMPORTS)
    )
    benchmark.pedantic(_run, command, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("side", [OURS, BASE])
def test_run_after_an_edit(benchmark: Any, tmp_path_factory: pytest.TempPathFactory, side: str) -> None:
    """One modeling file of a copy of Transformers is edited: a run since the one before / the architecture alone."""
    note(benchmark, "core tier since an edit of GPT-NeoX, exported / gpt_neox alone", side, 1.5)
    where = tmp_path_factory.mktemp("edit")
    shutil.copytree(Path(transformers.__file__).parent, where / "transformers")
    options = ("--backend", "exported", "--mode", "decode", "--clause", "EXP,SEN,PAR", "--max-examples", "5")
    before = where / "before.json"
    if side == OURS:
        _run(*_suite(before, *options), path=where)
    edited = where / "transformers" / "models" / "gpt_neox" / "modeling_gpt_neox.py"
    text = edited.read_text()
    assert _BEFORE_THE_EDIT in text
    edited.write_text(text.replace(_BEFORE_THE_EDIT, f"        query_states = query_states * 1.0\n{_BEFORE_THE_EDIT}"))
    chosen = ("--since", str(before)) if side == OURS else ("--arch", "gpt_neox")
    benchmark.pedantic(_run, _suite(where / "after.json", *options, *chosen), {"path": where}, rounds=1)


@pytest.mark.parametrize("side", [OURS, BASE])
def test_two_workers(benchmark: Any, tmp_path: Path, side: str) -> None:
    """The core tier by two workers against one, with the decoding of exported programs, which keeps a core busy."""
    note(benchmark, "core tier, exported, mode decode: two workers / one", side, 0.54)
    command = _suite(tmp_path / "run.json", "--backend", "exported", "--mode", "decode", "--clause", "EXP,SEN,PAR")
    workers = "-n2" if side == OURS else "-n1"
    benchmark.pedantic(_run, (*(part for part in command if part != "-n0"), workers, "--max-examples", "5"), rounds=1)


@pytest.mark.parametrize("side", [OURS, BASE])
def test_whole_cost_of_programs(benchmark: Any, tmp_path: Path, side: str) -> None:
    """Four programs each of two architectures of tier core, with nothing in the store / a script that makes them."""
    note(benchmark, "gpt2 and mistral on portable and XNNPACK, both modes: the suite / a bare script", side, 1.2)
    command = _suite(tmp_path / "run.json", "--arch", "gpt2,mistral", "--cache-limit", "0")
    benchmark.pedantic(_run, command if side == OURS else ("-c", _BARE_PROGRAMS), rounds=1)


@pytest.mark.parametrize("side", [OURS, BASE])
def test_second_run(benchmark: Any, tmp_path_factory: pytest.TempPathFactory, side: str) -> None:
    """With all programs in the store against none. Exports and scripts remain; with `--clause LOW`, exports alone."""
    note(benchmark, "gpt2 and mistral on portable and XNNPACK, both modes: again / the first time", side, 0.25)
    where = tmp_path_factory.mktemp("second")
    command = _suite(where / "run.json", "--arch", "gpt2,mistral", "--cache-dir", str(where / "store"))
    if side == OURS:
        _run(*command)
    benchmark.pedantic(_run, command, rounds=1)
