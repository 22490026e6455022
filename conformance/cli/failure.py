"""`conformance failure`: judge a failure bundle again, and locate the fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from conformance.cli.params import import_from_here
from conformance.core.console import Group, examples
from conformance.core.text import one_line
from conformance.core.warnings_filter import silence_third_party

#: The user waits for it, and large models lower for minutes.
_LOCATE_S = 900
_NEEDS = ("torch", "transformers", "executorch", "hypothesis")


@click.group("failure", cls=Group)
def failure() -> None:
    """Replay a failure bundle, and locate what first goes wrong.

    A run writes a bundle for each failing cell, a folder in build/conformance/failures. It holds the config, the
    weights and the calls, so that it shows the failure on any machine.
    """


def _bundle(function: Any) -> Any:
    function = click.option(
        "--allow-import",
        is_flag=True,
        help="import the exporter that the bundle names as package.module:callable; formerly --trust-subject",
    )(function)
    return click.argument("bundle", type=click.Path(path_type=Path), metavar="BUNDLE")(function)


@failure.command(
    "replay",
    needs=_NEEDS,
    error_code=2,
    epilog=examples("conformance failure replay build/conformance/failures/FOLDER"),
)
@_bundle
def replay(bundle: Path, allow_import: bool) -> int:
    """Judge a bundle's cell again: FIXED, STILL FAILING or CANNOT RUN.

    Uses the packages that are installed now, and prints which of them differ from those of the bundle. The exit code is
    0 for FIXED, 1 for STILL FAILING, 2 for CANNOT RUN.
    """
    return _replay(bundle, allow_import)


@failure.command(
    "locate",
    needs=_NEEDS,
    error_code=2,
    epilog=examples("conformance failure locate build/conformance/failures/FOLDER"),
)
@_bundle
def locate(bundle: Path, allow_import: bool) -> int:
    """Replay, and find the step and the operator that first go wrong.

    Exports and lowers the model again, and compares the programs step by step; that takes up to a quarter of an hour.
    The exit codes are those of `replay`.
    """
    return _replay(bundle, allow_import, seconds=_LOCATE_S)


def _replay(path: Path, trusted: bool, seconds: int | None = None) -> int:
    from conformance.records.bundle import BundleError, read_bundle

    try:
        bundle = read_bundle(path)
    except BundleError as error:
        print(f"CANNOT RUN [{error.code}]: {one_line(str(error), max_chars=1000)}")
        return 2
    import_from_here()
    silence_third_party()
    from conformance.failures.replay import Result, announcement, replay_within
    from conformance.pipeline.store import Store
    from conformance.process.worker import Limits
    from conformance.runner.option_table import (
        DEFAULT_MEMORY_LIMIT_MIB,
        DEFAULT_STORE,
        DEFAULT_STORE_LIMIT_MIB,
        DEFAULT_TIME_LIMIT_S,
    )

    print(announcement(bundle), flush=True)  # before the process is forked
    limits = Limits(DEFAULT_TIME_LIMIT_S + (seconds or 0), DEFAULT_MEMORY_LIMIT_MIB)
    store = Store(Path(DEFAULT_STORE), DEFAULT_STORE_LIMIT_MIB)
    done = replay_within(limits, bundle, store, seconds=seconds, trusted=trusted)
    print(f"{done.result}: {done.message}")
    return {Result.FIXED: 0, Result.STILL_FAILING: 1, Result.CANNOT_RUN: 2}[done.result]
