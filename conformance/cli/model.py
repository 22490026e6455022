"""`conformance model`: a checkpoint's program, whether it may be shipped, and a conversation with it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cli.checkpoint_options import Asked, asked_of_file, backend_of, checkpoint_of, checkpoint_options
from conformance.cli.params import FILE, Name
from conformance.cli.run import NEEDS, pytest_command, run_environment
from conformance.cli.steps import Steps
from conformance.core.attention import PORTABLE
from conformance.core.commands import command
from conformance.core.console import Group, examples
from conformance.core.errors import InputError
from conformance.core.warnings_filter import silence_third_party

if TYPE_CHECKING:
    from conformance.records.run import QuantisationRecord

#: Positions in the cache of a program that is made to be used, in tokens, if the model was made for as many.
_USUAL_CACHE_LENGTH = 512
#: Scripts for each parity clause: each costs a hundred times what it costs on a fixture.
_EXAMPLES = 2
_RECORD = "build/conformance/check.json"
_MIB = 1 << 20
_NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@click.group("model", cls=Group)
def model() -> None:
    """Export, check and chat with a model of your own.

    A model is a folder as `save_pretrained` writes it, with its weights as safetensors. Nothing is downloaded, and no
    code in the folder is run.
    """


@model.command(
    "export",
    needs=("torch", "transformers", "executorch"),
    epilog=examples("conformance model export MODEL_DIR --backend xnnpack -o model.pte"),
)
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="MODEL_DIR")
@checkpoint_options
@click.option("-o", "--output", type=FILE, default=Path("model.pte"), metavar="PATH", help="default: model.pte")
def export(checkpoint: Path, output: Path, **options: Any) -> None:
    """Make a checkpoint's .pte file for ExecuTorch's LLM runner.

    Loads, exports, lowers and emits the model with the reference exporter. Prints the size of the program, the memory
    of its cache, and the operators that the backend delegates.
    """
    asked = Asked(**options)
    lowering = backend_of(asked.backend_name)
    read = checkpoint_of(checkpoint, asked, _USUAL_CACHE_LENGTH, lowering)
    steps = Steps(4)
    steps.note(read.notes)
    steps.begin(f"loading {read.name}, {read.weight_bytes / _MIB:.0f} MiB of {read.saved_dtype}")
    os.environ.update(run_environment(os.environ) | _NO_BARS)
    silence_third_party()
    from conformance.cli.export_model import export_for_runner, write_program
    from conformance.cli.quantised import quantised_lines
    from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError
    from conformance.models.loading import load_checkpoint
    from conformance.models.positions import past_table, shorten_cache, table_end
    from conformance.pipeline.delegation_progress import telling_delegates

    quantised: list[QuantisationRecord] = []
    try:
        loaded = load_checkpoint(read)
        steps.note(loaded.notes[len(read.notes) :])
        end = table_end(loaded.model)
        if end is not None and asked.cache_length is not None:
            raise InputError("cache-too-long", past_table(asked.cache_length, end))
        if end is not None:  # its config does not say how many positions it has
            read = dataclasses.replace(read, max_cache_len=end)
            shorten_cache(loaded.model, end)
        with telling_delegates(lambda number, count: steps.at(f"delegate {number} of {count}")):
            artifact = export_for_runner(
                loaded.model,
                lowering,
                asked.program_mode,
                steps.begin,
                asked.shape,
                quantised.append,
                asked.attention or PORTABLE,
            )
    except (NotRunError, NotApplicableError) as error:
        raise InputError("cannot-export", str(error)) from error
    except CellFailedError as error:
        raise InputError("cannot-export", f"{read.name} fails at stage {error.stage}: {error}") from error
    finally:
        steps.end()
    write_program(artifact, output)
    partition, emission = artifact.partition, artifact.emission
    delegated, undelegated = sum(partition.delegated.values()), len(partition.undelegated_nodes)
    names = sorted(partition.undelegated.items(), key=lambda item: -item[1])
    print(f"wrote {output}: {len(artifact.program) / _MIB:.1f} MiB")
    print(f"  cache     {read.max_cache_len} tokens, {emission.cache_bytes / _MIB:.1f} MiB of memory")
    print(f"  planned   {emission.planned_bytes / _MIB:.1f} MiB of memory, the cache included")
    for made in quantised:
        for line in quantised_lines(made, emission.constant_bytes):
            print(f"  {line}")
    if lowering.delegating:
        print(f"  {lowering.name:<9} {delegated} of {delegated + undelegated} operators delegated")
        if names:
            print(f"  portable  {', '.join(f'{count} {name}' for name, count in names[:6])}")
    custom = [name for name in emission.operators if name.startswith("llama::")]
    if custom:
        print(f"  link      {', '.join(custom)}: an app needs these operators of ExecuTorch beside the portable ones")
    print(f"  made      with {steps.peak_bytes / _MIB:.0f} MiB of memory at most")
    if read.batch_size == 1:
        print(f"  try it    {_try_it(output, checkpoint.parent if read.gguf else checkpoint)}")
    print(f"  check it  {command('model', 'check', str(output), '--model', str(checkpoint))}")


def _try_it(program: Path, tokenizer: Path) -> str:
    """The command that talks to the program, or why there is none."""
    from conformance.decoding.reading import TokenizerError, require_readable

    try:
        require_readable(tokenizer)
    except TokenizerError as error:
        return str(error)
    return command("model", "chat", str(program), "--tokenizer", str(tokenizer), "--prompt", "Once upon a time")


@model.command(
    "check",
    needs=NEEDS,
    error_code=2,
    epilog=examples(
        "conformance model check MODEL_DIR --backend xnnpack", "conformance model check model.pte --model MODEL_DIR"
    ),
)
@click.argument("subject", type=click.Path(path_type=Path), metavar="MODEL_DIR|MODEL.pte")
@click.option(
    "--model",
    "directory",
    type=click.Path(path_type=Path),
    metavar="MODEL_DIR",
    help="the checkpoint that a MODEL.pte was made from",
)
@checkpoint_options
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
    subject: Path,
    directory: Path | None,
    clause: list[str] | None,
    max_examples: int,
    memory_limit: int | None,
    output: Path,
    **options: Any,
) -> int:
    """Decide whether a checkpoint, or a program of it, may be shipped.

    Judges the program that `export` would write, or MODEL.pte itself, by the clauses that depend on the model, and
    prints one screen. The exit code is 0 for yes, 1 for no, 2 where that is not known.
    """
    from conformance.runner.option_table import DEFAULT_CACHE_LENGTH

    asked, program = Asked(**options), None
    if subject.suffix == ".pte" and not subject.exists():
        raise InputError("file-error", f"{subject}: no such file")
    if directory is not None and subject.is_dir():
        raise InputError("conflicting-options", f"--model needs a MODEL.pte; {subject} is a directory")
    if directory is not None or (subject.suffix == ".pte" and subject.is_file()):
        if directory is None:
            raise InputError(
                "conflicting-options",
                f"{subject} is a program: add --model MODEL_DIR, the checkpoint that it was exported from",
            )
        program = subject
        asked = _asked_of_file(program, directory, asked)
    lowering = backend_of(asked.backend_name)
    read = checkpoint_of(directory or subject, asked, DEFAULT_CACHE_LENGTH, lowering)
    Steps(0).note(read.notes)
    asked = dataclasses.replace(asked, cache_length=read.max_cache_len)
    if lowering.attention != PORTABLE:  # asked for by name, a refusal is a no, and not not-applicable
        asked = dataclasses.replace(asked, attention=lowering.attention)
    arguments = ["-n0", f"--checkpoint={read.path}", *asked.options]
    arguments += [f"--max-examples={max_examples}", f"--output={output}"]
    arguments += [f"--program={program}"] if program else []
    arguments += [f"--clause={','.join(clause)}"] if clause else []
    arguments += [f"--memory-limit={memory_limit}"] if memory_limit else []
    sys.stdout.flush()
    before = _written(output)
    subprocess.run(pytest_command(*arguments), env=run_environment(os.environ) | _NO_BARS, check=False)
    if _written(output) == before:  # the run did not begin or was killed; the record is an earlier one
        return 2
    from conformance.cli.check import Answer, answer, screen
    from conformance.records.run import load_run

    run = load_run(output)
    print(f"\n{screen(run, read)}\n\nrecord: {output}")
    return {Answer.YES: 0, Answer.NO: 1, Answer.NOT_KNOWN: 2}[answer(run)]


def _written(path: Path) -> int | None:
    """When the file was written; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def _asked_of_file(path: Path, directory: Path, asked: Asked) -> Asked:
    """The options that fit the program at `path`, of the checkpoint in `directory`."""
    from conformance.models.checkpoints import read_checkpoint

    vocab = read_checkpoint(directory, 1).config.get("vocab_size")
    os.environ.update(run_environment(os.environ) | _NO_BARS)
    silence_third_party()
    from conformance.pipeline.program_file import read_program

    return asked_of_file(read_program(path), asked, vocab)


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

    Prints the answer to each prompt as it comes, and its speed.
    """
    from conformance.cli.chat import Chat, chat

    if system is not None and not template:
        raise InputError("conflicting-options", "--system needs --chat: the chat template holds the message")
    chat(Chat(program, tokenizer, max_new_tokens or -1, temperature, template, system), prompt or _typed())


def _typed() -> Iterator[str]:
    """Lines from the terminal, or from a pipe."""
    from conformance.cli.chat import RESET

    if sys.stdin.isatty():  # now: what the conversation's own process prints goes to the runner's log
        print(f"one prompt a line; {RESET} starts again, Ctrl-D ends", flush=True)
    return (line.strip() for line in sys.stdin if line.strip())
