"""`python -m report`: run records in; a static site, Markdown and exit codes out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from report.errors import ReportError


def main() -> int:
    """Do one command; the exit code is what it returns, or 2 with a sentence on stderr where the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m report")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser(
        "build", help="make the static site; it is about the newest run, the others are its past"
    )
    build.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")
    build.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    build.add_argument("--stale-after", type=int, default=14, metavar="DAYS", help="warn of a run this old (14)")
    build.set_defaults(do=_build)
    arguments = parser.parse_args()
    do: Callable[[argparse.Namespace], int] = arguments.do
    try:
        return do(arguments)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _build(arguments: argparse.Namespace) -> int:
    from conformance.matrix import MatrixError, load_matrix
    from report.loading import load_all
    from report.site import Settings, build, write
    from report.timeline import history

    runs = load_all(arguments.runs)
    try:
        matrix = load_matrix()
    except MatrixError as error:
        raise ReportError(str(error)) from error
    write(build(history(runs), matrix, Settings(datetime.now(UTC), arguments.stale_after)), arguments.output)
    print((arguments.output / "index.html").resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
