"""`conformance run`: pytest on the suite itself, wherever that is installed, with the settings that it needs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cli.params import Name, Reader
from conformance.core.commands import RUN_ARGUMENTS
from conformance.core.console import Command, examples
from conformance.core.errors import InputError
from conformance.core.paths import PACKAGE

if TYPE_CHECKING:
    from conformance.runner.option_table import Option

#: Packages without which nothing is judged.
NEEDS = ("torch", "transformers", "executorch", "pytest", "xdist", "hypothesis")
#: What a run needs of its environment, unless the reader has set it otherwise.
_ENVIRONMENT = {
    # One thread a worker: two workers on two cores would only take turns.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
#: Models of several kinds of layers make their masks in the order of a set of strings. With a seed of its own for each
#: process, the same model would export as different programs.
_HASH_SEED = {"PYTHONHASHSEED": "0"}


def pytest_command(*options: str) -> list[str]:
    """The command that runs the suite with pytest's `options`, in any folder, whatever settings of pytest it has."""
    here = Path.cwd()
    # Relative in a checkout, so that --host finds the same in another one.
    package = str(PACKAGE.relative_to(here) if PACKAGE.is_relative_to(here) else PACKAGE)
    settings = ["-c", os.devnull, "--rootdir", ".", "--confcutdir", package, "--import-mode", "importlib"]
    return [sys.executable, "-m", "pytest", package, *settings, "-p", "no:cacheprovider", *options]


def run_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run."""
    return {**_ENVIRONMENT, **environ, **_HASH_SEED}


class _Run(Command):
    """Takes the options of `conformance.runner.option_table`, which is imported when they are needed."""

    option_hint = " Options of pytest follow after --"

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options."""
        if not self.params:
            from conformance.runner.option_table import OPTIONS

            self.params = [*click_options([option.name for option in OPTIONS]), WORKERS]
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Arguments after `--` are pytest's."""
        own = args[: args.index("--")] if "--" in args else args
        ctx.meta[__name__] = args[len(own) + 1 :]
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The line after `Usage:`."""
        return ["[OPTIONS]", "[-- PYTEST_OPTIONS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, section by section."""
        from conformance.runner.option_table import OPTIONS, Topic

        topics = {option.name: option.topic for option in OPTIONS}
        for topic in Topic:
            params = [each for each in self.get_params(ctx) if topics.get(each.opts[-1], Topic.HOW) is topic]
            records = [record for param in params if (record := param.get_help_record(ctx))]
            with formatter.section(topic):
                formatter.write_dl(records)


@click.command(
    "run",
    cls=_Run,
    needs=NEEDS,
    error_code=4,  # as of a run that pytest refuses to begin: 1 would be a verdict
    epilog=examples(
        "conformance run --arch llama --backend exported",
        "conformance run --tier core --exporter reference,transformers --output build/core.json",
        "conformance run --arch llama --clause PAR-1 -- -x --pdb",
    ),
)
def run(**given: Any) -> None:
    """Judge architectures, and write a record.

    Checks each clause of the contract on each program of each architecture. Without options: the core tier with the
    reference exporter on portable kernels and on XNNPACK. The exit code is 0 if everything passes or fails as listed,
    and 5 if no clause applies.

    Paths are relative to the current folder. Options that take names take several, comma-separated. Options of pytest
    may follow after `--`.
    """
    sys.stdout.flush()
    from conformance.runner.option_table import OPTIONS

    names = [option.name for option in OPTIONS]
    command = pytest_command(*option_arguments(given, names), *click.get_current_context().meta[__name__])
    typed = {RUN_ARGUMENTS: shlex.join(sys.argv[2:])}  # after `conformance run`
    os.execve(command[0], command, {**run_environment(os.environ), **typed})


def option_arguments(given: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """The workers and the options `names` for pytest, as `given` by parameter."""
    from conformance.runner.option_table import OPTIONS, Value

    # With "=": pytest looks for a conftest.py beside what could be a path of a test, before it knows the options.
    arguments = [f"-n{given['workers']}"]
    for option in OPTIONS:
        if option.name not in names:
            continue
        value = given[parameter(option.name)]
        if option.value is Value.FLAG:
            arguments += [option.name] * value
        elif option.value is Value.TEXTS:
            arguments += [f"{option.name}={text}" for text in value]
        elif value is not None:
            arguments.append(f"{option.name}={','.join(value) if isinstance(value, list) else value}")
    return arguments


def _workers(text: str) -> str:
    if text not in ("auto", "logical") and not text.isdigit():
        raise InputError("invalid-number", f"{text!r} is not a number of processes; write auto for one per core")
    return text


#: The option for xdist's processes.
WORKERS = click.Option(
    ["-n", "--workers"],
    type=Reader("workers", _workers),
    default="auto",
    metavar="N",
    help="processes, or auto for one a core; 0 for none beside this one (default: auto)",
)


def click_options(names: Collection[str]) -> list[click.Option]:
    """The options of `conformance.runner.option_table` with these names, in its order."""
    from conformance.runner.option_table import OPTIONS

    return [_click_option(option) for option in OPTIONS if option.name in names]


def _click_option(option: Option) -> click.Option:
    from conformance.runner.option_table import READERS, Value

    attributes: dict[str, Any] = {"help": option.full_help}
    match option.value:
        case Value.FLAG:
            attributes["is_flag"] = True
        case Value.TEXTS:
            attributes |= {"multiple": True, "metavar": option.metavar}
        case Value.FILE | Value.FOLDER:
            file = option.value is Value.FILE
            attributes["type"] = click.Path(file_okay=file, dir_okay=not file)
            attributes["metavar"] = option.metavar
        case Value.NAME | Value.NAMES if option.names:
            attributes["type"] = Name(option.names, several=option.value is Value.NAMES)
            attributes["metavar"] = option.metavar or "NAMES"
        case _:
            attributes |= {"type": Reader("number", READERS[option.value]), "metavar": option.metavar or "N"}
    return click.Option([option.name, parameter(option.name)], **attributes)


def parameter(name: str) -> str:
    """The parameter that an option is given as."""
    return name.lstrip("-").replace("-", "_")
