"""The commands for a checkpoint: `export` it, `check` whether it may be shipped, and `chat` with it."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.core.contract import Mode
from conformance.core.paths import ROOT
from conformance.core.suggest import unknown
from conformance.core.warnings_filter import silence_third_party
from conformance.models.checkpoints import DTYPES, Checkpoint, read_checkpoint
from conformance.pipeline.backends import BACKENDS, XNNPACK, Backend
from conformance.runner.options import DEFAULT_CACHE_LENGTH

#: Positions in the cache of a program that is made to be used, in tokens, if the model was made for as many.
_USUAL_CACHE_LENGTH = 512
#: Scripts for each parity clause: each costs a hundred times what it costs on a fixture.
_EXAMPLES = 2
_RECORD = "build/conformance/check.json"
_MIB = 1 << 20
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def add_commands(commands: Any) -> None:
    """Add them to the parser of `python -m conformance`."""
    export = commands.add_parser("export", help="make a checkpoint's .pte file for ExecuTorch's LLM runner")
    _checkpoint_options(export)
    export.add_argument(
        "-o", "--output", type=Path, default=Path("model.pte"), metavar="PATH", help="default: model.pte"
    )
    _mode_option(export)
    export.set_defaults(do=_export)
    check = commands.add_parser(
        "check", help="may this checkpoint be shipped? Judge it by the clauses that apply to it"
    )
    _checkpoint_options(check)
    _mode_option(check)
    check.add_argument("--clause", metavar="IDS", help="as in a run; default: all that depend on the model")
    check.add_argument("--examples", type=int, default=_EXAMPLES, metavar="N", help=f"default: {_EXAMPLES}")
    check.add_argument("--memory-limit", type=int, metavar="MIB", help="default: four fifths of the machine's")
    check.add_argument("--record", type=Path, default=Path(_RECORD), metavar="PATH", help=f"default: {_RECORD}")
    check.set_defaults(do=_check)
    chat = commands.add_parser("chat", help="talk to a .pte file through ExecuTorch's LLM runner")
    chat.add_argument("program", type=Path, metavar="MODEL.pte")
    chat.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="holds tokenizer.json")
    chat.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="may be given several times, each continuing the conversation; without it, prompts are read line by line",
    )
    chat.add_argument("--max-new-tokens", type=int, default=-1, metavar="N", help="default: until the cache is full")
    chat.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default: 0, the likeliest token")
    chat.set_defaults(do=_chat)


def _checkpoint_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=Path, metavar="MODEL_DIR", help="as `save_pretrained` writes it")
    command.add_argument("--backend", default=XNNPACK.name, metavar="NAME", help=f"default: {XNNPACK.name}")
    command.add_argument("--cache-length", type=int, metavar="N", help="positions in the static cache, in tokens")
    command.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="what the program computes in; default: float32, to which bfloat16 and float16 convert without loss",
    )


def _mode_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mode", default=Mode.DYNAMIC.value, choices=[mode.value for mode in Mode], help="default: dynamic"
    )


def _export(arguments: argparse.Namespace) -> None:
    backend = _backend(arguments)
    checkpoint = _checkpoint(arguments, _USUAL_CACHE_LENGTH, backend)
    steps = _Steps(4)
    steps.begin(f"loading {checkpoint.name}, {checkpoint.weight_bytes / _MIB:.0f} MiB of {checkpoint.saved_dtype}")
    os.environ.update(_OFFLINE)
    silence_third_party()
    from conformance.cli.export_model import export_for_runner, write_program
    from conformance.core.verdicts import CellFailedError, NotRunError
    from conformance.models.checkpoints import load_model

    model = load_model(checkpoint)
    try:
        artifact = export_for_runner(model, backend, Mode(arguments.mode), steps.begin)
    except NotRunError as error:
        raise ValueError(str(error)) from error
    except CellFailedError as error:
        raise ValueError(f"it fails at stage {error.stage}: {error}") from error
    write_program(artifact, arguments.output)
    steps.end()
    partition, emission = artifact.partition, artifact.emission
    delegated, undelegated = sum(partition.delegated.values()), len(partition.undelegated_nodes)
    names = sorted(partition.undelegated.items(), key=lambda item: -item[1])
    print(f"wrote {arguments.output}: {len(artifact.program) / _MIB:.1f} MiB")
    print(f"  cache     {checkpoint.max_cache_len} tokens, {emission.cache_bytes / _MIB:.1f} MiB of memory")
    print(f"  planned   {emission.planned_bytes / _MIB:.1f} MiB of memory, the cache included")
    if backend.delegating:
        print(f"  {backend.name:<9} {delegated} of {delegated + undelegated} operators delegated")
        if names:
            print(f"  portable  {', '.join(f'{count} {name}' for name, count in names[:6])}")
    print(
        f"  try it    python -m conformance chat {arguments.output} --tokenizer {arguments.checkpoint} --prompt '...'"
    )
    print(f"  check it  python -m conformance check {arguments.checkpoint} --backend {backend.name}")


def _check(arguments: argparse.Namespace) -> int:
    """Exit code 0 for yes, 1 for no, 2 where not everything was judged."""
    backend = _backend(arguments)
    checkpoint = _checkpoint(arguments, DEFAULT_CACHE_LENGTH, backend)
    record = arguments.record.absolute()
    command = [sys.executable, "-m", "pytest", "conformance", "-n1", "--checkpoint", str(checkpoint.directory)]
    command += ["--cache-length", str(checkpoint.max_cache_len), "--dtype", checkpoint.dtype]
    command += ["--backend", backend.name, "--mode", arguments.mode, "--examples", str(arguments.examples)]
    command += ["--clause", arguments.clause] if arguments.clause else []
    command += ["--memory-limit", str(arguments.memory_limit)] if arguments.memory_limit else []
    record.unlink(missing_ok=True)
    ended = subprocess.run([*command, "--record", str(record)], cwd=ROOT, env=os.environ | _OFFLINE, check=False)
    if not record.exists():
        return ended.returncode or 2
    from conformance.cli.check import Answer, answer, screen
    from conformance.records.run import load_run

    run = load_run(record)
    print(f"\n{screen(run, checkpoint, backend.name)}\n\nrecord: {record}")
    return {Answer.YES: 0, Answer.NO: 1, Answer.NOT_KNOWN: 2}[answer(run)]


def _chat(arguments: argparse.Namespace) -> None:
    from conformance.cli.chat import Chat, chat

    asked = Chat(arguments.program, arguments.tokenizer, arguments.max_new_tokens, arguments.temperature)
    chat(asked, arguments.prompt or _typed())


def _typed() -> Iterator[str]:
    """Lines from the terminal, or from a pipe."""
    from conformance.cli.chat import RESET

    if sys.stdin.isatty():
        print(f"one prompt a line; {RESET} starts again, Ctrl-D ends", flush=True)
    for line in sys.stdin:
        yield line.strip()


def _backend(arguments: argparse.Namespace) -> Backend:
    if arguments.backend not in BACKENDS:
        raise ValueError(unknown("backend", arguments.backend, BACKENDS))
    backend = BACKENDS[arguments.backend]
    if backend.obstacle:
        raise ValueError(backend.obstacle)
    return backend


def _checkpoint(arguments: argparse.Namespace, usual: int, backend: Backend) -> Checkpoint:
    if arguments.cache_length is not None and arguments.cache_length < 2:
        raise ValueError(
            f"--cache-length {arguments.cache_length}: a cache holds a prompt and an answer, 2 tokens at least"
        )
    checkpoint = read_checkpoint(arguments.checkpoint, arguments.cache_length or 1, arguments.dtype)
    computes = checkpoint.saved_dtype if checkpoint.dtype == "auto" else checkpoint.dtype
    if (backend.prepare or backend.requantise) and computes != "float32":
        raise ValueError(f"{backend.name} quantises a model of float32; leave out --dtype {arguments.dtype}")
    if arguments.cache_length is None:
        return dataclasses.replace(checkpoint, max_cache_len=min(usual, checkpoint.context or usual))
    return checkpoint


class _Steps:
    """Prints each step when it begins, and how long it took when it ends."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._began = time.monotonic()

    def begin(self, what: str) -> None:
        """A step begins."""
        self.end()
        self._done += 1
        print(f"[{self._done}/{self._count}] {what}", end="", flush=True, file=sys.stderr)
        self._began = time.monotonic()

    def end(self) -> None:
        """The step has ended."""
        if self._done:
            print(f", {time.monotonic() - self._began:.1f} s", flush=True, file=sys.stderr)
