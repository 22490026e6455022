"""`conformance grid`: the suite with one pair of versions after the other, and the compatibility page.

The help of all commands imports this: what reads records and pairs is imported when it is needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from conformance.cli.params import FILE, FOLDER
from conformance.cli.run import WORKERS, click_options, option_arguments, parameter
from conformance.core.commands import command
from conformance.core.console import Command, CommandError, examples
from conformance.core.exporter_names import REFERENCE
from conformance.core.files import atomic_write
from conformance.core.option_names import by_option
from conformance.core.paths import FIXTURES, ROOT, report_module
from conformance.core.suggest import unknown
from conformance.core.text import plural
from conformance.core.verdicts import Verdict

if TYPE_CHECKING:
    from conformance.cli.version_pairs import Pair
    from conformance.records.run import RunRecord

#: The options of `conformance run` that all pairs are run with.
_SHARED = ("--arch", "--exporter", "--backend", "--mode", "--clause", "--tier", "--max-examples")
#: Other options that select cells, without which the pairs are run.
_ABSENT = ("--variation", "--shard", "--since")
_VERSIONS = FIXTURES / "versions.yaml"
_OUTPUT = "build/grid"
COMPATIBILITY = "docs/reference/compatibility.md"
_INTERRUPTED = 130


class Kept(StrEnum):
    """What is recorded of a pair: nothing, another run, or a part or all of the one that is asked for."""

    NOTHING = "nothing"
    OTHER = "other"
    PARTIAL = "partial"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A pair's record: the run, if it is the one that is asked for, or else what is different."""

    kept: Kept
    run: RunRecord | None = None
    difference: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for a pair.

    Args:
        pair: The pair.
        done: `ran`, `resumed` or `reused`.
        run: Its record; None if there is none.
        problem: Why the result is not as expected, in a few words; empty if it is.
    """

    pair: Pair
    done: str
    run: RunRecord | None
    problem: str

    def __str__(self) -> str:
        good = "" if self.problem or self.run is None else str(_result(self.run))
        return f"{self.pair.name}: {self.problem or good} ({self.done})"


class _Grid(Command):
    """Takes options of `conformance.runner.option_table`, which is imported when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options."""
        if not any(param.name == "tier" for param in self.params):
            self.params = [*self.params[:1], *click_options(_SHARED), WORKERS, *self.params[1:]]
        return super().get_params(ctx)


@click.command(
    "grid",
    cls=_Grid,
    checkout=True,
    epilog=examples(
        "conformance grid --versions fixtures/versions.yaml --tier core",
        "conformance grid --arch llama --only 5.23+1.5,5.24+1.5 --page build/grid/page.md",
    ),
)
@click.option(
    "--versions",
    type=FILE,
    default=_VERSIONS,
    metavar="PAIRS.yaml",
    help="pairs of Transformers and ExecuTorch, and torch where it differs (default: fixtures/versions.yaml)",
)
@click.option("--only", metavar="NAMES", help="run these pairs alone, comma-separated, such as 5.23+1.5")
@click.option(
    "--output",
    type=FOLDER,
    default=_OUTPUT,
    metavar="DIR",
    help=f"where records and environments are kept, of 1.7 GB for each pair (default: {_OUTPUT})",
)
@click.option(
    "--page",
    type=FILE,
    metavar="PAGE.md",
    help=f"where the page is written once all pairs have run (default: {COMPATIBILITY})",
)
def grid(versions: Path, only: str | None, output: Path, page: Path | None, **given: Any) -> int:
    """Judge architectures with several pairs of versions.

    Runs the suite with each pair of a file, in an environment of its own that tox makes, and writes a record for each.
    The compatibility page is made from them once all are complete and equal: the same commit, options and Python. Run
    the same command again to continue: complete records are reused, and partial ones are resumed.

    The exit code is 0 only if each run is complete and has no unexpected result. Needs tox and a checkout.
    """
    from conformance.cli.version_pairs import read_pairs

    pairs = read_pairs(versions, given["exporter"] or [REFERENCE])
    chosen = _chosen(pairs, only)
    conditions = asked(given)
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        with _interrupted_by_sigterm():
            for number, pair in enumerate(chosen, 1):
                print(f"grid: {pair.name} ({number} of {len(chosen)}): {pair}", flush=True)
                outcomes.append(judged(pair, output.resolve(), given, conditions))
    except KeyboardInterrupt:
        interrupted = True
    for outcome in outcomes:
        print(f"grid: {outcome}")
    if interrupted:
        print(f"grid: interrupted; to continue, run {command(*sys.argv[1:])}")
        return _INTERRUPTED
    failed = [outcome.pair.name for outcome in outcomes if outcome.problem]
    if failed:
        print(
            f"grid: {len(failed)} of {plural(len(outcomes), 'pair')} not as expected: {', '.join(failed)}", flush=True
        )
    written = _write_page(pairs, outcomes, output.resolve(), conditions, page or ROOT / COMPATIBILITY)
    return 1 if failed or not written else 0


def judged(pair: Pair, output: Path, given: Mapping[str, Any], conditions: Mapping[str, Any]) -> Outcome:
    """Run the suite with `pair` and the options `given`, unless its record is complete already."""
    record = output / f"{pair.name}.json"
    wanted = {**conditions, **_public_versions(pair.versions)}
    before = recorded(record, wanted)
    if before.kept is Kept.COMPLETE:
        return _outcome(pair, "reused", before, 0)
    if before.kept is Kept.OTHER:
        print(f"grid: {pair.name}: not reused: {before.difference}", flush=True)
    arguments = [
        *option_arguments(given, _SHARED),
        f"--output={record}",
        f"--failures-dir={output / 'failures' / pair.name}",
        *(["--resume"] if before.kept is Kept.PARTIAL else []),
    ]
    code = run_tox(pair, arguments, output / "environments" / pair.name)
    return _outcome(pair, "resumed" if before.kept is Kept.PARTIAL else "ran", recorded(record, wanted), code)


def recorded(record: Path, wanted: Mapping[str, Any]) -> Recorded:
    """What is recorded at `record` or in its journal."""
    from conformance.records.run import InvalidRecordError, journal_of, load_run

    journal = journal_of(record)
    try:
        run = load_run(journal if journal.exists() else record)
    except FileNotFoundError:
        return Recorded(Kept.NOTHING)
    except InvalidRecordError as error:
        return Recorded(Kept.OTHER, None, str(error))
    found = _identity(run)
    for name, value in wanted.items():
        if found[name] != value:
            return Recorded(Kept.OTHER, None, f"in {record.name}, {name} is {found[name]}, expected {value}")
    return Recorded(Kept.COMPLETE if run.run.complete else Kept.PARTIAL, run)


def run_tox(pair: Pair, arguments: Sequence[str], environments: Path) -> int:
    """Make the environment of `pair`, or reuse it, and run the suite there; the exit code.

    Raises:
        CommandError: tox is missing.
        KeyboardInterrupt: The user has interrupted it.
    """
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_SPEC")} | pair.specs
    words = [*_tox(), "run", "-c", str(ROOT / "tox.ini"), "-e", "upstream", "--workdir", str(environments), "--"]
    process = subprocess.Popen([*words, *arguments], env=environ, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt as interrupt:
        # The terminal has sent it to tox too. tox waits until the run has written its record.
        if isinstance(interrupt, _Terminated):
            process.send_signal(signal.SIGINT)
        process.wait()
        raise


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends to this process alone."""


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise _Terminated

    # A shell ignores SIGINT for what it starts in the background, and tox and pytest would inherit that.
    handlers = {signal.SIGTERM: interrupt, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tox() -> list[str]:
    if importlib.util.find_spec("tox") is not None:
        return [sys.executable, "-m", "tox"]
    found = shutil.which("tox")
    if found is None:
        raise CommandError("missing-package", "conformance grid needs tox, which is not installed: pip install tox")
    return [found]


def _chosen(pairs: Sequence[Pair], only: str | None) -> list[Pair]:
    by_name = {pair.name: pair for pair in pairs}
    names = list(by_name) if only is None else list(dict.fromkeys(filter(None, map(str.strip, only.split(",")))))
    for name in names:
        if name not in by_name:
            raise click.BadParameter(unknown("pair", name, by_name), param_hint="--only")
    if not names:
        raise click.BadParameter("no pair given", param_hint="--only")
    return [pair for pair in pairs if pair.name in names]


def _outcome(pair: Pair, done: str, found: Recorded, code: int) -> Outcome:
    run = found.run
    if run is None:
        reason = found.difference or "the run did not begin; its output is above"
        problem = f"no record: tox exited with {code}; {reason}"
    elif not run.run.complete:
        left = sum(cell.verdict is Verdict.NOT_RUN for cell in run.cells)
        problem = f"not complete: {plural(left, 'cell')} of {len(run.cells)} not run; run the same command again"
    elif not (result := _result(run)).good:
        problem = str(result)
    else:
        problem = f"no unexpected results, but tox exited with {code}; its output is above" if code else ""
    return Outcome(pair, done, run, problem)


def _result(run: RunRecord) -> Any:
    return report_module("analysis.result").result_of(run)


def _identity(run: RunRecord) -> dict[str, Any]:
    """What makes a recorded run the one that a grid asks for."""
    from conformance.records.run import DIRTY

    options = by_option(run.run.options)
    packages = run.environment.packages
    return {
        **{name: options.get(name) for name in (*_SHARED, *_ABSENT, "matrix")},
        **_public_versions({name: packages.get(name, "") for name in ("transformers", "executorch", "torch")}),
        "--hypothesis-seed": run.run.seed,
        "commit": (run.run.commit or "").removesuffix(DIRTY),
        "the suite": (run.run.fingerprints or {}).get("the suite"),
    }


def asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the runs that `conformance grid` with the options `given` asks for, without their versions."""
    from conformance.matrix.fingerprints import suite_fingerprint
    from conformance.matrix.schema import matrix_digest
    from conformance.records import environment
    from conformance.records.run import DIRTY
    from conformance.runner.option_table import OPTIONS

    defaults = {option.name: option.default for option in OPTIONS}
    values = {name: given[parameter(name)] for name in _SHARED}
    options = {name: defaults[name] if value is None else _text(value) for name, value in values.items()}
    return {
        **options,
        **dict.fromkeys(_ABSENT),
        "matrix": matrix_digest(),
        "--hypothesis-seed": None,
        "commit": (environment.commit(ROOT) or "").removesuffix(DIRTY),
        "the suite": suite_fingerprint(),
    }


def _text(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) else value


def _public_versions(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions without what says how they were built, such as +cpu."""
    return {name: version.partition("+")[0] for name, version in versions.items()}


def _write_page(
    pairs: Sequence[Pair], outcomes: Sequence[Outcome], output: Path, conditions: Mapping[str, Any], page: Path
) -> bool:
    """Write the page if all pairs of the file have a complete record; False if one that was run has none."""
    runs = {outcome.pair.name: outcome.run for outcome in outcomes}
    for pair in pairs:
        if pair.name not in runs:
            wanted = {**conditions, **_public_versions(pair.versions)}
            runs[pair.name] = recorded(output / f"{pair.name}.json", wanted).run
    missing = [name for name, run in runs.items() if run is None or not run.run.complete]
    shown = os.path.relpath(page)
    if missing:
        print(f"grid: {shown} was not written: no complete record of {', '.join(missing)}")
        return not any(outcome.pair.name in missing for outcome in outcomes)
    text = report_module("versions_page").compatibility_page([run for run in runs.values() if run])
    atomic_write(page, text.encode())
    print(f"grid: wrote {shown}")
    return True
