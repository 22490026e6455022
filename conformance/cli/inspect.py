"""`conformance inspect`: look into a program."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from conformance.cli.params import Name, import_from_here
from conformance.core.console import Group, examples
from conformance.core.contract import Mode
from conformance.core.errors import InputError
from conformance.core.exporter_names import REFERENCE, canonical
from conformance.core.warnings_filter import silence_third_party


@click.group("inspect", cls=Group)
def inspect() -> None:
    """Look into a lowered program.

    Shows which operators a backend delegates and which it does not, with reasons.
    """


@inspect.command(
    "partition",
    needs=("torch", "transformers", "executorch"),
    epilog=examples("conformance inspect partition llama --backend xnnpack --mode dynamic"),
)
@click.argument("architecture", type=Name("ARCHITECTURES"), metavar="MODEL_TYPE")
@click.option("--backend", type=Name("BACKEND_NAMES"), default="xnnpack", metavar="NAME", help="default: xnnpack")
@click.option("--mode", type=Name("MODES"), default="decode", metavar="NAME", help="decode or dynamic; default: decode")
@click.option(
    "--exporter",
    type=Name("EXPORTERS"),
    default=REFERENCE,
    metavar="NAME",
    help="default: reference; formerly --subject",
)
def partition(architecture: str, backend: str, mode: str, exporter: str) -> None:
    """List delegated and undelegated operators, with reasons and source lines.

    Lowers the fixture of the architecture, or reads it from the cache of earlier runs, and compares the operators that
    are left to portable kernels with those that fixtures/partitions lists.
    """
    print(f"lowering {architecture}, or reading it from the cache", file=sys.stderr)
    sys.stderr.flush()
    import_from_here()
    silence_third_party()
    from conformance.cli.partition import partition_page, show
    from conformance.core.cells import Program
    from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError
    from conformance.pipeline.builder import Builder
    from conformance.pipeline.store import Store
    from conformance.runner.option_table import DEFAULT_STORE, DEFAULT_STORE_LIMIT_MIB

    program = Program(architecture, canonical(exporter), Mode(mode), backend)
    builder = Builder(store=Store(Path(DEFAULT_STORE), DEFAULT_STORE_LIMIT_MIB))
    try:
        artifact = builder.program(program).artifact
    except CellFailedError as error:
        raise InputError("cannot-export", f"{architecture} fails at stage {error.stage}: {error}") from error
    except (NotApplicableError, NotRunError) as error:
        raise InputError("cannot-export", str(error)) from error
    show(partition_page(program, artifact))
