"""Steps that recipes share. The artifact store goes by this module's text: whatever changes here is lowered anew."""

from __future__ import annotations

from typing import Any


def no_partitioners() -> list[Any]:
    """For portable kernels only."""
    return []


def no_passes() -> list[Any]:
    """Beside the suite's own."""
    return []


def checked_edge() -> Any:
    """The edge dialect with IR validity checks on."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=True)


def in_place_emission() -> Any:
    """ExecuTorch's settings for emission, with cache updates in place.

    Its default writes each update into a copy of the whole cache and copies that back: twice the cache per token in
    time, and another cache in planned memory.

    Views have to stay copies with that. One that is taken of the result of an update in place, and is not copied, reads
    memory that nothing has written: memory planning gives the update the cache's specification
    (https://github.com/pytorch/executorch/pull/19482) after the view has taken the update's own for its base
    (deepseek_v3 on portable kernels is off by 0.9 of the logits' scale).
    """
    from executorch.exir import ExecutorchBackendConfig

    return ExecutorchBackendConfig(
        run_reinplace_pass=True, remove_view_copy=False, memory_planning_pass=_planning_each_cache_once()
    )


def _planning_each_cache_once() -> Any:
    """ExecuTorch's memory planning, without memory for a second copy of each cache.

    The outputs of a graph get the specifications of the nodes that they are. Planning then gives an update in place the
    specification of its cache, and the outputs keep the former ones, for which it plans memory that is never written:
    30 layers with a cache of 1,024 tokens planned 90 MiB in place of 45 (`_alias_inplace_result_specs` in
    executorch/exir/memory_planning.py). So outputs get those of the caches before it begins.
    """
    from executorch.exir.operator.convert import is_inplace_variant
    from executorch.exir.passes import MemoryPlanningPass

    def changed(node: Any) -> Any:
        """The node whose memory holds the value of `node`."""
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not is_inplace_variant(schema.name, schema.overload_name):
            return node
        return changed(node.args[0])

    class Planning(MemoryPlanningPass):  # type: ignore[misc]  # ExecuTorch has no types
        def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
            output = graph_module.graph.output_node()
            specs = zip(output.args[0], output.meta["spec"], strict=True)
            output.meta["spec"] = [
                changed(node).meta["spec"] if hasattr(node, "meta") else spec for node, spec in specs
            ]
            return super().run(graph_module, graph_signature)

    return Planning()
