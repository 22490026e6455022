"""Deliberately faulty exporters: the program is the reference's, what goes on around it is wrong.

They are subjects too: `tox -e conformance -- --arch llama --subject tests.faults.exporters:rounds_weights`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export import export as traced_by_name
from transformers import GenerationConfig, PreTrainedModel

from conformance.reference import PositionsEndError, TorchExportableModuleWithStaticCache, convert_and_export_with_cache
from tests.faults.programs import Tensor, _subject, ignores_cache_position


def ignores_dynamic_shapes(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Exports the example's length, whatever was asked."""
    return convert_and_export_with_cache(model, *examples)


def needs_examples(
    model: PreTrainedModel, example_input_ids: Tensor, example_cache_position: Tensor
) -> ExportedProgram:
    """Cannot make up its own."""
    return convert_and_export_with_cache(model, example_input_ids, example_cache_position)


def accepts_anything(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Mends a misconfigured model in silence."""
    model.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 32}
    )
    return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)


def traces_first(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Traces before it looks at the model's settings, with a function that it has imported by name."""
    traced_by_name(torch.nn.Identity(), (torch.zeros(1),))
    return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)


def fails_to_evaluate(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Fails for a model in training mode, with an error that does not say so."""
    if model.training:
        raise RuntimeError("failed to evaluate the retrieval of a value")
    return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)


def refuses_training_late(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Refuses a model in training mode after it has traced it."""
    trained = model.training
    program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    if trained:
        raise ValueError("call model.eval() first")
    return program


def runs_past_the_positions(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Makes the cache as long as it was asked for, whatever the model's table of positions holds."""
    try:
        return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    except PositionsEndError:
        return torch.export.export(model, examples, dynamic_shapes=dynamic_shapes)


def trips_over_the_positions(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Refuses a cache longer than the model's table of positions in unhelpful words."""
    try:
        return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    except PositionsEndError as error:
        raise IndexError("index out of range in self") from error


def keeps_one_position(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Takes any number of tokens, and the first one's position only."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner(ids, position[0] + torch.arange(ids.shape[1]))

    ids, position = examples
    shapes = dynamic_shapes and {"input_ids": dynamic_shapes["input_ids"], "cache_position": None}
    return _subject(step)(model, ids, position[:1], dynamic_shapes=shapes)


def four_tokens(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Takes four tokens a call, whatever was asked."""
    return convert_and_export_with_cache(model, torch.zeros((1, 4), dtype=torch.long), torch.arange(4))


def two_positions(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Takes a token and two positions, of which it ignores the second."""

    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner(ids, position[:1])

    return _subject(step)(model, torch.zeros((1, 1), dtype=torch.long), torch.arange(2))


def half_the_length(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Takes chunks up to half of the cache only."""
    seq = torch.export.Dim("seq", min=1, max=16)
    shapes = {"input_ids": {1: seq}, "cache_position": {0: seq}}
    return convert_and_export_with_cache(model, *examples, dynamic_shapes=shapes)


def leaves_train_mode(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Puts one module into train mode."""
    program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    next(model.children()).training = True
    return program


def changes_the_config(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Turns caching off for good."""
    program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    model.config.use_cache = not model.config.use_cache
    return program


def moves_random_state(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Draws from the global generator."""
    torch.rand(1)
    return convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)


def rounds_weights(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Exports what was asked, and leaves the model with less precise weights."""
    program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    with torch.no_grad():
        weight = next(model.parameters())
        weight.copy_(weight.to(torch.bfloat16))
    return program


def changes_the_config_when_strict(
    model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None, strict: bool = False
) -> ExportedProgram:
    """Turns caching off for good, but only where TorchDynamo traces."""
    program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes, strict=strict)
    model.config.use_cache = model.config.use_cache and not strict
    return program


def without_examples_at_0_only(
    model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None
) -> ExportedProgram:
    """Makes up examples of its own, and a program that takes each call for the first one."""
    return (convert_and_export_with_cache if examples else ignores_cache_position)(
        model, *examples, dynamic_shapes=dynamic_shapes
    )


def counts_exports(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Has a constant that is another in each program, too small to change the logits."""
    return _with_constant(1e-12 * next(_exports))(model, *examples, dynamic_shapes=dynamic_shapes)


def depends_on_the_hash_seed(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """The same, in each process."""
    return _with_constant(1e-12 * (hash("seed") % 1_000_003))(model, *examples, dynamic_shapes=dynamic_shapes)


_exports = itertools.count(1)


def _with_constant(value: float) -> Callable[..., ExportedProgram]:
    def step(inner: Any, ids: Tensor, position: Tensor) -> Any:
        return inner(ids, position) + value

    return _subject(step)


def trains(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Traces the model in the mode that it finds it in."""
    inner = TorchExportableModuleWithStaticCache(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return torch.export.export(inner.train(model.training), examples, dynamic_shapes=dynamic_shapes, strict=False)


def leaves_evaluation_mode(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Exports in evaluation mode, and stays in it."""
    return convert_and_export_with_cache(model.eval(), *examples, dynamic_shapes=dynamic_shapes)


def cannot_be_saved(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Calls a Python function that no file can hold."""
    program = convert_and_export_with_cache(model, *examples, dynamic_shapes=dynamic_shapes)
    graph = program.graph
    outputs: Any = graph.output_node().args[0]
    logits = outputs[-1]
    with graph.inserting_after(logits):
        called = graph.call_function(_as_it_is, (logits,))
    called.meta = dict(logits.meta)
    return program


def _as_it_is(logits: Tensor) -> Tensor:
    return logits


_calls: dict[str, int] = {}


@torch.library.custom_op("conformance_tests::call_number", mutates_args=())
def _call_number(position: Tensor) -> Tensor:
    """How many calls there were since position 0, of any session of this process."""
    _calls["since"] = 0 if int(position[0]) == 0 else _calls.get("since", 0) + 1
    return torch.tensor(float(_calls["since"]))


@_call_number.register_fake
def _(position: Tensor) -> Tensor:
    return torch.empty(())


def _shares_state(inner: Any, ids: Tensor, position: Tensor) -> Any:
    return inner(ids, position) + 0.01 * (torch.ops.conformance_tests.call_number(position) - position[0])


shares_state = _subject(_shares_state)


_last: dict[str, int] = {}


@torch.library.custom_op("conformance_tests::other_session", mutates_args=())
def _other_session(position: Tensor, own: Tensor, ids: Tensor) -> Tensor:
    """Whether the last token of any session of this process is another than `own`, which this session keeps."""
    differs = int(position[0]) > 0 and _last["token"] != int(own)
    _last["token"] = int(ids[0, -1])
    return torch.tensor(differs)


@_other_session.register_fake
def _(position: Tensor, own: Tensor, ids: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.bool)


def _shares_state_between_loads(inner: Any, ids: Tensor, position: Tensor) -> Any:
    """Right for any one session, and wrong where another has made the last call."""
    logits, own = inner(ids, position), inner.get_buffer("own")
    differs = torch.ops.conformance_tests.other_session(position, own, ids)
    own.copy_(ids[0, -1])
    return torch.where(differs, logits.flip(-1), logits)


shares_state_between_loads = _subject(_shares_state_between_loads)


def ignores_multipliers(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Knows Llama, and not what makes a model Granite."""
    names = ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier")
    plain = _with_config(model, **dict.fromkeys(names, 1.0))
    return convert_and_export_with_cache(plain, *examples, dynamic_shapes=dynamic_shapes)


def derives_attention_scaling(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Scales queries by the size of a head, as most models do."""
    plain = _with_config(model, query_pre_attn_scalar=model.config.head_dim)
    return convert_and_export_with_cache(plain, *examples, dynamic_shapes=dynamic_shapes)


def forgets_key_multiplier(model: PreTrainedModel, *examples: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    """Ignores one of Falcon-H1's seven multipliers."""
    plain = _with_config(model, key_multiplier=1.0)
    return convert_and_export_with_cache(plain, *examples, dynamic_shapes=dynamic_shapes)


def _with_config(model: PreTrainedModel, **fields: Any) -> PreTrainedModel:
    """A model with the same weights and other values of these fields of its config."""
    config = copy.deepcopy(model.config)
    for name, value in fields.items():
        assert hasattr(config, name), name
        setattr(config, name, value)
    other: PreTrainedModel = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    other.generation_config = model.generation_config
    return other
