"""Export: the program has the runner's signature, owns its cache, takes the lengths it promises, and can be kept.

Exporting leaves the model alone, and refuses one that is misconfigured.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import inspect
import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import CustomObjArgument, InputKind, OutputKind
from torch.fx import Node
from torch.utils._pytree import TreeSpec
from transformers import Cache, GenerationConfig, PreTrainedModel

from conformance.checks.case import Case, clause, tensors
from conformance.checks.compare import run_script
from conformance.checks.signature import assert_signature
from conformance.core.contract import Mode
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, Stage, StageError, at
from conformance.decoding.oracle import cache_states
from conformance.decoding.scripts import token_by_token
from conformance.exporters.resolve import Exporter
from conformance.models.fixtures import batch_size
from conformance.pipeline.builder import BuiltProgram
from conformance.pipeline.identity import difference
from conformance.pipeline.model_snapshot import changes, footprint
from conformance.pipeline.process_snapshot import Change
from conformance.pipeline.stages import example_inputs, export

#: Changes named before "and N more".
_SHOWN = 3
#: Probability of dropout in a model that trains, and what the names of such attributes have in common.
_PROBABILITY, _DROPOUT = 0.5, "drop"
#: What an error says that refuses a model in training mode: words that name a mode, not any with "eval" in them.
_TRAINING_WORDS = re.compile(r"\b(train(ing)?|eval(uation)?) mode\b|\.eval\(\)")
#: Tokens decoded where it is not refused.
_TRAINED_TOKENS = 4
#: What an error says that refuses a cache longer than the model's table of positions, beside the number of these.
_TABLE_WORDS = ("max_cache_len", "position")


@clause("EXP-1")
def test_signature(case: Case) -> None:
    """Token ids and cache position in, logits out, and nothing else."""
    longest = None if case.mode is Mode.DECODE else case.space.chunk
    assert_signature(case.program, case.space.vocab, batch_size(case.model), longest, case.builder.shape)


@clause("EXP-2")
def test_no_cache_objects(case: Case) -> None:
    """No cache object at the graph's boundary, not even taken apart."""
    program = case.program
    spec = program.call_spec
    boundary = [kind for part in (spec.in_spec, spec.out_spec) if part is not None for kind in _kinds(part)]
    caches = [kind.__name__ for kind in boundary if isinstance(kind, type) and issubclass(kind, Cache)]
    specs = (*program.graph_signature.input_specs, *program.graph_signature.output_specs)
    caches += [s.arg.class_fqn for s in specs if isinstance(s.arg, CustomObjArgument)]
    if caches:
        raise _violation("cache-at-boundary", f"{', '.join(caches)} at the graph's boundary", "tensors only")


@clause("EXP-3")
def test_cache_is_buffers(case: Case) -> None:
    """Each cache tensor is one buffer, mutated in place."""
    program = case.program
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    mutated = mutated_buffers(program)
    case.metrics["mutated_buffers"] = len(mutated)
    for name in mutated:
        kind = inputs[name].kind
        if kind is not InputKind.BUFFER:
            raise _violation("cache-not-a-buffer", f"{name}, a {kind.name.lower()}, is mutated", "buffers only")
    outputs = [spec.arg.name for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    nodes = {node.name: node for node in program.graph.nodes}
    returned = sorted({_root(nodes[name]).name for name in outputs if name in nodes} & mutated)
    if returned:
        raise _violation("cache-returned", f"{', '.join(returned)} among the outputs", "logits alone")
    held = {**program.state_dict, **program.constants}
    storages: dict[int, list[str]] = {}
    for target, tensor in held.items():
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            storages.setdefault(tensor.untyped_storage().data_ptr(), []).append(target)
    targets = {inputs[name].target for name in mutated}
    for alike in storages.values():
        if len(alike) > 1 and targets.intersection(alike):
            raise _violation("cache-duplicated", f"{' and '.join(alike)} are one tensor", "each tensor once")
    cache = case.oracle.new_cache()
    case.oracle.step(cache, 0)
    states = len(list(cache_states(cache)))
    if len(mutated) < states:
        raise _violation("cache-missing", f"{len(mutated)} mutated buffers", f"at least {states} cache tensors")


@clause("EXP-4")
def test_strict_or_not(case: Case) -> None:
    """Traced by TorchDynamo or by the Python interpreter, in either case right up to the last slot."""
    strict = inspect.signature(case.exporter.export).parameters.get("strict")
    if strict is None:
        raise NotApplicableError(f"{case.exporter.name} takes no `strict`")
    full = case.space.text(0)
    chunks = () if case.mode is Mode.DECODE else (2, len(full) - 3)
    for choice in (True, False):
        program = case.program
        if choice is not strict.default:
            program, side_effects = _export_anew(case, strict=choice)
            _assert_unchanged(side_effects)
        run_script(case, case.space.in_chunks(full, chunks), case.session_of(program))


@clause("EXP-5")
def test_dynamic_length(case: Case) -> None:
    """Any length from 1 to the longest call, which is the whole cache unless a shorter one was asked for."""
    length = next(n for n in case.program.graph.nodes if n.name == "input_ids").meta["val"].shape[1]
    if isinstance(length, int):
        raise _violation("length-fixed", f"input_ids has a sequence length of {length}", "a dynamic one")
    longest = case.space.chunk
    for tokens in sorted({1, 2, longest - 1, longest}):
        session = case.new_session()
        try:
            session.step(*tensors(case.space.text(0)[:tokens], 0))
        except StageError as error:
            raise _violation("length-refused", f"{tokens} tokens: {error}", "logits") from error


@clause("EXP-6")
def test_no_examples(case: Case) -> None:
    """From the model alone."""
    run_script(case, token_by_token(case.space.text(0)), case.session_of(case.built.exported_without_examples))


@clause("EXP-7")
def test_saved_and_loaded(case: Case) -> None:
    """As bytes, and back."""
    held = io.BytesIO()
    # Where the example inputs hold a cache, torch warns with one argument for two places, and pytest, which keeps what
    # is logged, makes an error of that.
    quiet = mock.patch.object(logging.getLogger("torch._export.serde.serialize"), "disabled", True)
    with at(Stage.EXPORT), quiet:
        torch.export.save(case.program, held)
        held.seek(0)
        program = torch.export.load(held)
    case.metrics["saved_bytes"] = held.getbuffer().nbytes
    chunks = () if case.space.chunk == 1 else (3,)
    run_script(case, case.space.in_chunks(case.space.text(0)[:5], chunks), case.session_of(program))


@clause("EXP-8")
def test_model_is_left_alone(case: Case) -> None:
    """The model and the process, after the export whose program the other clauses judge."""
    _assert_unchanged(case.built.side_effects)


def _assert_unchanged(changed: list[Change]) -> None:
    if not changed:
        return
    # Of each kind the first, then the rest: the weights of a model are many.
    leading = {change.kind: change for change in reversed(changed)}
    shown = [*leading.values(), *(change for change in changed if change not in leading.values())][:_SHOWN]
    more = f" and {len(changed) - len(shown)} more" if len(changed) > len(shown) else ""
    observed = f"changed: {'; '.join(change.text for change in shown)}{more}"
    # What an exporter leaves in the model shows in each export; in the process, in its first one perhaps.
    if any(change.kind == "model" for change in changed):
        raise _violation("model-changed", observed, "an unchanged model")
    kinds = "+".join(dict.fromkeys(change.kind for change in changed))
    raise _violation(f"process-changed:{kinds}", observed, "an unchanged process")


@clause("EXP-10")
def test_same_program_again(case: Case) -> None:
    """Exported twice: what one export leaves behind, such as a counter, shows in the next.

    That of EXP-6 was the second, where it gave the same program though it had no example inputs.
    """
    second = BuiltProgram.exported_without_examples.so_far(case.built)
    if second is not None and not difference(case.program, second):
        return
    differing = difference(case.program, _export_anew(case)[0])
    if differing:
        raise _violation("programs-differ", differing, "the same program as from the first export")


@clause("EXP-11")
def test_training_mode(case: Case) -> None:
    """With every dropout at a half, which evaluation does not draw on; or refused before tracing."""
    try:
        with _same_random_numbers():
            program, side_effects = _export_anew(case, _train)
    except StageError as error:
        if error.stage is Stage.EXPORT and _TRAINING_WORDS.search(str(error)) and _is_raised_before_tracing(case):
            case.metrics["refused"] = 1
            return
        raise
    run_script(case, token_by_token(case.space.text(0)[:_TRAINED_TOKENS]), case.session_of(program))
    left = [change for change in side_effects if change.text.startswith("train mode")]
    if left:
        raise _violation("mode-changed", f"{len(left)} modules changed, the first by {left[0].text}", "training mode")


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Draw the same ones whatever was judged before.

    An exporter may run the model first, as `transformers-exporters` does for a cache: which layers OPT or TrOCR then
    drops at random decided where its export ended.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _is_raised_before_tracing(case: Case) -> bool:
    """Whether exporting a model in training mode fails before tracing. It is known to fail."""
    with contextlib.suppress(StageError), _no_tracing():
        try:
            _export_anew(case, _train)
        except _TracingBegan:
            return False
    return True


def _train(model: PreTrainedModel) -> None:
    """Put `model` into training mode, and give each module such probabilities that this shows in the logits."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = _PROBABILITY
        for name, value in vars(module).items():
            if isinstance(value, float) and _DROPOUT in name:
                setattr(module, name, _PROBABILITY)


def _export_anew(
    case: Case, prepare: Callable[[PreTrainedModel], None] = lambda _: None, **options: Any
) -> tuple[ExportedProgram, list[Change]]:
    """The exporter's program for a newly built model that was prepared, and what exporting it changed."""
    model = case.model_to_export()
    prepare(model)
    before = footprint(model)
    program = export(case.exporter, model, case.mode, case.builder.shape, **options)
    return program, [Change("model", text) for text in changes(before, footprint(model))]


class _TracingBegan(BaseException):
    """Not an `Exception`, so that no exporter catches it."""


def _no_tracing() -> AbstractContextManager[object]:
    """Raise `_TracingBegan` in place of tracing.

    Patched is what `torch.export.export` calls: an exporter may have imported that by name.
    """
    return mock.patch("torch.export._trace._export", side_effect=_TracingBegan)


@clause("EXP-9")
def test_misconfigured(case: Case) -> None:
    """Refused before tracing, by an error that names what is wrong."""
    exporter, model, refused = case.exporter, case.model_to_export(), 0
    valid = model.generation_config
    for what, words, misconfigure in _MISCONFIGURATIONS:
        model.generation_config = copy.deepcopy(valid)
        misconfigure(model)
        _assert_refused(exporter, model, what, words)
        refused += 1
    end = _end_of_positions(model, case.space.vocab)
    if end is not None:
        model.generation_config = copy.deepcopy(valid)
        _cache("max_cache_len", end + 1)(model)
        _assert_refused(exporter, model, f"a cache of {end + 1} tokens for {end} positions", _TABLE_WORDS, end)
        refused += 1
    case.metrics["misconfigurations"] = refused


@torch.no_grad()
def _end_of_positions(model: PreTrainedModel, vocab: int) -> int | None:
    """The length of the longest text that the model takes without a cache; None if it takes more than the config says.

    Found by bisection, without the exporter: where the model counts its positions from differs, as does their name.
    """
    stated = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1 or _takes(model, vocab, stated + 1):
        return None
    lengths = range(1, stated + 1)
    return bisect.bisect_left(lengths, True, key=lambda length: not _takes(model, vocab, length)) or None


def _takes(model: PreTrainedModel, vocab: int, length: int) -> bool:
    try:
        model(input_ids=torch.full((1, length), vocab - 1), use_cache=False)
    except (RuntimeError, IndexError, ValueError):
        return False
    return True


def _assert_refused(
    exporter: Exporter, model: PreTrainedModel, what: str, words: tuple[str, ...], number: int | None = None
) -> None:
    with _no_tracing():
        try:
            # With examples: missing ones are covered by EXP-6, and an exporter without its own would refuse everything.
            exporter.export(model, *example_inputs(1))
        except _TracingBegan:
            raise _violation(
                "misconfiguration-traced", f"started tracing with {what}", "an error before tracing"
            ) from None
        except Exception as error:
            named = any(word in str(error) for word in words)
            counted = number is None or re.search(rf"\b{number}\b", str(error))
            if not (named and counted):
                observed = f"with {what}: {type(error).__name__}: {error}"
                expected = f"an error that names {words[0]}" + ("" if number is None else f" and {number}")
                raise _violation("misconfiguration-unclear", observed, expected) from error
            return
    raise _violation("misconfiguration-accepted", f"exported with {what}", "an error")


def _without_generation_config(model: Any) -> None:
    model.generation_config = None


def _generation(name: str, value: object) -> Callable[[PreTrainedModel], None]:
    def change(model: PreTrainedModel) -> None:
        setattr(_generation_config(model), name, value)

    return change


def _cache(name: str, value: object) -> Callable[[PreTrainedModel], None]:
    def change(model: PreTrainedModel) -> None:
        config = _generation_config(model)
        sizes = dict(config.cache_config or {})
        sizes.pop(name, None)
        config.cache_config = sizes if value is None else {**sizes, name: value}

    return change


def _generation_config(model: PreTrainedModel) -> GenerationConfig:
    assert model.generation_config is not None
    return model.generation_config


#: What is wrong, the words of which a clear error holds one, and how to make it so.
_MISCONFIGURATIONS: tuple[tuple[str, tuple[str, ...], Callable[[PreTrainedModel], None]], ...] = (
    ("no generation config", ("generation_config", "generation config"), _without_generation_config),
    ("caching off", ("use_cache", "caching"), _generation("use_cache", False)),
    ("a dynamic cache", ("cache_implementation", "static"), _generation("cache_implementation", "dynamic")),
    ("no cache config", ("batch_size",), _generation("cache_config", None)),
    ("no batch size", ("batch_size",), _cache("batch_size", None)),
    ("no cache length", ("max_cache_len",), _cache("max_cache_len", None)),
    ("a batch size of 0", ("batch_size",), _cache("batch_size", 0)),
    ("a cache length of -1", ("max_cache_len",), _cache("max_cache_len", -1)),
)


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.EXPORT, code, observed=observed, expected=expected)


def _kinds(spec: TreeSpec) -> Iterator[object]:
    yield spec.type
    for child in spec.children():
        yield from _kinds(child)


def mutated_buffers(program: ExportedProgram) -> set[str]:
    """Names of the placeholders that the graph writes to, in place or, where it is functional, by its signature."""
    by_target = {spec.target: spec.arg.name for spec in program.graph_signature.input_specs if spec.target}
    mutated = {
        by_target[spec.target]
        for spec in program.graph_signature.output_specs
        if spec.kind is OutputKind.BUFFER_MUTATION and spec.target
    }
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for argument, value in zip(schema.arguments, node.args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Node):
                root = _root(value)
                if root.op == "placeholder":
                    mutated.add(root.name)
    return mutated


def _root(node: Node) -> Node:
    """The node whose memory this one is a view of."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and schema.returns and schema.returns[0].alias_info is not None
        if not aliases or not isinstance(node.args[0], Node):
            return node
        node = node.args[0]
    return node
