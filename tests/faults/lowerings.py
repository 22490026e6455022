"""Deliberately faulty backends: each lowers with one thing wrong, and a clause of the LOW chapter must catch it."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from operator import getitem
from typing import Any, final

import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import ExecutorchBackendConfig
from executorch.exir.backend.backend_details import BackendDetails, PreprocessResult
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data, tag_mutated_buffer
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.dialects._ops import ops
from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite, naive
from executorch.exir.passes import MemoryPlanningPass
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult
from torch.overrides import TorchFunctionMode

from conformance.pipeline.backends import FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends import xnnpack as good
from conformance.pipeline.backends.base import Interpreter
from conformance.pipeline.backends.quantised import (
    XNNPACK_8DA4W_EMBEDDINGS8,
    XNNPACK_8DA8W,
    with_4_bit_weights,
    with_8_bit_weights,
)
from conformance.pipeline.backends.recipes import checked_edge, in_place_emission, no_passes

#: What torchao's tensors are parametrised by: integers, scales, zero points.
_SCALES = "parametrizations.weight.original1"
_MATRIX_PRODUCTS = ("linear.default", "addmm.default", "mm.default")


def _backend(name: str, partitioners: Callable[[], list[Any]], **others: Any) -> Backend:
    return Backend(name, partitioners, FLOAT32_TOLERANCE, delegating=True, **{"declares": good.declares, **others})


class TakesNothingAtFirst(XnnpackPartitioner):  # type: ignore[misc]  # ExecuTorch has no types
    """Finds nothing when it lowers, and everything when it is asked again."""

    asked = itertools.count()

    def ops_to_not_decompose(self, exported_program: Any) -> tuple[list[Any], None]:
        """None, since it takes none of them."""
        return [], None

    def partition(self, exported_program: Any) -> Any:
        """Everything, but for the first time."""
        result = super().partition(exported_program)
        if next(type(self).asked) == 0:
            for node in exported_program.graph.nodes:
                node.meta.pop("delegation_tag", None)
            result.partition_tags.clear()
        return result


def without_matrix_products() -> list[Any]:
    """XNNPACK's partitioner without linear and what it decomposes to."""
    return [XnnpackPartitioner([c for c in ALL_PARTITIONER_CONFIGS if c.target_name not in _MATRIX_PRODUCTS])]


def without_softmax() -> list[Any]:
    """XNNPACK's partitioner without an operator that is not heavy."""
    return [XnnpackPartitioner([c for c in ALL_PARTITIONER_CONFIGS if c.target_name != "_softmax.default"])]


def with_weights_from_outside() -> list[Any]:
    """XNNPACK's partitioner, told not to own the weights of linear."""
    return [XnnpackPartitioner(force_non_static_weights_for_f32_linear=True)]


@final
class Hoarder(BackendDetails):  # type: ignore[misc]  # ExecuTorch has no types
    """A backend that takes whatever it is given, and stores each of its constants twice."""

    @classmethod
    def preprocess(cls, edge_program: ExportedProgram, compile_specs: list[Any]) -> PreprocessResult:
        """The bytes of all constants, and again."""
        held = [value.contiguous().numpy().tobytes() for value in edge_program.state_dict.values()]
        return PreprocessResult(processed_bytes=b"".join([*held, *held]))


@final
class Padder(BackendDetails):  # type: ignore[misc]  # ExecuTorch has no types
    """A backend that stores its constants once, and five times as much that is no constant."""

    @classmethod
    def preprocess(cls, edge_program: ExportedProgram, compile_specs: list[Any]) -> PreprocessResult:
        """The bytes of all constants, and others."""
        held = b"".join(value.contiguous().numpy().tobytes() for value in edge_program.state_dict.values())
        return PreprocessResult(processed_bytes=held + random.Random(0).randbytes(5 * len(held)))


_PRODUCTS = (ops.edge.aten.mm.default, ops.edge.aten.addmm.default)


class _Each(Partitioner):  # type: ignore[misc]  # ExecuTorch has no types
    """Gives a compiler each of some operators by itself, with what else it needs labelled by `label`."""

    def __init__(
        self,
        operators: Collection[object],
        label: Callable[[ExportedProgram], None],
        compiler: type[BackendDetails] = Hoarder,
    ) -> None:
        super().__init__()
        self._operators = operators
        self._label = label
        self._compiler = compiler

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """One partition for each node."""
        tags: dict[str, DelegationSpec] = {}
        for node in exported_program.graph.nodes:
            if node.target in self._operators:
                node.meta["delegation_tag"] = tag = f"tag{len(tags)}"
                tags[tag] = DelegationSpec(self._compiler.__name__, [])
        self._label(exported_program)
        return PartitionResult(exported_program, tags)


class _Everything(Partitioner):  # type: ignore[misc]  # ExecuTorch has no types
    """Gives the Hoarder the whole program but what it should leave, and its caches if asked to."""

    def __init__(self, *, leave: Collection[object] = (), caches: bool = False) -> None:
        super().__init__()
        self._leave = leave
        self._caches = caches

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """One partition."""
        for node in exported_program.graph.nodes:
            if node.op == "call_function" and node.target not in self._leave:
                node.meta["delegation_tag"] = "all"
        tag_constant_data(exported_program)
        if self._caches:
            tag_mutated_buffer(exported_program)
        return PartitionResult(exported_program, {"all": DelegationSpec(Hoarder.__name__, [])})


def hoards_weights() -> list[Any]:
    """Takes matrix products with their weights, which it stores twice."""
    return [_Each(_PRODUCTS, tag_constant_data)]


def pads_weights() -> list[Any]:
    """Takes matrix products, and makes much of them."""
    return [_Each(_PRODUCTS, tag_constant_data, Padder)]


def mislabels_constants() -> list[Any]:
    """Takes matrix products, but does not say that their weights are constants of theirs."""
    return [_Each(_PRODUCTS, lambda _: None)]


def freezes_states() -> list[Any]:
    """Takes what chooses between a state and zeros, and labels the state, which is also read by what updates it.

    So ExecuTorch gives the delegate a copy of the state, which nothing updates.
    """
    return [_Each((ops.edge.aten.where.self,), tag_mutated_buffer)]


def copying_emission() -> Any:
    """ExecuTorch's default, which copies a cache for each update of it."""
    return ExecutorchBackendConfig()


def stale_views() -> Any:
    """Caches updated in place, and views of them that read memory which nothing has written."""
    return ExecutorchBackendConfig(run_reinplace_pass=True)


def planning_as_executorch_does() -> Any:
    """Caches updated in place, and ExecuTorch's own plan, which has memory for a second copy of each."""
    return ExecutorchBackendConfig(run_reinplace_pass=True, remove_view_copy=False)


def wasteful_emission() -> Any:
    """A memory plan in which no two tensors share a place."""
    plan = MemoryPlanningPass(memory_planning_algo=MemoryPlanningAlgorithmSuite([naive]))
    return ExecutorchBackendConfig(run_reinplace_pass=True, remove_view_copy=False, memory_planning_pass=plan)


def changes_numbers() -> list[Any]:
    """A pass that makes every tanh a sigmoid."""

    def change(graph_module: GraphModule) -> PassResult:
        for node in graph_module.graph.nodes:
            if node.target == ops.edge.aten.sigmoid.default:
                node.target = ops.edge.aten.tanh.default
        graph_module.recompile()
        return PassResult(graph_module, True)

    return [change]


def writes_no_further() -> Any:
    """Emission after which all that comes after the third position is written over the third."""

    def clamp(graph_module: GraphModule) -> PassResult:
        graph = graph_module.graph
        for node in graph.nodes:
            if "index_put" in str(node.target):
                position = node.args[1][-1]
                with graph.inserting_before(node):
                    clamped = graph.call_function(ops.edge.aten.clamp.default, (position, 0, 2))
                clamped.meta = dict(position.meta)
                node.args = (node.args[0], [*node.args[1][:-1], clamped], *node.args[2:])
        graph_module.recompile()
        return PassResult(graph_module, True)

    return ExecutorchBackendConfig(passes=[clamp], run_reinplace_pass=True, remove_view_copy=False)


def only_sigmoid() -> list[Any]:
    """XNNPACK's partitioner with one operator, of which the llama fixture has two: quick to lower."""
    return [XnnpackPartitioner([c for c in ALL_PARTITIONER_CONFIGS if c.target_name == "sigmoid.default"])]


@contextmanager
def faulty_delegates(compiler: Any = XnnpackBackend) -> Iterator[None]:
    """The backend compiles another program than the one it was handed: every sigmoid is a tanh."""
    compile_right = compiler.preprocess

    def compile_wrong(program: ExportedProgram, specs: list[Any]) -> PreprocessResult:
        other = copy.deepcopy(program)
        for node in other.graph.nodes:
            if node.target == ops.edge.aten.sigmoid.default:
                node.target = ops.edge.aten.tanh.default
        return compile_right(other, specs)

    compiler.preprocess = staticmethod(compile_wrong)
    try:
        yield
    finally:
        compiler.preprocess = staticmethod(compile_right)


class DoublesDelegates(TorchFunctionMode):
    """An interpreter that gives twice what each delegate does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's own result, or twice that of a delegate."""
        result = func(*args, **(kwargs or {}))
        return [2 * each for each in result] if func is executorch_call_delegate else result


class RefusesDelegates(TorchFunctionMode):
    """An interpreter that refuses each delegate."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's own result."""
        if func is executorch_call_delegate:
            raise RuntimeError("no delegate runs here")
        return func(*args, **(kwargs or {}))


def forgets_passes() -> list[Any]:
    """A pass that puts the operators back as they were, without what passes before it have left on them."""

    def forget(graph_module: GraphModule) -> PassResult:
        for node in graph_module.graph.nodes:
            node.meta.pop("conformance_stamp", None)
        return PassResult(graph_module, True)

    return [forget]


def aligned_by_hash() -> Any:
    """Emission that aligns delegates as Python hashes a string: otherwise in a process with another hash seed."""
    # So far apart that no program ends where both would begin its constants: one did with 128 and 256.
    return ExecutorchBackendConfig(run_reinplace_pass=True, segment_alignment=128 << 9 * (hash("delegate") % 2))


def unchecked_edge() -> Any:
    """The edge dialect without its checks."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=False)


def leaves_unread(operator: Any) -> Callable[[], Any]:
    """Emission that hands on what the first `operator` is given, so that nothing reads the weights it takes beside."""

    def skip(graph_module: GraphModule) -> PassResult:
        graph = graph_module.graph
        weights = {node for node in graph.nodes if node.op == "placeholder" and node.name.startswith("p_")}
        for node in graph.nodes:
            given = [argument for argument in node.all_input_nodes if argument not in weights]
            if node.target == operator and len(given) == 1 and len(node.all_input_nodes) > 1:
                result = next((user for user in node.users if user.target is getitem), node)
                result.replace_all_uses_with(given[0])
                break
        graph.eliminate_dead_code()
        graph_module.recompile()
        return PassResult(graph_module, True)

    return lambda: ExecutorchBackendConfig(passes=[skip], run_reinplace_pass=True, remove_view_copy=False)


def _quantising(name: str, prepare: Callable[[Any], Any]) -> Backend:
    """8-bit weights, and one thing wrong with them."""
    return dataclasses.replace(XNNPACK_8DA8W, name=name, prepare=prepare)


def quantises_one_layer(model: Any) -> Any:
    """A copy of which the output projection alone has 8-bit weights."""
    prepared, whole = copy.deepcopy(model), with_8_bit_weights(model)
    prepared.lm_head = whole.lm_head
    return prepared


def with_scales_times(factor: float) -> Callable[[Any], Any]:
    """Makes copies with 8-bit weights whose scales are off by this factor."""

    def prepare(model: Any) -> Any:
        prepared = with_8_bit_weights(model)
        with torch.no_grad():
            for name, value in prepared.named_parameters():
                if name.endswith(_SCALES):
                    value.mul_(factor)
        return prepared

    return prepare


def stores_floats(model: Any) -> Any:
    """A copy with weights as 8-bit ones would be, in floating point: quantised and dequantised ahead of time."""
    prepared = copy.deepcopy(model)
    with torch.no_grad():
        for weight in prepared.parameters():
            if weight.ndim > 1:
                scales = weight.abs().amax(dim=-1, keepdim=True) / 127
                weight.copy_((weight / scales).round() * scales)
    return prepared


QUANTISES_NOTHING = _quantising("quantises-nothing", copy.deepcopy)
QUANTISES_ONE_LAYER = _quantising("quantises-one-layer", quantises_one_layer)
SCALES_TOO_LARGE = _quantising("scales-too-large", with_scales_times(1.25))
STORES_FLOATS = _quantising("stores-floats", stores_floats)
LEAVES_EMBEDDINGS = dataclasses.replace(XNNPACK_8DA4W_EMBEDDINGS8, name="leaves-embeddings", prepare=with_4_bit_weights)
LAZY = _backend("lazy", lambda: [TakesNothingAtFirst()])
TAKES_NOTHING = _backend("takes-nothing", list)
WITHOUT_LINEAR = _backend("without-linear", without_matrix_products)
WITHOUT_SOFTMAX = _backend("without-softmax", without_softmax)
HANDED_IN = _backend("handed-in", with_weights_from_outside)
HOARDER = _backend("hoarder", hoards_weights)
PADS = _backend("pads", pads_weights)
MISLABELS = _backend("mislabels", mislabels_constants)
TAKES_ALL = _backend("takes-all", lambda: [_Everything(caches=True)])
HANDS_CACHES_THROUGH = _backend("hands-caches-through", lambda: [_Everything()], declares=None)
ALL_BUT_CACHE_UPDATES = _backend(
    "all-but-cache-updates", lambda: [_Everything(leave=(ops.edge.aten.index_put.default,))], declares=None
)
FREEZES_STATES = _backend("freezes-states", freezes_states, declares=None)
COPIES_CACHES = _backend("copies-caches", list, emission=copying_emission)
STALE_VIEWS = _backend("stale-views", list, emission=stale_views)
PLANS_CACHES_TWICE = _backend("plans-caches-twice", good.partitioners, emission=planning_as_executorch_does)
WASTEFUL = _backend("wasteful", list, emission=wasteful_emission)
#: By the name that another process finds it under.
UNSTEADY = _backend("tests.faults.lowerings:UNSTEADY", list, emission=aligned_by_hash)
FORGETS_PASSES = _backend("forgets-passes", list, passes=forgets_passes)
LEAVES_A_NORM_UNREAD = _backend("leaves-a-norm-unread", list, emission=leaves_unread(ops.edge.aten.mul.Tensor))
LEAVES_A_BIAS_UNREAD = _backend(
    "leaves-a-bias-unread", list, emission=leaves_unread(ops.edge.aten.native_layer_norm.default)
)
WRITES_NO_FURTHER = _backend("writes-no-further", list, emission=writes_no_further)
# What its delegate gets wrong is 0.7 of the logits' scale. At the tolerance of real backends, 1e-5, a machine on which
# right kernels are off by 1.5e-5, seen once, blames those, which come before the delegate.
ONLY_SIGMOID = dataclasses.replace(_backend("only-sigmoid", only_sigmoid), tolerance=1e-3)
# The program that XNNPACK's delegate was compiled from, run by torch.
INTERPRETED = dataclasses.replace(ONLY_SIGMOID, name="interpreted", interpreter=Interpreter("torch", nullcontext))
DOUBLES_DELEGATES = dataclasses.replace(INTERPRETED, interpreter=Interpreter("torch, doubling", DoublesDelegates))
REFUSES_DELEGATES = dataclasses.replace(INTERPRETED, interpreter=Interpreter("torch, refusing", RefusesDelegates))
CHANGES_NUMBERS = _backend("changes-numbers", list, passes=changes_numbers)
CHANGES_NUMBERS_OF_A_DEVICE = dataclasses.replace(CHANGES_NUMBERS, name="changes-numbers-of-a-device", runs=False)
PLAIN = _backend("plain", list, edge=checked_edge, passes=no_passes, emission=in_place_emission)
