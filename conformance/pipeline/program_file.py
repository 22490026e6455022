"""What a `.pte` file says of itself: its calls, its metadata and its delegates."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conformance.core.call_shape import CallShape
from conformance.core.contract import Mode
from conformance.core.errors import InputError
from conformance.decoding.local_runtime import local_runtime
from conformance.pipeline.backends import BACKENDS
from conformance.process.fork import collect, ending

#: The first bytes of a program, behind the offset of its root table.
_MAGIC = (b"ET12",)
#: The constant method that a program which the suite wrote has its backend's name in. ExecuTorch's runners ignore it.
RECIPE = "conformance_backend"
#: The constant methods that are read.
_METADATA = ("get_max_seq_len", "get_max_context_len", "use_kv_cache", "get_eos_ids", RECIPE)
#: Seconds for loading a program and reading its metadata.
_SECONDS = 600
#: `exir.schema.ScalarType` of what a program takes and returns, and torch's name for it.
_DTYPES = {4: "int64", 5: "float16", 6: "float32", 7: "float64", 15: "bfloat16"}


class ProgramFileError(InputError):
    """A file holds no program that decodes with a static cache; the message says what it holds."""


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A program with `forward(input_ids, cache_position) -> logits`. Lengths are in tokens.

    Args:
        path: Where it is.
        rows: Rows a call.
        cache_length: Positions in the cache, as its metadata say.
        mode: Whether a call takes one token or any number.
        shape: How many at most, and the logits of which are returned.
        logits: The shape of the longest call's logits: [rows, seq, vocab], or [rows, vocab], which ExecuTorch's LLM
            runner reads too.
        dtype: Of the logits, by torch's name.
        ends: The ids that end a text; empty where the program leaves that to the tokenizer.
        backend: Which of the suite's backends it was lowered for, if it says so.
    """

    path: Path
    rows: int
    cache_length: int
    mode: Mode
    shape: CallShape
    logits: tuple[int, ...]
    dtype: str
    ends: tuple[int, ...] = ()
    backend: str | None = None

    @property
    def vocab(self) -> int:
        """Number of logits of a token."""
        return self.logits[-1]


def read_program(path: Path) -> ProgramFile:
    """Read the program at `path`, in a child process: a damaged one can end the process that loads it.

    Raises:
        ProgramFileError: It is not a program, or not one of token ids and cache position.
    """
    try:
        with path.open("rb") as file:
            if not file.read(8).endswith(_MAGIC):
                raise ProgramFileError(
                    "invalid-program",
                    f"{path} is not an ExecuTorch program: its first bytes are not those of a .pte file",
                )
    except OSError as error:
        raise ProgramFileError.of_file(path, error) from error
    with tempfile.TemporaryFile() as output:
        found, code = collect(lambda: _described(path), output=output.fileno(), seconds=_SECONDS)
    if code == -signal.SIGALRM:
        raise ProgramFileError(
            "invalid-program", f"{path}: loading it exceeded {_SECONDS} s; the machine is busy, or the program damaged"
        )
    if code:
        raise ProgramFileError(
            "invalid-program",
            f"{path}: the process that loaded it {ending(code)}; it is damaged, or made by another ExecuTorch",
        )
    described = found[0]
    if isinstance(described, str):
        raise ProgramFileError("unsupported-program", f"{path}: {described}")
    program: ProgramFile = described
    return program


def _described(path: Path) -> Iterator[ProgramFile | str]:
    """In the child process: the program, or what is wrong with it."""
    try:
        yield _read(path)
    except (RuntimeError, ProgramFileError) as error:
        yield str(error)


def _read(path: Path) -> ProgramFile:
    loaded: Any = local_runtime().load_program(path)  # maps it into memory: a program may be as large as that
    if "forward" not in loaded.method_names:
        raise ProgramFileError(
            "unsupported-program", f"it has no method `forward`; it has {', '.join(sorted(loaded.method_names))}"
        )
    ids, logits = _boundary(loaded.metadata("forward"))
    metadata = {name: tuple(loaded.load_method(name).execute(())) for name in loaded.method_names if name in _METADATA}
    longest = _number(metadata.get("get_max_seq_len"))
    if longest is None:
        raise ProgramFileError(
            "unsupported-program",
            "it does not say how long its cache is: it lacks the method get_max_seq_len, without which ExecuTorch's "
            "LLM runner refuses it too; `conformance model export` writes it",
        )
    if metadata.get("use_kv_cache") == (False,):
        raise ProgramFileError(
            "unsupported-program",
            "its method use_kv_cache says that it has no cache; expected a program with a static cache",
        )
    length = _number(metadata.get("get_max_context_len")) or longest
    calls = ids.sizes()[1]
    shape = tuple(logits.sizes())
    mode = Mode.DYNAMIC if calls > 1 else Mode.DECODE
    chunk = calls if mode is Mode.DYNAMIC and calls < length else None
    return ProgramFile(
        path=path,
        rows=ids.sizes()[0],
        cache_length=length,
        mode=mode,
        shape=CallShape(mode is Mode.DYNAMIC and shape[1:-1] in ((), (1,)), chunk),
        logits=shape,
        dtype=_DTYPES[logits.dtype()],
        ends=tuple(int(token) for token in metadata.get("get_eos_ids", ())),
        backend=next((name for name in metadata.get(RECIPE, ()) if name in BACKENDS), None),
    )


def delegates_of(path: Path) -> tuple[str, ...]:
    """The ids of the program's delegates in ExecuTorch, such as XnnpackBackend, in order.

    All of the file is copied into memory: ExecuTorch's Python binding does not expose them.
    """
    return tuple(sorted({delegate.id for delegate in forward_plan(path.read_bytes()).delegates}))


def forward_plan(program: bytes) -> Any:
    """ExecuTorch's description of a program's `forward` (`executorch.exir.schema.ExecutionPlan`)."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    return next(plan for plan in deserialize_pte_binary(program).program.execution_plan if plan.name == "forward")


def _boundary(forward: Any) -> tuple[Any, Any]:
    """Token ids [batch, seq] and logits [batch, seq, vocab] or [batch, vocab], as `forward`'s metadata have them."""
    inputs = [forward.input_tensor_meta(index) for index in range(forward.num_inputs())]
    outputs = [forward.output_tensor_meta(index) for index in range(forward.num_outputs())]
    shapes = [list(value.sizes()) for value in (*inputs, *outputs)]
    kinds = [_DTYPES.get(value.dtype(), "another type") for value in (*inputs, *outputs)]
    fits = (
        [len(shape) for shape in shapes] in ([2, 1, 3], [2, 1, 2])
        and kinds[:2] == ["int64", "int64"]
        and getattr(torch, kinds[2], torch.long).is_floating_point
    )
    if not fits or len(inputs) != 2:
        shown = ", ".join(f"{kind} {shape}" for kind, shape in zip(kinds, shapes, strict=True))
        raise ProgramFileError(
            "unsupported-program",
            f"`forward` has {len(inputs)} inputs and {len(outputs)} outputs, {shown}; expected token ids int64 [batch, "
            "seq] and cache position int64 [seq] in, and logits [batch, seq, vocab] out",
        )
    return inputs[0], outputs[0]


def _number(values: tuple[Any, ...] | None) -> int | None:
    return int(values[0]) if values and isinstance(values[0], int) and values[0] > 0 else None
