"""`conformance matrix`: the rows of `models_matrix.yaml`, and what is listed from a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from conformance.cli.params import FILE, Name
from conformance.core.commands import run_command
from conformance.core.console import Group, examples
from conformance.core.errors import InputError
from conformance.core.paths import report_module

if TYPE_CHECKING:
    from conformance.records.run import RunRecord


@click.group("matrix", cls=Group)
def matrix() -> None:
    """Add architectures, and list what a run saw.

    These commands change files of the project: models_matrix.yaml, known_failures/ and fixtures/. Review the change as
    a diff.
    """


@matrix.command("add", checkout=True, needs=("torch", "transformers"), epilog=examples("conformance matrix add arcee"))
@click.argument("architecture", type=Name("ARCHITECTURES"), metavar="MODEL_TYPE")
@click.option("--force", is_flag=True, help="show what would be written, also where a row exists; write nothing")
def add(architecture: str, force: bool) -> None:
    """Write a fixture and a row for an architecture.

    Shrinks the published config, tries the model, and writes fixtures/configs/MODEL_TYPE.json and a row of
    models_matrix.yaml. A model that cannot decode with a static cache gets a known failure, whose reason you write.
    """
    from conformance.matrix.schema import MATRIX_PATH, load_matrix

    matrix = load_matrix(drafted=True)  # of several newcomers, an earlier one's reason may be still to be found
    if not force and architecture in matrix.architectures:
        raise InputError(
            "row-exists",
            f"{architecture} already has a row in {MATRIX_PATH.name}; --force shows what would be written",
        )
    from conformance.cli.add_architecture import add, draft  # takes ten seconds

    made = draft(architecture) if force else add(architecture, matrix)
    print("\n".join(made.tried))
    fixture = f"fixtures/configs/{architecture}.json"
    if force:
        print(f"\n{fixture} would be:\n{made.fixture}\nthe row in models_matrix.yaml would be:\n{made.text}", end="")
    else:
        print(
            f"wrote {fixture} and a row in models_matrix.yaml: read both, then run\n  "
            f"{run_command('--arch', architecture)}"
        )


@matrix.command("update", checkout=True, epilog=examples("conformance matrix update build/conformance/run.json"))
@click.argument("record", type=FILE, metavar="RUN.json")
def update(record: Path) -> None:
    """List the failures of a run in the matrix.

    Adds what fails in the run to known_failures/, and removes what passes. A new cause is in
    known_failures/unexplained.yaml, with the reason TODO: until you replace it, the matrix is refused.
    """
    from conformance.matrix.schema import load_matrix, write_matrix
    from conformance.matrix.update import updated_matrix

    updated = updated_matrix(load_matrix(drafted=True), _read(record))
    write_matrix(updated.matrix)
    _show(updated.changes)


@matrix.command(
    "partitions", checkout=True, epilog=examples("conformance matrix partitions build/conformance/run.json")
)
@click.argument("record", type=FILE, metavar="RUN.json")
def partitions(record: Path) -> None:
    """List the operators that backends did not delegate in a run.

    Rewrites fixtures/partitions for the programs of the run that passed LOW-1: LOW-3 compares each later run with it.
    """
    from conformance.matrix.delegation import updated
    from conformance.matrix.schema import load_matrix

    _show(updated(_read(record), load_matrix(drafted=True).rows))


@matrix.command("durations", checkout=True, epilog=examples("conformance matrix durations build/conformance/run.json"))
@click.argument("record", type=FILE, metavar="RUN.json")
def durations(record: Path) -> None:
    """Update the durations by which --shard balances its parts.

    Writes how long each architecture of the run took to fixtures/durations.json.
    """
    from conformance.matrix.sharding import updated_durations

    _show(updated_durations(_read(record)))


def _read(path: Path) -> RunRecord:
    """The record at `path`. One of a checkpoint is refused: its folder may have the name of a row."""
    # Unlike `load_run`, it refuses a record that has a cell twice.
    run: RunRecord = report_module("loading").load(path)
    if run.run.options.get("checkpoint"):
        raise InputError("checkpoint-record", f"{path} is the record of a checkpoint, which has no row in the matrix")
    return run


def _show(changes: Iterable[str]) -> None:
    print("\n".join(changes) or "nothing to change")
