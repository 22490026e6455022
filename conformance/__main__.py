"""`python -m conformance contract` and `schema`: print what is generated from the code and kept in the repository."""

from __future__ import annotations

import argparse

from conformance.contract import contract_page
from conformance.records import schema_text


def main() -> None:
    """Print one of the generated files."""
    parser = argparse.ArgumentParser(prog="python -m conformance")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("contract", help="print docs/contract.md")
    commands.add_parser("schema", help="print conformance/run.schema.json")
    printers = {"contract": contract_page, "schema": schema_text}
    print(printers[parser.parse_args().command](), end="")


if __name__ == "__main__":
    main()
