"""Reproduce a failure of the ExecuTorch conformance suite, with torch, transformers and executorch alone.

It lies in a failure bundle, beside what it reads: `bundle.json` (the model's config, the calls), `weights.pt`, and
`program.pt2`, the exported program, if there is one. Run `python reproduce.py`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, StaticCache

HERE = Path(__file__).parent
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Exporters whose programs have their caches as inputs and outputs.
EXPLICIT_CACHE = ("transformers-exporters",)
#: Backends with XNNPACK that neither quantise nor round.
EXACT = ("xnnpack-custom-attention",)


def main() -> None:
    """Build, export, lower and call, as far as the failure needs it."""
    facts = json.loads((HERE / "bundle.json").read_text())
    print(facts["message"], end="\n\n")
    dtype = getattr(torch, facts["settings"].get("dtype", "float32"))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**facts["config"]), dtype=dtype).eval()
    model.load_state_dict(torch.load(HERE / "weights.pt", weights_only=True))
    with torch.no_grad():
        program = exported(model, facts)
        step = step_of(program, facts)
        print("exported" if facts["backend"] == "exported" else f"lowered with {facts['backend']}, and loaded")
        worst, rounds = 0.0, facts["backend"].startswith("xnnpack-") and facts["backend"] not in EXACT
        for call, tokens, held in calls(facts):
            texts = rows_of(held, model, facts)
            logits = step(torch.tensor([text[call:] for text in texts]), torch.arange(call, call + len(tokens)))
            wholes = [
                rounded(program, text, facts) if rounds else eager(model, text, facts["max_cache_len"])
                for text in texts
            ]
            expected = torch.stack(wholes)[:, call : call + len(tokens)]
            error = float((logits.float() - expected.float()).abs().max()) / facts["logits_scale"]
            worst = max(worst, error)
            print(f"{tokens} at {call}: off by {error:.1e} of the logits' scale {facts['logits_scale']:.3g}")
    if worst > facts["tolerance"]:
        raise SystemExit(f"it still fails: {worst:.1e} is above the tolerance of {facts['tolerance']:.0e}")
    print(f"it no longer fails: {worst:.1e} is within the tolerance of {facts['tolerance']:.0e}")


def exported(model: Any, facts: dict[str, Any]) -> Any:
    """The exported program out of the bundle; without one, exporting is what failed, and is done again."""
    if (HERE / "program.pt2").exists():
        if facts["subject"] in EXPLICIT_CACHE:
            from transformers.exporters.exporter_dynamo import register_cache_pytrees_for_model

            register_cache_pytrees_for_model(model)  # a cache is among the program's inputs
        with contextlib.suppress(ImportError):  # operators of ExecuTorch, of which a program may have some
            importlib.import_module("executorch.extension.llm.custom_ops.custom_ops")
        return torch.export.load(HERE / "program.pt2")
    if facts["subject"] not in ("transformers", "transformers-hybrid"):
        raise SystemExit(f"exporting failed: call {facts['subject']} on this model to reproduce it")
    from transformers.integrations import executorch

    most, rows = facts["max_cache_len"], facts["settings"].get("batch_size", 1)
    model.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": rows, "max_cache_len": most}
    )
    length, shapes = 1, None
    if facts["mode"] == "dynamic":
        seq = torch.export.Dim("seq", min=1, max=most)
        length, shapes = 3, {"input_ids": {1: seq}, "cache_position": {0: seq}}
    examples = torch.zeros((rows, length), dtype=torch.long), torch.arange(length)
    if facts["subject"] == "transformers-hybrid":
        recipe = executorch.TorchExportableModuleForDecoderOnlyLM(model)
        return recipe.export(input_ids=examples[0], cache_position=examples[1], dynamic_shapes=shapes)
    return executorch.convert_and_export_with_cache(model, *examples, dynamic_shapes=shapes)


def step_of(program: Any, facts: dict[str, Any]) -> Step:
    """One call of the program, run by torch, or lowered and run by ExecuTorch or Arm's reference model."""
    explicit = facts["subject"] in EXPLICIT_CACHE
    if facts["backend"] == "tosa":
        return tosa_step(program, facts)
    if facts["backend"] != "exported":
        method = loaded(program, facts["backend"])
        if explicit:
            return explicit_cache_step(program, lambda ids, cache: method.execute((ids, *cache)))
        return lambda input_ids, cache_position: method.execute((input_ids, cache_position))[0].clone()
    if not explicit:
        return exported_step(program)
    module = program.module()
    name, spec, _ = example_cache(program)

    def call(ids: torch.Tensor, cache: list[torch.Tensor]) -> list[torch.Tensor]:
        return tree_leaves(module(input_ids=ids, **{name: tree_unflatten(cache, spec)}))

    return explicit_cache_step(program, call)


def tosa_step(program: Any, facts: dict[str, Any]) -> Step:
    """One call of the lowered program: torch runs it, and Arm's reference model its delegates."""
    from executorch.backends.arm.test.runner_utils import TosaReferenceModelDispatch

    step = step_of(lowered(program, facts["backend"]).exported_program(), {**facts, "backend": "exported"})

    def call(input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        with TosaReferenceModelDispatch():
            return step(input_ids, cache_position)

    return call


def example_cache(program: Any) -> tuple[str, Any, list[torch.Tensor]]:
    """The cache that the program was exported with: its input's name, its structure and its tensors."""
    ((name, cache),) = ((name, value) for name, value in program.example_inputs[1].items() if name != "input_ids")
    tensors, spec = tree_flatten(cache)
    return name, spec, tensors


def explicit_cache_step(program: Any, call: Callable[[torch.Tensor, list[torch.Tensor]], Any]) -> Step:
    """One call of a program whose cache is an input and, after the logits, an output, each tensor by itself."""
    _, spec, examples = example_cache(program)
    held, end = list[torch.Tensor](), 0

    def step(input_ids: torch.Tensor, cache_position: torch.Tensor) -> torch.Tensor:
        nonlocal held, end
        position = int(cache_position[0])
        if position == 0:
            held = [torch.zeros_like(tensor) for tensor in examples]
        elif position != end:
            for layer in tree_unflatten(held, spec).layers:
                for name, count in vars(layer).items():
                    if name.endswith("cumulative_length") and isinstance(count, torch.Tensor):
                        count.fill_(position)
        outputs: list[torch.Tensor] = [tensor.clone() for tensor in call(input_ids, held)]
        held, end = outputs[-len(examples) :], position + input_ids.shape[1]
        logits: torch.Tensor = outputs[-len(examples) - 1]
        return logits

    return step


def exported_step(program: Any) -> Step:
    """One call of the exported program, run by torch."""
    module = program.module()
    if program.call_spec.in_spec.child(1).num_children:  # it was exported with arguments by name
        return lambda input_ids, cache_position: module(input_ids=input_ids, cache_position=cache_position)
    step: Step = module
    return step


def partitioners(backend: str) -> list[Any]:
    """The backend's partitioners."""
    if backend == "portable":
        return []
    if backend.startswith("xnnpack"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return [XnnpackPartitioner()]
    if backend == "openvino":
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")  # float32, and no crash on short rows
        from executorch.backends.openvino.partitioner import OpenvinoPartitioner
        from executorch.exir.backend.compile_spec_schema import CompileSpec

        return [OpenvinoPartitioner([CompileSpec("device", b"CPU")])]
    if backend == "tosa":
        from executorch.backends.arm.tosa.compile_spec import TosaCompileSpec
        from executorch.backends.arm.tosa.partitioner import TOSAPartitioner

        return [TOSAPartitioner(TosaCompileSpec("TOSA-1.0+FP"))]
    raise SystemExit(f"{backend} does not run here: lower program.pt2 with its own partitioner to reproduce it")


def lowered(program: Any, backend: str) -> Any:
    """The program in the edge dialect, with the backend's delegates."""
    from executorch.exir import to_edge_transform_and_lower

    return to_edge_transform_and_lower(copy.deepcopy(program), partitioner=partitioners(backend))


def loaded(program: Any, backend: str) -> Any:
    """The program, lowered and loaded into the ExecuTorch runtime."""
    from executorch.exir import ExecutorchBackendConfig
    from executorch.runtime import Runtime

    emitted = lowered(program, backend).to_executorch(
        ExecutorchBackendConfig(run_reinplace_pass=True, remove_view_copy=False)
    )
    return Runtime.get().load_program(bytes(emitted.buffer)).load_method("forward")


def calls(facts: dict[str, Any]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Each call's position and tokens, and all the tokens in the cache after it."""
    held: list[int] = []
    for call in facts["calls"] or ():
        held = held[: call["position"]] + call["tokens"]
        yield call["position"], call["tokens"], held


def rows_of(tokens: list[int], model: Any, facts: dict[str, Any]) -> list[list[int]]:
    """What each row of a call holds: the first the script's tokens, and each other one those 17 ids further on."""
    vocab = model.config.get_text_config(decoder=True).vocab_size
    rows = facts["settings"].get("batch_size", 1)
    return [[(token + 17 * row) % vocab for token in tokens] for row in range(rows)]


def eager(model: Any, tokens: list[int], most: int) -> torch.Tensor:
    """The logits of eager decoding with Transformers' own static cache of `most` positions, one token at a time."""
    taken = inspect.signature(model.forward).parameters  # what takes a Cache has three names, by model and version
    named = [name for name in ("cache", "cache_params") if "Cache" in str(taken.get(name))]
    name = next(iter(named), "past_key_values")
    cache = StaticCache(config=model.config, max_cache_len=most)
    outputs = [model(input_ids=torch.tensor([[token]]), use_cache=True, **{name: cache}) for token in tokens]
    return torch.stack([output.logits[0, -1].clone() for output in outputs])


def rounded(program: Any, tokens: list[int], facts: dict[str, Any]) -> torch.Tensor:
    """The logits of the exported program, which is quantised or in half precision, run by torch one token at a time."""
    step = step_of(copy.deepcopy(program), {**facts, "backend": "exported"})
    return torch.stack([step(torch.tensor([[token]]), torch.tensor([at]))[0, -1] for at, token in enumerate(tokens)])


if __name__ == "__main__":
    main()
