"""Buffers that no operator reads, which ExecuTorch stores all the same."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_BUFFERS = (InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def remove_unread_buffers(program: ExportedProgram) -> None:
    """Remove buffers and constants that nothing reads or writes; ExecuTorch 1.5.1 does so for parameters alone.

    They are positions that a caller gives itself (RemBERT), and statistics of a part that a text does not reach
    (Phi-4-multimodal's audio encoder).

    Args:
        program: Its graph, signature, state and constants are changed in place.
    """
    signature = program.graph_signature
    written = {*signature.buffers_to_mutate.values()}
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    unread = [
        spec
        for spec in signature.input_specs
        if spec.kind in _BUFFERS and spec.target not in written and not nodes[spec.arg.name].users
    ]
    for spec in unread:
        program.graph.erase_node(nodes[spec.arg.name])
        signature.input_specs.remove(spec)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
    program.graph_module.recompile()
