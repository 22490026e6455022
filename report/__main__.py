"""`python -m report` in a checkout: the commands of `conformance report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .commands import report


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; if the input is wrong, 2, with one sentence on stderr."""
    return report.run(argv, "python -m report")


if __name__ == "__main__":
    sys.exit(main())
