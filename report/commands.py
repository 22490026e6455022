"""The report's commands: `conformance report`, and `python -m report` in a checkout. Imports little until one runs."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from conformance.core.console import Command, Group, examples
from conformance.core.text import format_counts, one_line, plural

from .errors import ReportError

if TYPE_CHECKING:
    from .analysis.compare import Margins

_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)


class _ReportCommand(Command):
    """Wrong input is exit code 2: 1 is the result of a gate."""

    errors = (ReportError,)

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, error_code=2, **attributes)


class _ReportGroup(Group):
    command_class = _ReportCommand


@click.group(
    "report",
    cls=_ReportGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("conformance report build build/conformance/run.json -o build/report"),
)
def report() -> None:
    """Make pages, summaries and exit codes from run records.

    Needs no torch. A record is the file that a run writes, build/conformance/run.json by default.
    """


_rows = click.option(
    "--rows", type=click.IntRange(min=1), default=10, metavar="N", help='rows before "and N more"; default: 10'
)
_format = click.option("--format", "form", type=click.Choice(("table", "json")), default="table", help="default: table")


def _margins(function: _F) -> _F:
    """What a run may cost more than the one before."""
    for option, default, text in (
        ("--less-delegated", 0.0, "allowed decrease of the share of delegated operators, 0 to 1; default: 0"),
        (
            "--slower-seconds",
            2.0,
            "allowed seconds by which lowering gets slower; only above both is a regression; default: 2",
        ),
        ("--slower-by", 1.5, "allowed factor by which lowering gets slower; default: 1.5"),
    ):
        function = click.option(option, type=_AMOUNT, default=default, metavar="X", help=text)(function)
    return function


class _Amount(click.FloatRange):
    """A number that is not negative, infinite or none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not number < float("inf"):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


_AMOUNT = _Amount(min=0)


class _WebAddress(click.ParamType[str]):
    """An http or https address without unusual characters, so that it can be part of any page, or empty.

    It is without the slash at its end.
    """

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from .names import plain_link

        if value and not plain_link(str(value)):
            self.fail(f"{str(value)!r} is not an http or https address", param, ctx)
        return str(value).rstrip("/")


_WEB_ADDRESS = _WebAddress()


@report.command(
    epilog=examples(
        "conformance report build build/conformance/run.json -o build/report",
        "conformance report build older.json newer.json -o build/report",
    )
)
@click.argument("runs", nargs=-1, required=True, type=_PATH, metavar="RUN.json...")
@click.option("-o", "--output", type=_PATH, required=True, metavar="DIR", help="the site's folder")
@click.option("--stale-after", type=int, default=14, metavar="DAYS", help="warn of older runs; default: 14")
@click.option(
    "--bundles",
    type=_PATH,
    default=Path(),
    metavar="DIR",
    help="the folder that the newest run was started in, from which its record names failure bundles; default: here",
)
@click.option(
    "--bundle-limit",
    type=click.IntRange(min=1),
    default=16,
    metavar="MIB",
    help="largest failure bundle to include; default: 16",
)
@click.option(
    "--repository",
    type=_WEB_ADDRESS,
    default="",
    metavar="URL",
    help="the suite's repository, to which pages link; default: no links",
)
def build(
    runs: tuple[Path, ...], output: Path, stale_after: int, bundles: Path, bundle_limit: int, repository: str
) -> None:
    """Build the site for the newest run; older runs become its history.

    The site is static: an overview, a page for each architecture, failure and clause, what changed since the run
    before, and the same as JSON. Prints the path of its first page.
    """
    from conformance.matrix.schema import load_matrix
    from conformance.matrix.yaml_file import MatrixError

    from .analysis import analyse
    from .bundles import archives, collect_bundles
    from .loading import load_all
    from .site import Settings, write
    from .site import build as build_site

    loaded = load_all(runs)
    try:
        matrix = load_matrix()
    except MatrixError as error:
        raise ReportError(error.code, str(error)) from error
    if not bundles.is_dir():
        raise ReportError("file-error", f"--bundles: no such directory: {bundles}")
    collected = collect_bundles(loaded[-1], bundles, bundle_limit)
    settings = Settings(datetime.now(UTC), stale_after, repository)
    write(build_site(analyse(loaded, matrix), settings, collected), output, archives(collected))
    print((output / "index.html").resolve())


@report.command(
    epilog=examples(
        "conformance report summary head.json --base base.json",
        "conformance report summary head.json --site https://example.org/conformance",
        "conformance report summary head.json --format github",
    )
)
@click.argument("run", type=_PATH, metavar="RUN.json")
@click.option("--base", type=_PATH, metavar="RUN.json", help="the run to compare with")
@click.option(
    "--format",
    "form",
    type=click.Choice(("markdown", "github")),
    default="markdown",
    help="default: markdown; github: annotations",
)
@click.option(
    "--site",
    type=_WEB_ADDRESS,
    default="",
    metavar="URL",
    help="where the site of this run is published; architectures and failures become links to its pages",
)
@_rows
@_margins
def summary(run: Path, base: Path | None, form: str, site: str, rows: int, **margins: float) -> None:
    """Print a run as Markdown for a pull request, regressions first.

    With --base, what the run changed comes first. The format `github` prints annotations for the log of GitHub Actions.
    """
    from .analysis.compare import compare
    from .annotations import annotate
    from .loading import load
    from .summary import summary as summarise

    head = load(run)
    comparison = compare(load(base), head, _margins_of(margins)) if base else None
    write = annotate if form == "github" else summarise
    print(write(head, comparison, rows, site), end="")


@report.command(epilog=examples("conformance report gate base.json head.json"))
@click.argument("base", type=_PATH, metavar="BASE.json")
@click.argument("head", type=_PATH, metavar="HEAD.json")
@click.option(
    "--fail-on",
    type=click.Choice(("should", "must")),
    default="should",
    help="must: regressions of should clauses, slower lowering and less delegation are printed, and exit with 0; "
    "default: should, which is any regression",
)
@_rows
@_margins
def gate(base: Path, head: Path, fail_on: str, rows: int, **margins: float) -> int:
    """Compare two runs cell by cell; exit with 1 if the second is worse.

    A cell that vanished is worse too. Runs that cannot be compared, such as one that was interrupted, are refused with
    exit code 2.
    """
    from conformance.core.contract import Level

    from .analysis.compare import compare
    from .gate import format_comparison, refuse_unfit
    from .loading import load

    before, after = load(base), load(head)
    refuse_unfit(before, str(base))
    refuse_unfit(after, str(head), is_head=True)
    comparison = compare(before, after, _margins_of(margins), Level(fail_on))
    print(format_comparison(comparison, rows), end="")
    return 1 if comparison.worse else 0


@report.command(epilog=examples("conformance report verdict build/conformance/run.json"))
@click.argument("run", type=_PATH, metavar="RUN.json")
def verdict(run: Path) -> int:
    """Print the overall result; exit with 1 on any unexpected result.

    The exit code is 1 too for a run that is not complete (`conformance run`: 2 or 1) and for one that judged nothing
    (`conformance run`: 5).
    """
    from .analysis.result import result_of, unchanged
    from .loading import load
    from .summary import headline

    loaded = load(run)
    counts = Counter(cell.verdict for cell in loaded.cells)
    print(headline(loaded, None))
    print(f"{plural(len(loaded.cells), 'cell')}: {format_counts(counts.most_common()) or 'none'}")
    if loaded.left_out:
        print(unchanged(loaded))
    return 0 if result_of(loaded).good else 1


@report.command(epilog=examples("conformance report issues run.json --name main --dry-run"))
@click.argument("run", type=_PATH, metavar="RUN.json")
@click.option("--name", default="run", metavar="NAME", help="tells series of runs apart, such as main; default: run")
@click.option("--site", type=_WEB_ADDRESS, default="", metavar="URL", help="the address of the run's site")
@click.option("--dry-run", is_flag=True, help="print what would change, and change nothing")
def issues(run: Path, name: str, site: str, dry_run: bool) -> None:
    """Open, update and close issues on GitHub for unexpected failures.

    One issue for each cause, in the repository of the current folder, with the label `conformance`. It is updated while
    the cause lasts, and closed when a complete run that judged all its cells has it no more. Needs GitHub's command
    line, `gh`.
    """
    from .issues import github, open_issues, plan
    from .issues import issues as wanted
    from .loading import load

    if not re.fullmatch(r"[\w.-]+", name):
        raise ReportError("invalid-name", f"--name {name}: use only letters, digits, dots and dashes")
    loaded = load(run)
    for action in plan(wanted(loaded, name, site), name, open_issues(github), loaded):
        print(action.summary)
        if not dry_run:
            github(action.arguments, action.text)


@report.command(epilog=examples("conformance report merge shard-1.json shard-2.json -o run.json"))
@click.argument("runs", nargs=-1, required=True, type=_PATH, metavar="RUN.json...")
@click.option("-o", "--output", type=_PATH, required=True, metavar="OUT.json", help="the record to write")
def merge(runs: tuple[Path, ...], output: Path) -> None:
    """Merge the shards of a run into one record.

    Shards that overlap, or were run with other options or versions, are refused. An earlier file at --output is moved
    to a name with its time.
    """
    from conformance.records.run import is_journal

    from .loading import load
    from .merging import Named, write
    from .merging import merge as merge_runs

    if output.resolve() in {path.resolve() for path in runs}:
        raise ReportError(
            "invalid-output", f"--output {output} is one of the records to merge and would be overwritten"
        )
    if is_journal(output):
        raise ReportError(
            "invalid-output", f"--output: {output.name} is the name of a journal; end a record's name in .json"
        )
    merged = merge_runs([Named(str(path), load(path)) for path in runs])
    if moved := write(merged, output):
        print(f"the earlier {output.name} was moved to {moved}")
    note = "" if merged.nothing_missing else "; not complete, because not all of them are"
    print(f"{output}: {plural(len(merged.cells), 'cell')} from {plural(len(runs), 'record')}{note}")


@report.command(epilog=examples("conformance report validate build/conformance/run.json"))
@click.argument("paths", nargs=-1, required=True, type=_PATH, metavar="DIR|RUN.json...")
def validate(paths: tuple[Path, ...]) -> int:
    """Check run records, and all of those in folders, for errors.

    Reads each record, and prints what it is or what is wrong with it. The exit code is 1 if anything is. In folders,
    reads all *.json, *.json.gz and *.jsonl, without failure bundles and journals beside their record.
    """
    from .loading import record_files
    from .validation import validate_record

    valid = True
    for path in paths:
        try:
            files = record_files([path]) if path.is_dir() else (path,)
        except ReportError as error:
            valid, files = _complain(error), ()
        for file in files:
            try:
                print(f"{file}: {validate_record(file)}")
            except ReportError as error:
                valid = _complain(error)
    return 0 if valid else 1


def _complain(error: ReportError) -> bool:
    print(f"error [{error.code}]: {one_line(str(error), max_chars=500)}", file=sys.stderr)
    return False


@report.command(
    epilog=examples("conformance report history runs/", "conformance report history runs.duckdb --architecture llama")
)
@click.argument("paths", nargs=-1, required=True, type=_PATH, metavar="DIR|RUN.json|RUNS.duckdb...")
@click.option("--architecture", metavar="NAME", help="print this one only, run by run")
@_format
def history(paths: tuple[Path, ...], architecture: str | None, form: str) -> None:
    """Print the status of each architecture over many runs.

    Reads records, folders of records, or one file that `db` wrote. Architectures with problems come first.
    """
    from .histories import history as history_of

    print(history_of(paths, architecture, form), end="")


@report.command("db", epilog=examples("conformance report db runs/ -o runs.duckdb"))
@click.argument("paths", nargs=-1, required=True, type=_PATH, metavar="DIR|RUN.json...")
@click.option("-o", "--output", type=_PATH, required=True, metavar="OUT.duckdb", help="the file to write")
def database(paths: tuple[Path, ...], output: Path) -> None:
    """Write run records to a DuckDB file.

    It has the tables runs, cells and statuses. Needs the package duckdb.
    """
    from .database import write_database

    print(write_database(paths, output))


@report.command(
    epilog=examples('conformance report query runs.duckdb "SELECT verdict, count(*) FROM cells GROUP BY ALL"')
)
@click.argument("database", type=_PATH, metavar="RUNS.duckdb")
@click.argument("sql", metavar="SQL")
@_format
def query(database: Path, sql: str, form: str) -> None:
    """Query a file of `db` with SQL.

    Prints the rows as a table or as JSON. The file is not changed. `DESCRIBE cells` prints the columns of a table and
    their types.

    \b
    runs: run, started, finished, complete, seed, commit, options, transformers, torch,
      executorch, packages, python, platform, cpu, cells, file
    cells: run, started, id, architecture, subject, backend, mode, clause, verdict, stage,
      signature, message, metrics, duration_s, replay, bundle, partition, reason, link
    statuses: run, started, architecture, subject, backend, mode, status, reached, stage,
      violations, verdicts, accepted, judged
    """
    from .database import query as rows_of
    from .terminal import as_json, table

    heads, rows = rows_of(database, sql)
    print((as_json if form == "json" else table)(heads, rows), end="")


def _margins_of(margins: dict[str, float]) -> Margins:
    from .analysis.compare import Margins

    return Margins(margins["slower_by"], margins["slower_seconds"], margins["less_delegated"])
