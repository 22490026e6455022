"""The root of the command line. Commands are imported when they run, and what they need when they do their work."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from importlib import metadata

import click

from conformance.core.commands import command
from conformance.core.console import Command, Group, examples, imported
from conformance.core.paths import INSTALLED, ROOT, report_module

_PROJECT = "executorch-conformance"
#: The new name of each renamed command.
_FORMER = {
    "backends": "docs",
    "chat": "model chat",
    "check": "model check",
    "compatibility": "docs --compatibility",
    "contract": "docs",
    "export": "model export",
    "locate": "failure locate",
    "new-architecture": "matrix add",
    "partition": "inspect partition",
    "pin": "explore pin",
    "replay": "failure replay",
    "schema": "docs",
    "status": "docs --status",
    "update-durations": "matrix durations",
    "update-expectations": "matrix update",
    "update-partitions": "matrix partitions",
}


class _Root(Group):
    def run(self, args: Sequence[str] | None = None, prog_name: str | None = None, **attributes: object) -> int:
        """Run one command; messages name it as the user's shell finds it."""
        return super().run(args, prog_name or command(), **attributes)


def _report() -> click.Command:
    group: click.Command = report_module("commands").report
    return group


def version() -> str:
    """The version of the suite."""
    if INSTALLED:
        return metadata.version(_PROJECT)
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        print(f"conformance {version()}")
        ctx.exit()


@click.command(
    "doctor",
    cls=Command,
    epilog=examples("conformance doctor"),
)
def doctor() -> int:
    """Show what is installed, and what is wrong with it.

    Lists the packages with the versions that this project pins, the torch that each ExecuTorch needs, and which
    backends can be used here; loads ExecuTorch's runtime. The exit code is 1 if there is a problem.
    """
    from conformance.cli.doctor import diagnose, show
    from conformance.core.warnings_filter import silence_third_party

    silence_third_party()
    diagnosis = diagnose()
    show(diagnosis)
    return 1 if diagnosis.problems else 0


@click.group(
    "conformance",
    cls=_Root,
    former=_FORMER,
    lazy={
        "run": imported("conformance.cli.run", "run"),
        "grid": imported("conformance.cli.grid", "grid"),
        "doctor": lambda: doctor,
        "model": imported("conformance.cli.model", "model"),
        "report": _report,
        "failure": imported("conformance.cli.failure", "failure"),
        "inspect": imported("conformance.cli.inspect", "inspect"),
        "matrix": imported("conformance.cli.matrix", "matrix"),
        "explore": imported("conformance.cli.explore", "explore"),
        "docs": imported("conformance.cli.docs", "docs"),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "conformance run --arch llama --backend xnnpack",
        "conformance model check MODEL_DIR",
        "conformance report build build/conformance/run.json -o build/report",
    ),
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def main() -> None:
    """Conformance suite for Transformers models on ExecuTorch.

    Exports models with a static cache, lowers and runs them, and compares them with Transformers' own decoding. `run`
    judges architectures by the clauses of the contract and writes a record; `report` makes pages, summaries and exit
    codes from records. `model` exports, checks and runs a model of your own.
    """
    # What a bundle or a finding names is never fetched. Read when Transformers is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
