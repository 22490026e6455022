"""`conformance model`: a checkpoint's program, whether it may be shipped, and a conversation with it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cli.params import FILE, Name
from conformance.cli.run import NEEDS, pytest_command, run_environment
from conformance.core.commands import command
from conformance.core.console import Group, examples
from conformance.core.contract import Mode
from conformance.core.warnings_filter import silence_third_party

if TYPE_CHECKING:
    from conformance.models.checkpoints import Checkpoint
    from conformance.pipeline.backends import Backend

#: Positions in the cache of a program that is made to be used, in tokens, if the model was made for as many.
_USUAL_CACHE_LENGTH = 512
#: Scripts for each parity clause: each costs a hundred times what it costs on a fixture.
_EXAMPLES = 2
_RECORD = "build/conformance/check.json"
_MIB = 1 << 20
_NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
#: pytest's exit codes for an error of its own and for wrong options.
_NOT_BEGUN = (3, 4)


@click.group("model", cls=Group)
def model() -> None:
    """Export, check and chat with a model of your own.

    A model is a folder as `save_pretrained` writes it, with its weights as safetensors. Nothing is fetched, and no code
    in the folder is run.
    """


def _checkpoint_options(function: Any) -> Any:
    for decorate in (
        click.option(
            "--mode",
            type=Name("MODES"),
            default=Mode.DYNAMIC.value,
            metavar="NAME",
            help="dynamic, or decode for one token a call; default: dynamic",
        ),
        click.option(
            "--dtype",
            type=Name("DTYPE_NAMES"),
            default="float32",
            metavar="NAME",
            help="what the program computes in; auto for what it was saved in; default: float32, to which bfloat16 and "
            "float16 convert without loss",
        ),
        click.option(
            "--cache-length", type=click.IntRange(min=2), metavar="N", help="positions in the static cache, in tokens"
        ),
        click.option(
            "--backend", type=Name("BACKEND_NAMES"), default="xnnpack", metavar="NAME", help="default: xnnpack"
        ),
        click.argument("checkpoint", type=click.Path(path_type=Path), metavar="MODEL_DIR"),
    ):
        function = decorate(function)
    return function


@model.command(
    "export",
    needs=("torch", "transformers", "executorch"),
    epilog=examples("conformance model export MODEL_DIR --backend xnnpack -o model.pte"),
)
@_checkpoint_options
@click.option("-o", "--output", type=FILE, default=Path("model.pte"), metavar="PATH", help="default: model.pte")
def export(checkpoint: Path, backend: str, cache_length: int | None, dtype: str, mode: str, output: Path) -> None:
    """Make a checkpoint's .pte file for ExecuTorch's LLM runner.

    Loads, exports, lowers and emits the model with the reference exporter. Prints the size of the program, the memory
    of its cache, and the operators that the backend took.
    """
    lowering = _backend(backend)
    read = _checkpoint(checkpoint, cache_length, dtype, _USUAL_CACHE_LENGTH, lowering)
    steps = _Steps(4)
    steps.begin(f"loading {read.name}, {read.weight_bytes / _MIB:.0f} MiB of {read.saved_dtype}")
    os.environ.update(run_environment(os.environ) | _NO_BARS)
    silence_third_party()
    from conformance.cli.export_model import export_for_runner, write_program
    from conformance.core.verdicts import CellFailedError, NotRunError
    from conformance.models.checkpoints import load_model

    loaded = load_model(read)
    try:
        artifact = export_for_runner(loaded, lowering, Mode(mode), steps.begin)
    except NotRunError as error:
        raise ValueError(str(error)) from error
    except CellFailedError as error:
        raise ValueError(f"it fails at stage {error.stage}: {error}") from error
    write_program(artifact, output)
    steps.end()
    partition, emission = artifact.partition, artifact.emission
    delegated, undelegated = sum(partition.delegated.values()), len(partition.undelegated_nodes)
    names = sorted(partition.undelegated.items(), key=lambda item: -item[1])
    print(f"wrote {output}: {len(artifact.program) / _MIB:.1f} MiB")
    print(f"  cache     {read.max_cache_len} tokens, {emission.cache_bytes / _MIB:.1f} MiB of memory")
    print(f"  planned   {emission.planned_bytes / _MIB:.1f} MiB of memory, the cache included")
    if lowering.delegating:
        print(f"  {lowering.name:<9} {delegated} of {delegated + undelegated} operators delegated")
        if names:
            print(f"  portable  {', '.join(f'{count} {name}' for name, count in names[:6])}")
    print(f"  try it    {_try_it(output, checkpoint)}")
    print(f"  check it  {command('model', 'check', str(checkpoint), '--backend', lowering.name)}")


def _try_it(program: Path, checkpoint: Path) -> str:
    """The command that talks to the program, or why there is none."""
    from conformance.decoding.reading import TokenizerError, require_readable

    try:
        require_readable(checkpoint)
    except TokenizerError as error:
        return str(error)
    return command("model", "chat", str(program), "--tokenizer", str(checkpoint), "--prompt", "Once upon a time")


@model.command("check", needs=NEEDS, epilog=examples("conformance model check MODEL_DIR --backend xnnpack"))
@_checkpoint_options
@click.option("--clause", type=Name("CLAUSE_NAMES", several=True), metavar="IDS", help="default: all about the model")
@click.option(
    "--max-examples",
    type=click.IntRange(min=1),
    default=_EXAMPLES,
    metavar="N",
    help=f"scripts for each parity clause; default: {_EXAMPLES}; formerly --examples",
)
@click.option("--memory-limit", type=click.IntRange(min=1), metavar="MIB", help="default: four fifths of the machine's")
@click.option(
    "--output",
    type=FILE,
    default=Path(_RECORD),
    metavar="PATH",
    help=f"where the record is written; default: {_RECORD}; formerly --record",
)
def check(
    checkpoint: Path,
    backend: str,
    cache_length: int | None,
    dtype: str,
    mode: str,
    clause: list[str] | None,
    max_examples: int,
    memory_limit: int | None,
    output: Path,
) -> int:
    """May this checkpoint be shipped? Judge its program by the contract.

    Judges the program as a run does a fixture's, by the clauses that depend on the model, and ends with one screen. The
    exit code is 0 for yes, 1 for no, 2 where not everything was judged.
    """
    from conformance.runner.option_table import DEFAULT_CACHE_LENGTH

    lowering = _backend(backend)
    read = _checkpoint(checkpoint, cache_length, dtype, DEFAULT_CACHE_LENGTH, lowering)
    options = ["-n1", f"--checkpoint={read.directory}", f"--cache-length={read.max_cache_len}", f"--dtype={read.dtype}"]
    options += [f"--backend={lowering.name}", f"--mode={mode}", f"--max-examples={max_examples}", f"--output={output}"]
    options += [f"--clause={','.join(clause)}"] if clause else []
    options += [f"--memory-limit={memory_limit}"] if memory_limit else []
    sys.stdout.flush()
    ended = subprocess.run(pytest_command(*options), env=run_environment(os.environ) | _NO_BARS, check=False)
    if ended.returncode in _NOT_BEGUN or not output.exists():  # a record there is that of an earlier run
        return ended.returncode or 2
    from conformance.cli.check import Answer, answer, screen
    from conformance.records.run import load_run

    run = load_run(output)
    print(f"\n{screen(run, read, lowering.name)}\n\nrecord: {output}")
    return {Answer.YES: 0, Answer.NO: 1, Answer.NOT_KNOWN: 2}[answer(run)]


@model.command(
    "chat",
    needs=("executorch", "transformers"),
    epilog=examples('conformance model chat model.pte --tokenizer MODEL_DIR --prompt "Once upon a time"'),
)
@click.argument("program", type=FILE, metavar="MODEL.pte")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="the model's directory, with tokenizer.json",
)
@click.option(
    "--prompt",
    multiple=True,
    metavar="TEXT",
    help="may be given several times, each continuing the conversation; without it, prompts are read line by line",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), metavar="N", help="default: until the cache is full")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="T",
    help="default: 0, the likeliest token",
)
@click.option("--chat", "template", is_flag=True, help="put each prompt into the words of the model's chat template")
@click.option("--system", metavar="TEXT", help="with --chat: the system message")
def chat(
    program: Path,
    tokenizer: Path,
    prompt: tuple[str, ...],
    max_new_tokens: int | None,
    temperature: float,
    template: bool,
    system: str | None,
) -> None:
    """Talk to a .pte file through ExecuTorch's LLM runner.

    Prints the answer to each prompt as it comes, and how fast it came.
    """
    from conformance.cli.chat import Chat, chat

    if system is not None and not template:
        raise ValueError("--system is a message of the chat template; add --chat")
    chat(Chat(program, tokenizer, max_new_tokens or -1, temperature, template, system), prompt or _typed())


def _typed() -> Iterator[str]:
    """Lines from the terminal, or from a pipe."""
    from conformance.cli.chat import RESET

    if sys.stdin.isatty():  # now: what the conversation's own process prints goes to the runner's log
        print(f"one prompt a line; {RESET} starts again, Ctrl-D ends", flush=True)
    return (line.strip() for line in sys.stdin if line.strip())


def _backend(name: str) -> Backend:
    from conformance.pipeline.backends import BACKENDS

    backend = BACKENDS[name]
    if backend.obstacle:
        raise ValueError(backend.obstacle)
    return backend


def _checkpoint(directory: Path, cache_length: int | None, dtype: str, usual: int, backend: Backend) -> Checkpoint:
    from conformance.models.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(directory, cache_length or 1, dtype)
    computes = checkpoint.saved_dtype if checkpoint.dtype == "auto" else checkpoint.dtype
    if (backend.prepare or backend.requantise) and computes != "float32":
        raise ValueError(f"{backend.name} quantises a model of float32; leave out --dtype {dtype}")
    if cache_length is None:
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
