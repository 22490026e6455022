"""Views whose dynamic dimension is inferred, which delegates take where they do not take a symbol."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram

_aten = torch.ops.aten


def inferred(shape: Sequence[int | torch.SymInt]) -> list[int]:
    """The sizes that a view is asked for: -1 in place of each that is symbolic."""
    return [size if isinstance(size, int) else -1 for size in shape]


def infer_dynamic_sizes(program: ExportedProgram) -> None:
    """Rewrite the shape that each view asks for: -1 for its one symbolic size, and numbers for the others.

    XNNPACK's partitioner (ExecuTorch 1.5.1) takes a view with one size to infer, and none with a symbolic one
    ("Symbolic reshape is not supported"), though both say the same. Each would split a delegate.

    Args:
        program: Its graph is rewritten in place.
    """
    for target in (_aten.view.default, _aten.reshape.default):
        for node in program.graph.find_nodes(op="call_function", target=target):
            sizes = inferred(node.meta["val"].shape)
            if sizes.count(-1) == 1 and 0 not in sizes:
                # A reshape becomes a view with symbols when it is decomposed; of what is contiguous it is one already.
                if node.args[0].meta["val"].is_contiguous():
                    node.target = _aten.view.default
                node.args = (node.args[0], sizes)
    program.graph_module.recompile()


def remove_aliases(program: ExportedProgram) -> None:
    """Let each user of an alias use what it is an alias of.

    A slice of everything, as of the tokens whose logits are wanted, is traced as `alias`, which no delegate takes.

    Args:
        program: Its graph is rewritten in place.
    """
    for node in program.graph.find_nodes(op="call_function", target=_aten.alias.default):
        if not any(user.op == "output" for user in node.users):  # the program's signature names its results
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    program.graph_module.recompile()
