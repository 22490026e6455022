"""`python -m report`: builds the site from run records, and compares, merges, checks and queries them."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.core.text import format_counts, one_line, plural

from .errors import ReportError

if TYPE_CHECKING:
    from .analysis.compare import Margins


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; if the input is wrong, 2, with one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets its code instead of a traceback.
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    run_command: Callable[[argparse.Namespace], int] = arguments.run_command
    try:
        code = run_command(arguments)
        sys.stdout.flush()
    except ReportError as error:
        # Names and values in it may come from a record.
        print(f"error: {one_line(str(error), max_chars=1000)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader closed the pipe; flushing at exit must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m report")
    commands = parser.add_subparsers(dest="command", required=True)

    build = commands.add_parser("build", help="build the site for the newest run; older runs become its history")
    _runs(build)
    build.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    build.add_argument("--stale-after", type=int, default=14, metavar="DAYS", help="warn of older runs (14)")
    build.add_argument(
        "--bundles",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the folder that the newest run was started in, from which its record names failure bundles (here)",
    )
    build.add_argument(
        "--bundle-limit", type=_count, default=16, metavar="MIB", help="largest failure bundle to include (16)"
    )
    build.set_defaults(run_command=_build)

    summary = commands.add_parser("summary", help="print a run as Markdown for a pull request, regressions first")
    summary.add_argument("run", type=Path, metavar="RUN.json")
    summary.add_argument("--base", type=Path, metavar="RUN.json", help="the run to compare with")
    summary.add_argument("--format", choices=("markdown", "github"), default="markdown", help="github: annotations")
    _rows(summary)
    _margins(summary)
    summary.set_defaults(run_command=_summary)

    verdict = commands.add_parser("verdict", help="print the overall result; exit 1 on any unexpected result")
    verdict.add_argument("run", type=Path, metavar="RUN.json")
    verdict.set_defaults(run_command=_verdict)

    gate = commands.add_parser("gate", help="compare two runs cell by cell; exit 1 if the second is worse")
    gate.add_argument("base", type=Path, metavar="BASE.json")
    gate.add_argument("head", type=Path, metavar="HEAD.json")
    _rows(gate)
    _margins(gate)
    gate.set_defaults(run_command=_gate)

    merge = commands.add_parser("merge", help="merge the shards of a run into one record")
    _runs(merge)
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.json")
    merge.set_defaults(run_command=_merge)

    validate = commands.add_parser("validate", help="check run records for errors")
    validate.add_argument("paths", nargs="+", type=Path, metavar="RUN.json")
    validate.set_defaults(run_command=_validate)

    database = commands.add_parser("db", help="write run records to a DuckDB file")
    database.add_argument("paths", nargs="+", type=Path, metavar="DIR|RUN.json")
    database.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.duckdb")
    database.set_defaults(run_command=_db)

    history = commands.add_parser("history", help="print the status of each architecture over many runs")
    history.add_argument("paths", nargs="+", type=Path, metavar="DIR|RUN.json|RUNS.duckdb")
    history.add_argument("--architecture", metavar="NAME", help="print this one only, run by run")
    _json(history)
    history.set_defaults(run_command=_history)

    query = commands.add_parser("query", help="query a file of `db` with SQL: the tables runs, cells and statuses")
    query.add_argument("database", type=Path, metavar="RUNS.duckdb")
    query.add_argument("sql", metavar="SQL")
    _json(query)
    query.set_defaults(run_command=_query)
    return parser


def _runs(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")


def _rows(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rows", type=_count, default=10, metavar="N", help='rows before "and N more" (10)')


def _margins(command: argparse.ArgumentParser) -> None:
    for option, default, help_text in (
        ("--slower-by", 1.5, "allowed factor by which lowering gets slower (1.5)"),
        ("--slower-seconds", 2.0, "allowed seconds by which lowering gets slower; only above both is a regression (2)"),
        ("--less-delegated", 0.0, "allowed decrease of the share of delegated operators, 0 to 1 (0)"),
    ):
        command.add_argument(option, type=_number, default=default, metavar="X", help=help_text)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("table", "json"), default="table")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def _build(arguments: argparse.Namespace) -> int:
    from conformance.matrix.schema import load_matrix
    from conformance.matrix.yaml_file import MatrixError

    from .analysis import analyse
    from .bundles import archives, collect_bundles
    from .loading import load_all
    from .site import Settings, build, write

    runs = load_all(arguments.runs)
    try:
        matrix = load_matrix()
    except MatrixError as error:
        raise ReportError(str(error)) from error
    if not arguments.bundles.is_dir():
        raise ReportError(f"--bundles: no such directory: {arguments.bundles}")
    bundles = collect_bundles(runs[-1], arguments.bundles, arguments.bundle_limit)
    settings = Settings(datetime.now(UTC), arguments.stale_after)
    write(build(analyse(runs, matrix), settings, bundles), arguments.output, archives(bundles))
    print((arguments.output / "index.html").resolve())
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    from .analysis.compare import compare
    from .annotations import annotate
    from .loading import load
    from .summary import summary

    head = load(arguments.run)
    comparison = compare(load(arguments.base), head, _margins_of(arguments)) if arguments.base else None
    write = annotate if arguments.format == "github" else summary
    print(write(head, comparison, arguments.rows), end="")
    return 0


def _verdict(arguments: argparse.Namespace) -> int:
    from .loading import load
    from .summary import acceptable, headline

    run = load(arguments.run)
    counts = Counter(cell.verdict for cell in run.cells)
    print(headline(run, None))
    print(f"{plural(len(run.cells), 'cell')}: {format_counts(counts.most_common())}")
    return 0 if acceptable(run) else 1


def _gate(arguments: argparse.Namespace) -> int:
    from .analysis.compare import compare
    from .gate import format_comparison, refuse_unfit
    from .loading import load

    base, head = load(arguments.base), load(arguments.head)
    for run, path in ((base, arguments.base), (head, arguments.head)):
        refuse_unfit(run, str(path))
    comparison = compare(base, head, _margins_of(arguments))
    print(format_comparison(comparison, arguments.rows), end="")
    return 1 if comparison.worse else 0


def _merge(arguments: argparse.Namespace) -> int:
    from .loading import load
    from .merging import Named, merge, write

    if arguments.output.resolve() in {path.resolve() for path in arguments.runs}:
        raise ReportError(f"--output {arguments.output} is one of the records to merge and would be overwritten")
    merged = merge([Named(str(path), load(path)) for path in arguments.runs])
    write(merged, arguments.output)
    note = "" if merged.run.complete else "; not complete, because not all of them are"
    print(f"{arguments.output}: {plural(len(merged.cells), 'cell')} from {plural(len(arguments.runs), 'record')}{note}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from .validation import validate_record

    valid = True
    for path in arguments.paths:
        try:
            print(f"{path}: {validate_record(path)}")
        except ReportError as error:
            valid = False
            print(one_line(str(error), max_chars=500), file=sys.stderr)
    return 0 if valid else 1


def _db(arguments: argparse.Namespace) -> int:
    from .database import write_database

    print(write_database(arguments.paths, arguments.output))
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from .histories import history

    print(history(arguments.paths, arguments.architecture, arguments.format), end="")
    return 0


def _query(arguments: argparse.Namespace) -> int:
    from .database import query
    from .terminal import as_json, table

    heads, rows = query(arguments.database, arguments.sql)
    print((as_json if arguments.format == "json" else table)(heads, rows), end="")
    return 0


def _margins_of(arguments: argparse.Namespace) -> Margins:
    from .analysis.compare import Margins

    return Margins(arguments.slower_by, arguments.slower_seconds, arguments.less_delegated)


if __name__ == "__main__":
    sys.exit(main())
