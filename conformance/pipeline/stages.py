"""The stages, one function each: build, export, load. Lower and emit are in `lowering`; executing is a session's step.

Each names itself in whatever it raises (`StageError`), and none keeps anything: the builder does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel

from conformance.core.attention import PORTABLE
from conformance.core.call_shape import WHOLE, CallShape
from conformance.core.cells import split_row
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage, at
from conformance.decoding.custom_operators import CUSTOM_ATTENTION, register_operators, register_operators_of
from conformance.decoding.local_runtime import local_runtime
from conformance.exporters.resolve import Exporter
from conformance.matrix.discovery import registered
from conformance.models.checkpoints import Checkpoint, CheckpointError
from conformance.models.fixtures import BATCH_SIZE, UnknownKeyError, batch_size, cache_length
from conformance.models.loading import Loaded, load_checkpoint
from conformance.models.positions import past_table, table_end
from conformance.models.variations import built, of_row, row_values

if TYPE_CHECKING:
    from executorch.runtime import Method

#: Length of the example in dynamic mode; more than 1, since export would otherwise fix the length at 1.
_DYNAMIC_EXAMPLE_LENGTH = 3


def build(architecture: str) -> PreTrainedModel:
    """The model of a row: a fixture, or a variation of one.

    Of an architecture that the matrix lacks, it is the published config made tiny.

    Raises:
        NotApplicableError: The installed Transformers does not have this architecture.
    """
    if split_row(architecture)[0] not in registered():
        raise NotApplicableError(f"not in transformers {transformers.__version__}")
    with at(Stage.BUILD):
        try:
            return built(row_values(architecture), of_row(architecture))
        except UnknownKeyError as error:  # a difference between versions, and no accident
            raise ClauseViolationError(
                Stage.BUILD,
                "config-lacks-key",
                observed=str(error),
                expected=f"keys that the config of transformers {transformers.__version__} has",
            ) from None


def build_own(checkpoint: Checkpoint) -> Loaded:
    """The checkpoint's model, which has a position for each slot of the cache, and notes on it."""
    with at(Stage.BUILD):
        loaded = load_checkpoint(checkpoint)
        end = table_end(loaded.model)
        if end is not None:
            raise CheckpointError("cache-too-long", past_table(checkpoint.max_cache_len, end))
        return loaded


def export(
    exporter: Exporter,
    model: PreTrainedModel,
    mode: Mode,
    shape: CallShape = WHOLE,
    *,
    attention: str = PORTABLE,
    **options: Any,
) -> ExportedProgram:
    """The exporter's program for `model`, with example inputs of the suite's choice.

    Args:
        exporter: The exporter.
        model: The model, whose rows a call are those of its cache.
        mode: Whether a call takes one token or any number.
        shape: How many at most, and the logits of which are returned.
        attention: One of `conformance.core.attention.ATTENTIONS`.
        options: More keyword arguments of the exporter.

    Raises:
        NotRunError: Attention is custom, and the installed ExecuTorch lacks its operators.
    """
    exporter.require(mode)
    if attention != PORTABLE:
        exporter.require_argument("attention")
        register_operators(CUSTOM_ATTENTION)
        options["attention"] = attention
    if shape.last_logits:
        exporter.require_argument("logits_to_keep")
        options["logits_to_keep"] = 1
    with at(Stage.EXPORT):
        if mode is Mode.DYNAMIC:
            options["dynamic_shapes"] = _dynamic_shapes(shape.longest(cache_length(model)))
        length = _DYNAMIC_EXAMPLE_LENGTH if mode is Mode.DYNAMIC else 1
        program: Any = exporter.export(model, *example_inputs(length, batch_size(model)), **options)
        if not isinstance(program, ExportedProgram):
            raise TypeError(f"the exporter returned {type(program).__name__}, not an ExportedProgram")
        return program


def requantise(
    quantise: Callable[..., ExportedProgram],
    program: ExportedProgram,
    mode: Mode,
    texts: Sequence[tuple[int, ...]],
    longest: int,
) -> ExportedProgram:
    """What `quantise` makes of an exported program, which it exports again in the same way.

    Args:
        quantise: A backend's `requantise`.
        program: The program to quantise.
        mode: The mode of both programs.
        texts: Token ids that ranges are measured on; each text fills the cache.
        longest: The longest call in mode dynamic, in tokens.
    """
    with at(Stage.EXPORT):
        if mode is Mode.DECODE:
            return quantise(program, example_inputs(1), None, texts)
        return quantise(program, example_inputs(_DYNAMIC_EXAMPLE_LENGTH), _dynamic_shapes(longest), texts)


def _dynamic_shapes(longest: int) -> dict[str, Any]:
    seq = Dim("seq", min=1, max=longest)
    return {"input_ids": {1: seq}, "cache_position": {0: seq}}


def load(program: bytes) -> Method:
    """The program's `forward` method, loaded into the runtime with caches of its own."""
    register_operators_of(program)
    with at(Stage.LOAD):
        method: Any = local_runtime().load_program(program).load_method("forward")
        if method is None:
            raise RuntimeError("the program has no method 'forward'")
        return method


def constants(program: bytes, *, load_all: bool = True) -> dict[str, tuple[Any, ...]]:
    """The values of the program's methods that take no inputs, by name: its metadata for a runner.

    Args:
        program: The bytes of its `.pte` file.
        load_all: Whether its other methods have to load too, as a runner loads them.
    """
    with at(Stage.LOAD):
        loaded: Any = local_runtime().load_program(program)
        constant = {name for name in loaded.method_names if not loaded.metadata(name).num_inputs()}
        names = loaded.method_names if load_all else constant
        methods = {name: loaded.load_method(name) for name in sorted(names)}
        return {name: tuple(method.execute(())) for name, method in methods.items() if name in constant}


def example_inputs(length: int, rows: int = BATCH_SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, int64 [rows, length], and cache position, int64 [length], from 0 on."""
    return torch.zeros((rows, length), dtype=torch.long), torch.arange(length)
