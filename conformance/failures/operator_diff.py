"""Which operator or delegate call of an emitted program first gives other values than torch, by ExecuTorch's ETDump.

The reference is the lowered program itself, delegates in place, run by torch node by node: the emitted program has an
instruction for each of its nodes, in the same order. Both sides make every call of a script, so that each call starts
from the state that its own side has.

ExecuTorch's `Inspector` does not serve for this. It merges the executions of a method and refuses those whose values
differ, as those of a program with state do; and it takes the last debug handles of a delegate for those of its outputs.
"""

from __future__ import annotations

import math
import operator
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import torch
from executorch.exir import ExecutorchProgramManager
from executorch.exir.schema import DelegateCall, KernelCall
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves

from conformance.decoding.local_runtime import local_runtime
from conformance.decoding.sessions import Inputs, own_buffers
from conformance.failures.operator_report import OperatorError, OperatorReport
from conformance.pipeline.backends import Backend
from conformance.pipeline.lowering import Lowered

#: Smaller values are not their own measure: cosines minus cosines would be off by all of themselves.
_LEAST_PEAK = 1e-3
#: Rows kept for the bundle, the worst ones.
_KEPT = 20
#: The debug buffer, beside four times what torch's values take: loops log each round, delegates their inputs too. The
#: runtime aborts when it is full.
_SPARE_BYTES = 64 << 20
#: The largest debug buffer: it is written to a file as a whole.
_MOST_BYTES = 1 << 30
_FRAME = re.compile(r'File "(.+?)", line (\d+), in \S+\n\s+(.+)')
#: Folders of a source file's path that are shown: enough for `models/llama/modeling_llama.py`.
_PARTS = 3


def compare_operators(lowered: Lowered, backend: Backend, calls: Sequence[Inputs], tolerance: float) -> OperatorReport:
    """Emit `lowered`, which is used up by that, make all `calls` in torch and in the runtime, and compare.

    Args:
        lowered: A lowered program that has not been emitted.
        backend: How to emit it.
        calls: Token ids, int64 [1, seq], and cache positions, int64 [seq]; the first one on empty caches.
        tolerance: The largest error of an operator that counts as equal, as a share of its largest value.
    """
    with torch.no_grad():
        reference = _Reference(lowered.edge.exported_program().module())
        expected = [reference.values(inputs) for inputs in calls]
        emitted = lowered.edge.to_executorch(backend.emission())
        instructions = _instructions(emitted)
        nodes = _mapped(instructions, reference.nodes)
        logged = _logged(bytes(emitted.buffer), calls, sum(map(_bytes, expected)))
        call, rows = 0, list[OperatorError]()
        for ours, theirs in zip(expected, logged, strict=True):
            call, rows = call + 1, list(_compared(instructions, nodes, ours, theirs))
            if any(row.error > tolerance for row in rows):
                break
        return OperatorReport(
            call=call,
            tolerance=tolerance,
            first=next((row for row in rows if row.error > tolerance), None),
            worst=tuple(sorted(rows, key=lambda row: -row.error)[:_KEPT]),
            compared=len(rows),
            unmapped=len(instructions) - len(rows),
        )


@dataclass(frozen=True, slots=True)
class _Instruction:
    index: int
    name: str
    handle: int | None
    delegate: bool


class _Reference(Interpreter):
    """The lowered program, run by torch on buffers of its own, which remembers the value of each node."""

    def __init__(self, module: GraphModule) -> None:
        own_buffers(module)
        super().__init__(module, garbage_collect_values=False)
        self.nodes = [node for node in module.graph.nodes if node.op == "call_function"]
        self._values: dict[str, list[Any]] = {}

    def values(self, inputs: Inputs) -> Mapping[str, list[Any]]:
        """By node name, the values after one more call."""
        self._values = {}
        self.run(*inputs)
        return self._values

    def run_node(self, n: Node) -> Any:
        """Copy the values at once: the program goes on to update its caches in place."""
        result = super().run_node(n)
        if n.op == "call_function":
            leaves = tree_leaves(result)
            self._values[n.name] = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return result


def _instructions(emitted: ExecutorchProgramManager) -> list[_Instruction]:
    plan = emitted.executorch_program.execution_plan[0]
    handles = emitted.debug_handle_map or {}
    by_index = {int(index): handle for index, handle in handles.get("forward", handles).items()}
    instructions = []
    for index, instruction in enumerate(plan.chains[0].instructions):
        arguments = instruction.instr_args
        handle = by_index.get(index)
        if isinstance(arguments, KernelCall):
            name = plan.operators[arguments.op_index].name
            instructions.append(_Instruction(index, name, handle if isinstance(handle, int) else None, delegate=False))
        elif isinstance(arguments, DelegateCall):
            count = sum(earlier.delegate for earlier in instructions)
            name = f"{plan.delegates[arguments.delegate_index].id} delegate {count}"
            instructions.append(_Instruction(index, name, None, delegate=True))
    return instructions


def _mapped(instructions: Sequence[_Instruction], nodes: Sequence[Node]) -> dict[int, Node]:
    """By instruction index, the node that it was emitted from.

    Both are in the same order. The debug handle distinguishes operators of the same name; updates in place have none,
    and are matched by their neighbours.
    """
    nodes = [node for node in nodes if node.target is not operator.getitem]
    ours = [(one.delegate, _plain(one.name), one.handle) for one in instructions]
    theirs = [_token(node, nodes) for node in nodes]
    by_index: dict[int, Node] = {}
    for kind, start, end, begin, stop in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            pairs = list(zip(range(start, end), range(begin, stop), strict=True))
        else:
            names = [token[1] for token in ours[start:end]], [token[1] for token in theirs[begin:stop]]
            blocks = SequenceMatcher(None, *names, autojunk=False).get_matching_blocks()
            together = [(start + one + i, begin + other + i) for one, other, size in blocks for i in range(size)]
            pairs = [(mine, their) for mine, their in together if ours[mine][2] is None]
        by_index |= {instructions[mine].index: nodes[their] for mine, their in pairs}
    return by_index


def _token(node: Node, nodes: Sequence[Node]) -> tuple[bool, str, int | None]:
    lowered = _delegate(node)
    if lowered is not None:
        count = sum(_delegate(other) is not None for other in nodes[: nodes.index(node)])
        return True, f"{lowered.backend_id} delegate {count}", None
    schema = getattr(node.target, "_schema", None)
    return False, _plain(schema.name if schema else str(node.target)), node.meta.get("debug_handle")


def _plain(name: str) -> str:
    return name.removesuffix("_")


def _delegate(node: Node) -> Any:
    """The lowered module that `node` calls, if it is a delegate call."""
    first = node.args[0] if node.args else None
    if getattr(node.target, "__name__", "") != "executorch_call_delegate" or not isinstance(first, Node):
        return None
    return getattr(node.graph.owning_module, str(first.target))


def _logged(program: bytes, calls: Sequence[Inputs], expected_bytes: int) -> list[dict[int, list[Any]]]:
    """For each call, by instruction index, the values that the runtime logged after the instruction."""
    # Imported when needed: it loads pandas, without which everything else works.
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

    size = _SPARE_BYTES + 4 * expected_bytes
    if size > _MOST_BYTES:
        raise ValueError(f"the values of {len(calls)} calls take {expected_bytes >> 20} MiB")
    loaded = local_runtime().load_program(program, enable_etdump=True, debug_buffer_size=size)
    method = loaded.load_method("forward")
    assert method is not None
    for inputs in calls:
        method.execute(inputs)
    with tempfile.TemporaryDirectory() as folder:
        dump, values = Path(folder, "dump"), Path(folder, "values")
        loaded.write_etdump_result_to_file(str(dump), str(values))
        runs = [run for run in deserialize_from_etdump_flatcc(dump.read_bytes()).run_data if run.name == "Execute"]
        buffer = bytearray(values.read_bytes())
    return [_by_instruction(run.events or (), buffer) for run in runs]


def _by_instruction(events: Iterable[Any], buffer: bytearray) -> dict[int, list[Any]]:
    values: dict[int, list[Any]] = {}
    for event in events:
        debug = event.debug_event
        # What a delegate logs of its inside has an id of the delegate's own; the whole run's outputs have no chain.
        if debug is None or debug.chain_index != 0 or debug.debug_entry.output or _inner(debug):
            continue
        values.setdefault(debug.instruction_id, []).extend(_inflated(debug.debug_entry, buffer))
    return values


def _inner(debug: Any) -> bool:
    return debug.delegate_debug_id_int not in (None, -1) or bool(debug.delegate_debug_id_str)


def _inflated(entry: Any, buffer: bytearray) -> Iterator[Any]:
    from executorch.devtools.inspector._inspector_utils import inflate_runtime_output

    value = inflate_runtime_output(entry, buffer)
    known = entry.tensor_list.tensors if entry.tensor_list else [entry.tensor]
    for tensor, stored in zip(value if isinstance(value, list) else [value], known, strict=False):
        if isinstance(tensor, torch.Tensor) and tensor.numel() and stored.strides:
            yield tensor.flatten().as_strided(stored.sizes, stored.strides)
        else:
            yield tensor


def _compared(
    instructions: Sequence[_Instruction],
    nodes: Mapping[int, Node],
    expected: Mapping[str, list[Any]],
    logged: Mapping[int, list[Any]],
) -> Iterator[OperatorError]:
    """A row for each instruction that has a value of the same shape and type on both sides, in order."""
    for instruction in instructions:
        node, values = nodes.get(instruction.index), logged.get(instruction.index, [])
        wanted = expected[node.name] if node is not None else []
        # A delegate logs its inputs too; outputs come last.
        pairs = [
            (index, ours, theirs)
            for index, (ours, theirs) in enumerate(zip(reversed(wanted), reversed(values), strict=False))
            if _alike(ours, theirs)
        ]
        if node is None or not pairs:
            continue
        off = [(_error(ours, theirs), len(wanted) - 1 - index) for index, ours, theirs in pairs]
        (error, observed, known), output = max(off, key=lambda one: one[0][0])
        inside = _delegate(node)
        yield OperatorError(
            index=instruction.index,
            name=instruction.name,
            inside=tuple(_names(inside)) if inside else (),
            error=error,
            observed=observed,
            expected=known,
            source=_source(_output(inside, output) if inside else node),
            unseen=tuple(_unseen(node, nodes)),
        )


def _unseen(node: Node, nodes: Mapping[int, Node]) -> Iterator[str]:
    seen = set(nodes.values())
    for source in node.all_input_nodes:
        schema = getattr(source.target, "_schema", None)
        if source.op == "call_function" and schema and source not in seen:
            yield str(schema.name)


def _alike(ours: Any, theirs: Any) -> bool:
    tensors = isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor)
    return tensors and ours.shape == theirs.shape and ours.dtype == theirs.dtype and ours.numel() > 0


def _error(expected: torch.Tensor, observed: torch.Tensor) -> tuple[float, float, float]:
    """The largest error as a share of the largest finite value expected, and the two values that differ so."""
    wanted, seen = expected.flatten().double(), observed.flatten().double()
    same = (wanted == seen) | (wanted.isnan() & seen.isnan())
    difference = torch.where(same, 0.0, (wanted - seen).abs()).nan_to_num(nan=math.inf)
    index = int(difference.argmax())
    finite = wanted[wanted.isfinite()]
    # The lowest number masks attention, and would make every error there none at all.
    usual = finite[finite.abs() < 1e30]
    peak = max(_LEAST_PEAK, float(usual.abs().max()) if usual.numel() else 0.0)
    return float(difference[index]) / peak, float(seen[index]), float(wanted[index])


def _names(lowered: Any) -> Iterator[str]:
    for node in lowered.original_module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema:
            yield schema.name.partition("::")[2]


def _output(lowered: Any, index: int) -> Node | None:
    """The node inside that the delegate's output of this number comes from."""
    outputs = tree_leaves(lowered.original_module.graph.output_node().args[0])
    output = outputs[index] if index < len(outputs) else None
    return output if isinstance(output, Node) else None


def _source(node: Node | None) -> str | None:
    frames = _FRAME.findall(node.meta.get("stack_trace") or "") if node is not None else []
    if not frames:
        return None
    models = [frame for frame in frames if "/torch/" not in frame[0]]
    file, line, text = (models or frames)[-1]
    inside = file.rpartition("site-packages/")[2]
    return f"{'/'.join(Path(inside).parts[-_PARTS:])}:{line} {text}"


def _bytes(values: Mapping[str, list[Any]]) -> int:
    return sum(leaf.nbytes for leaves in values.values() for leaf in leaves if isinstance(leaf, torch.Tensor))
