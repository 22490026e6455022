"""Makes one program in a process whose time and memory are its own: `python -m benchmarks.programs.making REQUEST`.

The Python of optimum-executorch's environment, whose Transformers is another, runs it too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.programs.cases import Case, Side
from benchmarks.programs.system import packages, peak_bytes
from conformance.core.contract import Mode
from conformance.core.text import one_line
from conformance.core.verdicts import NotApplicableError
from conformance.models.fixtures import build_model, config_of

#: Characters shown of an error.
_SHOWN = 240


def main(request: str) -> int:
    """Make the program that the request asks for, and write beside it how that went, or why it did not."""
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    outcome = make(Case.of_values(asked["case"]), Side(**asked["side"]), Path(asked["program"]))
    Path(asked["answer"]).write_text(json.dumps(outcome), encoding="utf-8")
    return 0


def make(case: Case, side: Side, path: Path) -> dict[str, Any]:
    """Make the side's program for the case, at `path`; returns the fields of `Made`, or `absent` with the reason."""
    try:
        return _made(case, side, path)
    except NotApplicableError as error:
        return {"absent": f"not measured: {error}"}
    except Exception as error:  # whatever an exporter or a partitioner raises
        return {"absent": f"fails: {_innermost(error)}"}


def _made(case: Case, side: Side, path: Path) -> dict[str, Any]:
    model = build_model(
        config_of(case.shape.values, case.shape.name), case.cache, dtype=getattr(torch, case.model_dtype)
    )
    make = _optimum(model, case) if side.exporter is None else _exported(model, case, side)
    start = time.process_time()
    with torch.no_grad():
        emitted = make()
    seconds = time.process_time() - start
    peak = peak_bytes()
    with path.open("wb") as file:
        emitted.write_to_file(file)
    plan = next(each for each in emitted.executorch_program.execution_plan if each.name == "forward")
    return {
        "program_bytes": path.stat().st_size,
        "planned_bytes": sum(plan.non_const_buffer_sizes),
        "seconds": seconds,
        "peak_bytes": peak,
        "packages": packages(),
    }


def _innermost(error: BaseException) -> str:
    """The error that others were raised from, in one line: its own words say most."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(str(error), _SHOWN)}"


def _exported(model: PreTrainedModel, case: Case, side: Side) -> Callable[[], Any]:
    """By one of the suite's exporters, and lowered as the suite or as Transformers' documentation does."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from conformance.exporters.resolve import resolve
    from conformance.pipeline import stages
    from conformance.pipeline.backends import BACKENDS

    assert side.exporter is not None
    exporter, backend = resolve(side.exporter), BACKENDS[case.backend]
    prepared = backend.prepare(model) if backend.prepare else model
    options: dict[str, Any] = {"attention": side.attention} if side.attention else {}
    for name in options:
        exporter.require_argument(name)

    def make() -> Any:
        program = stages.export(exporter, prepared, case.mode, **options)
        if side.as_documented:
            return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        edge = to_edge_transform_and_lower(
            program,
            transform_passes=backend.passes(),
            partitioner=backend.partitioners(),
            compile_config=backend.edge(),
            constant_methods=exporter.methods(prepared, case.mode),
        )
        return edge.to_executorch(backend.emission())

    return make


def _optimum(model: PreTrainedModel, case: Case) -> Callable[[], Any]:
    """By optimum-executorch's recipe, from a folder with the model, as its command line does."""
    import optimum.exporters.executorch.convert  # noqa: F401 - registers the attention by custom operators
    from optimum.exporters.executorch.recipes.xnnpack import export_to_executorch_with_xnnpack
    from optimum.exporters.executorch.tasks.causal_lm import load_causal_lm_model

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        module = load_causal_lm_model(
            folder,
            dtype=case.model_dtype,
            use_custom_sdpa=True,
            use_custom_kv_cache=True,
            max_seq_len=case.cache,
            disable_dynamic_shapes=case.mode is Mode.DECODE,
            qlinear="8da4w" if case.dtype == "8da4w" else None,
        )
    return lambda: next(iter(export_to_executorch_with_xnnpack(module).values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
