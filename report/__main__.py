"""`python -m report`: run records in; a static site, Markdown and exit codes out."""

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

from conformance.core.text import one_line
from report.errors import ReportError
from report.text import plural

if TYPE_CHECKING:
    from report.compare import Margins


def main(argv: Sequence[str] | None = None) -> int:
    """Do one command; the exit code is what it returns, or 2 with a sentence on stderr where the input is wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a sign gets its code, and no traceback.
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    do: Callable[[argparse.Namespace], int] = arguments.do
    try:
        code = do(arguments)
        sys.stdout.flush()
    except ReportError as error:
        # Names and values in it may come from a record.
        print(f"error: {one_line(str(error), most=1000)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has seen enough; what is left must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m report")
    commands = parser.add_subparsers(dest="command", required=True)

    build = commands.add_parser("build", help="make the static site; it is about the newest run, the others its past")
    _runs(build)
    build.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    build.add_argument("--stale-after", type=int, default=14, metavar="DAYS", help="warn of a run this old (14)")
    build.add_argument(
        "--bundles",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the newest run was started, which its record names failure bundles relative to (here)",
    )
    build.add_argument(
        "--bundle-limit", type=_count, default=16, metavar="MIB", help="the largest bundle to put into the site (16)"
    )
    build.set_defaults(do=_build)

    summary = commands.add_parser("summary", help="print a run as Markdown for a pull request, what got worse first")
    summary.add_argument("run", type=Path, metavar="RUN.json")
    summary.add_argument("--base", type=Path, metavar="RUN.json", help="the run to compare with")
    summary.add_argument("--format", choices=("markdown", "github"), default="markdown", help="github: annotations")
    _rows(summary)
    _margins(summary)
    summary.set_defaults(do=_summary)

    verdict = commands.add_parser("verdict", help="say what a run comes to; exit with 1 unless all is as it should be")
    verdict.add_argument("run", type=Path, metavar="RUN.json")
    verdict.set_defaults(do=_verdict)

    gate = commands.add_parser("gate", help="compare two runs by cell; exit with 1 where the second does worse")
    gate.add_argument("base", type=Path, metavar="BASE.json")
    gate.add_argument("head", type=Path, metavar="HEAD.json")
    _rows(gate)
    _margins(gate)
    gate.set_defaults(do=_gate)

    merge = commands.add_parser("merge", help="make one record of the shards of a run")
    _runs(merge)
    merge.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.json")
    merge.set_defaults(do=_merge)

    validate = commands.add_parser("validate", help="look for what is wrong with run records or built sites")
    validate.add_argument("paths", nargs="+", type=Path, metavar="RUN.json|DIR")
    validate.set_defaults(do=_validate)

    history = commands.add_parser("history", help="show how each architecture did over many runs")
    history.add_argument("paths", nargs="+", type=Path, metavar="DIR|RUN.json")
    history.add_argument("--architecture", metavar="NAME", help="this one alone, in every run")
    _json(history)
    history.set_defaults(do=_history)

    query = commands.add_parser("query", help="ask with SQL; the tables are `runs` and `cells`")
    query.add_argument("sql", metavar="SQL")
    query.add_argument("paths", nargs="+", type=Path, metavar="DIR|RUN.json")
    _json(query)
    query.set_defaults(do=_query)
    return parser


def _runs(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")


def _rows(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rows", type=_count, default=10, metavar="N", help='rows before "and N more" (10)')


def _margins(command: argparse.ArgumentParser) -> None:
    for option, default, told in (
        ("--slower-by", 1.5, "how many times longer lowering may take (1.5)"),
        ("--slower-seconds", 2.0, "and how many seconds longer, at least (2)"),
        ("--less-delegated", 0.0, "what share of the operators, 0 to 1, may no longer be delegated (0)"),
    ):
        command.add_argument(option, type=_number, default=default, metavar="X", help=told)


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
    from report.bundles import archives, gather
    from report.loading import load_all
    from report.site import Settings, build, write
    from report.timeline import history

    runs = load_all(arguments.runs)
    try:
        matrix = load_matrix()
    except MatrixError as error:
        raise ReportError(str(error)) from error
    if not arguments.bundles.is_dir():
        raise ReportError(f"{arguments.bundles}: there is no such directory")
    bundles = gather(runs[-1], arguments.bundles, arguments.bundle_limit)
    settings = Settings(datetime.now(UTC), arguments.stale_after)
    write(build(history(runs), matrix, settings, bundles), arguments.output, archives(bundles))
    print((arguments.output / "index.html").resolve())
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    from report.annotations import annotate
    from report.compare import compare
    from report.loading import load
    from report.summary import summary

    head = load(arguments.run)
    comparison = compare(load(arguments.base), head, _chosen(arguments)) if arguments.base else None
    write = annotate if arguments.format == "github" else summary
    print(write(head, comparison, arguments.rows), end="")
    return 0


def _verdict(arguments: argparse.Namespace) -> int:
    from report.loading import load
    from report.summary import acceptable, headline

    run = load(arguments.run)
    counts = Counter(cell.verdict.value for cell in run.cells)
    print(headline(run, None))
    print(f"{plural(len(run.cells), 'cell')}: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return 0 if acceptable(run) else 1


def _gate(arguments: argparse.Namespace) -> int:
    from report.compare import compare
    from report.gate import refuse_unfit, told
    from report.loading import load

    base, head = load(arguments.base), load(arguments.head)
    for run, path in ((base, arguments.base), (head, arguments.head)):
        refuse_unfit(run, str(path))
    comparison = compare(base, head, _chosen(arguments))
    print(told(comparison, arguments.rows), end="")
    return 1 if comparison.worse else 0


def _merge(arguments: argparse.Namespace) -> int:
    from report.loading import load
    from report.merging import Named, merge, write

    if arguments.output.resolve() in {path.resolve() for path in arguments.runs}:
        raise ReportError(f"{arguments.output} is one of the records to merge, and would be overwritten")
    merged = merge([Named(str(path), load(path)) for path in arguments.runs])
    write(merged, arguments.output)
    whole = "" if merged.run.complete else "; it is not complete, since not all of them are"
    print(f"{arguments.output}: {len(merged.cells)} cells of {len(arguments.runs)} records{whole}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from report.validation import validate

    sound = True
    for path in arguments.paths:
        finding = validate(path)
        for problem in finding.problems:
            print(one_line(f"{path}: {problem}".replace(f"{path}: {path}", str(path)), most=500), file=sys.stderr)
        sound = sound and not finding.problems
        if not finding.problems:
            print(f"{path}: sound, {finding.looked_at}")
    return 0 if sound else 1


def _history(arguments: argparse.Namespace) -> int:
    from report.database import opened
    from report.histories import detail, overview
    from report.trends import moments, prepare, trends

    with opened(arguments.paths) as database:
        prepare(database)
        if arguments.architecture is None:
            print(overview(trends(database), arguments.format), end="")
            return 0
        found = moments(database, arguments.architecture)
        if not found:
            raise ReportError(f"no run has an architecture {arguments.architecture!r}")
        print(detail(found, arguments.format), end="")
    return 0


def _query(arguments: argparse.Namespace) -> int:
    from report.database import opened
    from report.terminal import as_json, table

    with opened(arguments.paths) as database:
        heads, rows = database.ask(arguments.sql)
    print((as_json if arguments.format == "json" else table)(heads, rows), end="")
    return 0


def _chosen(arguments: argparse.Namespace) -> Margins:
    from report.compare import Margins

    return Margins(arguments.slower_by, arguments.slower_seconds, arguments.less_delegated)


if __name__ == "__main__":
    sys.exit(main())
