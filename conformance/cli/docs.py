"""`conformance docs`: the generated pages, written or compared."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from conformance.cli.params import FILE
from conformance.core.commands import command
from conformance.core.console import Command, examples
from conformance.core.paths import ROOT, report_module

#: Pages that need nothing but the project, and the function that makes each.
_PAGES = {
    "docs/reference/contract.md": ("conformance.core.contract", "contract_page"),
    "docs/reference/backends.md": ("conformance.cli.backends_page", "backends_page"),
    "docs/reference/cli.md": ("conformance.cli.help_page", "help_page"),
    "conformance/records/run.schema.json": ("conformance.records.run", "schema_text"),
}
#: Folders of such pages, and the function that makes them, by file name.
_FOLDERS = {"docs/reference/backends": ("conformance.cli.backends_page", "backend_pages")}
#: Pages that are made from records: the option that names new ones, the page, and the module of the report and its
#: function.
_OF_RECORDS = {
    "--status": ("docs/reference/status.md", "status_page", "status_page"),
    "--compatibility": ("docs/reference/compatibility.md", "versions_page", "compatibility_page"),
}
#: The folder of a page's records. Those of compatibility have 16 MB, and `conformance grid` makes them anew.
_KEPT = {"--status": "docs/records/status"}


class _Docs(Command):
    """Options that take all that follows, as far as the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give each record its own `--status` or `--compatibility`."""
        return super().parse_args(ctx, list(_spelt_out(args)))


@click.command(
    "docs",
    cls=_Docs,
    checkout=True,
    epilog=examples(
        "conformance docs",
        "conformance docs --check",
        "conformance docs --status build/conformance/run.json build/conformance/transformers.json",
    ),
)
@click.option("--check", is_flag=True, help="write nothing; exit with 1 if a page is not as it would be written")
@click.option(
    "--status", multiple=True, type=FILE, metavar="RUN.json...", help="make docs/reference/status.md of these records"
)
@click.option(
    "--compatibility",
    multiple=True,
    type=FILE,
    metavar="RUN.json...",
    help="make docs/reference/compatibility.md of these complete records, which differ in versions alone: those that "
    "`conformance grid` writes",
)
def docs(check: bool, status: Sequence[Path], compatibility: Sequence[Path]) -> int:
    """Write the pages of the documentation that are generated.

    These are the contract, the backends, the command line and the schema of records. The status page is
    made from the records in docs/records; named records replace them. The compatibility page is made from
    named records, and by `conformance grid`. Needs a checkout.
    """
    given = {"--status": status, "--compatibility": compatibility}
    stale = written = 0
    for path, text, arguments in _pages(given):
        page = ROOT / path
        if page.is_file() and page.read_text(encoding="utf-8") == text:
            continue
        stale += check
        if check:
            print(f"{path} is out of date: {command('docs', *arguments)} writes it", file=sys.stderr)
        else:
            written += 1
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    for option, folder in _KEPT.items() if not check else ():
        _keep(ROOT / folder, given[option])
    if not stale + written:
        print("all pages are up to date")
    return 1 if stale else 0


def _pages(given: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, str, list[str]]]:
    """The path and the text of each page, and what is typed after `docs` for it."""
    for path, (module, name) in _PAGES.items():
        yield path, _function(importlib.import_module(module), name)(), []
    for folder, (module, name) in _FOLDERS.items():
        for file, text in _function(importlib.import_module(module), name)().items():
            yield f"{folder}/{file}", text, []
    for option, (path, module, name) in _OF_RECORDS.items():
        kept = sorted((ROOT / _KEPT[option]).glob("*.json.gz")) if option in _KEPT else []
        if paths := given[option] or kept:
            from conformance.records.run import load_run

            text = _function(report_module(module), name)([load_run(each) for each in paths])
            yield path, text, [option, *map(str, given[option])] if given[option] else []


def _keep(folder: Path, paths: Sequence[Path]) -> None:
    """Replace the records in `folder` by those at `paths`, if there are any."""
    from conformance.records.run import COMPRESSED, load_run, write_run

    runs = [load_run(path) for path in paths]
    for old in folder.glob("*.json*") if runs else ():
        old.unlink()
    for number, run in enumerate(runs, 1):
        write_run(folder / f"{number:02}.json{COMPRESSED}", run)


def _function(module: Any, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(module, name)
    return function


def _spelt_out(args: Sequence[str]) -> Iterator[str]:
    option, values = "", 0
    for argument in args:
        if argument.startswith("-"):
            option, values = argument, 0
        elif option in _OF_RECORDS:
            if values:
                yield option
            values += 1
        yield argument
