"""`python -m conformance`: the command line, also where its packages are not installed."""

from __future__ import annotations

import sys

from conformance.core.missing import missing


def run() -> int:
    """Run one command; its exit code."""
    try:
        from conformance.cli.main import main
    except ModuleNotFoundError as error:
        print(f"error [missing-package]: {missing('conformance', error.name or '')}", file=sys.stderr)
        return 1
    return main.run()


if __name__ == "__main__":
    sys.exit(run())
