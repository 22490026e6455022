"""The options of `conformance model export` and `check`: how a checkpoint's program is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cli.params import Name, import_from_here
from conformance.core.attention import CUSTOM, PORTABLE
from conformance.core.call_shape import CallShape
from conformance.core.contract import Mode
from conformance.core.errors import InputError

if TYPE_CHECKING:
    from conformance.models.checkpoints import Checkpoint
    from conformance.pipeline.backends import Backend
    from conformance.pipeline.program_file import ProgramFile

#: The options whose values are read from a program that is a file.
_OF_THE_FILE = ("mode", "cache_length", "logits", "prompt_chunk", "batch_size", "attention")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as typed; None for those that were not.

    Args:
        backend: One of `BACKENDS`.
        cache_length: Positions in the static cache, in tokens.
        dtype: One of `DTYPES`.
        mode: dynamic or decode.
        logits: all or last.
        prompt_chunk: The longest call, in tokens.
        batch_size: Rows in a call.
        attention: One of `ATTENTIONS`.
    """

    backend: str | None = None
    cache_length: int | None = None
    dtype: str | None = None
    mode: str | None = None
    logits: str | None = None
    prompt_chunk: int | None = None
    batch_size: int | None = None
    attention: str | None = None

    @property
    def shape(self) -> CallShape:
        """The shape of the program's calls."""
        return CallShape(self.logits == "last", self.prompt_chunk)

    @property
    def backend_name(self) -> str:
        """The backend's name."""
        return self.backend or "xnnpack"

    @property
    def dtype_name(self) -> str:
        """The dtype that the program computes in."""
        return self.dtype or "float32"

    @property
    def program_mode(self) -> Mode:
        """The program's mode."""
        return Mode(self.mode or Mode.DYNAMIC)

    @property
    def options(self) -> Iterator[str]:
        """As options of `conformance run`, the defaults too."""
        values = {
            **dataclasses.asdict(self),
            "backend": self.backend_name,
            "dtype": self.dtype_name,
            "mode": self.program_mode,
        }
        for name, value in values.items():
            if value is not None:
                yield f"--{name.replace('_', '-')}={value}"


def checkpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, which the command gets as keyword arguments with the names of `Asked`."""
    for decorate in (
        click.option(
            "--attention",
            type=Name("ATTENTION_NAMES"),
            metavar="NAME",
            help="portable, or custom: attention and cache updates by ExecuTorch's own operators, which an app has to "
            "link in; default: portable",
        ),
        click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="rows in a call; default: 1"),
        click.option(
            "--prompt-chunk",
            type=click.IntRange(min=2),
            metavar="N",
            help="longest call in mode dynamic, in tokens: a longer prompt takes several; default: the cache's length",
        ),
        click.option(
            "--logits",
            type=Name("LOGITS_NAMES"),
            metavar="NAME",
            help="all, or last: of which tokens of a call the program returns the logits; a runner reads the last "
            "alone; default: all",
        ),
        click.option(
            "--mode",
            type=Name("MODES"),
            metavar="NAME",
            help="dynamic, or decode for one token a call; default: dynamic",
        ),
        click.option(
            "--dtype",
            type=Name("DTYPE_NAMES"),
            metavar="NAME",
            help="what the program computes in; auto for what it was saved in; default: float32, to which bfloat16 and "
            "float16 convert without loss",
        ),
        click.option(
            "--cache-length", type=click.IntRange(min=2), metavar="N", help="positions in the static cache, in tokens"
        ),
        click.option("--backend", type=Name("BACKEND_NAMES"), metavar="NAME", help="default: xnnpack"),
    ):
        function = decorate(function)
    return function


def backend_of(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        ValueError: No backend has this name, or this environment lacks a package that it needs.
    """
    from conformance.pipeline.backends import backend_called

    import_from_here()
    backend = backend_called(name)
    if backend.obstacle:
        raise InputError("missing-package", backend.obstacle)
    return backend


def checkpoint_of(directory: Path, asked: Asked, usual_length: int, backend: Backend) -> Checkpoint:
    """The checkpoint in `directory`, as it is to be exported.

    Args:
        directory: Of the model.
        asked: What was typed.
        usual_length: Positions in the cache by default, if the model was made for as many.
        backend: The backend that its program is lowered for.

    Raises:
        ValueError: It holds no model that can be exported, or options do not fit each other.
    """
    from conformance.models.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(directory, asked.cache_length or 1, asked.dtype_name, asked.batch_size or 1)
    computes = checkpoint.saved_dtype if checkpoint.dtype == "auto" else checkpoint.dtype
    if (backend.prepare or backend.requantise) and computes != "float32":
        raise InputError(
            "conflicting-options", f"{backend.name} quantises float32 models; leave out --dtype {asked.dtype}"
        )
    if asked.attention not in (None, backend.attention) and backend.attention != PORTABLE:
        raise InputError(
            "conflicting-options",
            f"{backend.name} has attention {backend.attention}; leave out --attention {asked.attention}",
        )
    if CUSTOM in (asked.attention, backend.attention) and computes != "float32":
        raise InputError(
            "conflicting-options", f"custom attention computes in float32; leave out --dtype {asked.dtype}"
        )
    if asked.prompt_chunk and asked.program_mode is Mode.DECODE:
        raise InputError(
            "conflicting-options", "--prompt-chunk needs --mode dynamic; in mode decode, a call takes one token"
        )
    if asked.cache_length is None:
        length = min(usual_length, checkpoint.context or usual_length)
        checkpoint = dataclasses.replace(checkpoint, max_cache_len=length)
    if asked.prompt_chunk and asked.prompt_chunk > checkpoint.max_cache_len:
        raise InputError(
            "conflicting-options",
            f"--prompt-chunk {asked.prompt_chunk} is longer than the cache of {checkpoint.max_cache_len} tokens; "
            "shorten it, or give a larger --cache-length",
        )
    return checkpoint


def asked_of_file(program: ProgramFile, asked: Asked, vocab: int | None) -> Asked:
    """The options that `program` was exported with, as the file has them.

    Args:
        program: The file.
        asked: What was typed.
        vocab: Number of token ids of its model; None if that is not known.

    Raises:
        ValueError: An option contradicts the file, or leaves open what the file does not say.
    """
    for name in _OF_THE_FILE:
        if getattr(asked, name) is not None:
            raise InputError(
                "conflicting-options", f"--{name.replace('_', '-')} is read from {program.path}; leave it out"
            )
    if len(program.logits) != 3:
        raise InputError(
            "unsupported-program",
            f"{program.path} returns logits {list(program.logits)}; expected [batch, seq, vocab]",
        )
    if vocab is not None and program.vocab != vocab:
        raise InputError(
            "other-model",
            f"{program.path} gives {program.vocab} logits per token, and the model has {vocab} token ids: the "
            "program is of another model",
        )
    backend = asked.backend or program.backend or _by_delegates(program.path)
    return Asked(
        backend=backend,
        cache_length=program.cache_length,
        # Of a backend that quantises, the logits say the dtype that the quantised model computes in.
        dtype=asked.dtype or ("float32" if backend_of(backend).prepare else program.dtype),
        mode=program.mode,
        logits="last" if program.shape.last_logits else None,
        prompt_chunk=program.shape.prompt_chunk,
        batch_size=program.rows if program.rows > 1 else None,
    )


def _by_delegates(path: Path) -> str:
    """The backend that declares the delegates of the program in `path`.

    Raises:
        ValueError: None does.
    """
    from conformance.pipeline.backends import BACKENDS
    from conformance.pipeline.program_file import delegates_of

    delegates = delegates_of(path)
    for backend in BACKENDS.values():
        if backend.delegates == delegates:
            return backend.name
    raise InputError(
        "backend-unclear",
        f"{path} has delegates of {', '.join(delegates)}, which do not identify its backend; add --backend",
    )
