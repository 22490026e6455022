"""The static site: renders every page, and writes them to a folder without touching files of others."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from markupsafe import Markup

from conformance.core.files import read_regular_file
from conformance.core.text import plural, sanitize

from . import badges, documents, plots, views
from .analysis import status
from .analysis.compare import MEANINGS, Comparison
from .analysis.history import versions
from .analysis.report import Architecture, Report
from .analysis.variants import columns, variant_of
from .analysis.verdicts import GLYPHS
from .bundles import Archive, BundleLink, write_archives
from .delegation import delegations, size
from .errors import ReportError
from .loading import when
from .names import commit, plain_link, slug

_HERE = Path(__file__).parent
#: Lists the files that a build wrote, so that the next one removes these and no others.
MANIFEST = ".report-files.json"
#: Largest file of a site that is read, in bytes; an index of all architectures has 1 MiB.
MOST_BYTES = 64 << 20
#: Runs in an architecture's history.
_REMEMBERED = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a build: the time now, and after how many days a run is old."""

    now: datetime
    stale_after: int = 14


def build(report: Report, settings: Settings, bundles: Mapping[str, BundleLink] | None = None) -> dict[str, str]:
    """The text files of the site, by their addresses in it; `bundles` are those of the newest run, by cell id."""
    environment = _environment()
    links = bundles or {}
    shared: dict[str, object] = {
        "report": report,
        "header": views.run_header(report, settings.now, settings.stale_after),
        "pages": {each.name: views.architecture_page(each.name) for each in report.architectures},
        "bundles": links,
    }
    files = {name: (_HERE / "static" / name).read_text("utf-8") for name in ("style.css", "script.js", "icon.svg")}
    files |= documents.schemas()

    def page(address: str, template: str, **values: object) -> None:
        root = "../" * (len(PurePosixPath(address).parts) - 1)
        rendered = environment.get_template(template).render(root=root, address=address, **shared, **values)
        _put(files, address, rendered)

    addresses = [views.grid_page(each) if index else "index.html" for index, each in enumerate(report.variants)]
    tabs = tuple(map(views.Tab, addresses, report.headlines))
    for tab in tabs:
        page(tab.page, "grid.html", rows=views.grid(report, tab.headline.variant), headline=tab.headline, tabs=tabs)
    if not tabs:
        page("index.html", "grid.html", rows=(), headline=None, tabs=())
    for each in report.architectures:
        page(views.architecture_page(each.name), "architecture.html", **_architecture(report, each))
        archives = {cell.id: links[cell.id].archive for cell in each.cells if cell.id in links}
        packed = {cell_id: archive.address for cell_id, archive in archives.items() if archive}
        name = slug(each.name)
        _put(files, f"architectures/{name}.json", documents.architecture(report, each, packed))
        _put(files, f"badges/{name}.json", badges.badge(each.name, each.worst))
    for cause in report.causes:
        page(cause.page, "cause.html", cause=cause)
    page("causes/index.html", "causes.html")
    page("versions.html", "versions.html", names=sorted({n for each in report.by_versions for n in each.statuses}))
    compared = [(_comparison_page(index, each), each) for index, each in enumerate(report.comparisons)]
    for address, comparison in compared:
        page(address, "compare.html", comparison=comparison, meanings=MEANINGS, others=compared)
    _put(files, "index.json", documents.index(report))
    _put(files, "badge.json", badges.overall(report))
    return files


def _architecture(report: Report, each: Architecture) -> dict[str, object]:
    return {
        "architecture": each,
        "columns": views.table_columns(each.cells),
        "clauses": views.clause_rows(each.cells),
        "errors": plots.errors(each.cells, report.short),
        "sensitivity": plots.sensitivity(each.cells),
        "delegations": delegations(each.cells),
        "past": report.past(each.name, _REMEMBERED),
    }


def write(files: Mapping[str, str], directory: Path, archives: Sequence[Archive] = ()) -> None:
    """Write the site to `directory`, which must be new or empty, or hold an earlier site, which is replaced.

    Raises:
        ReportError: The directory holds other files, or a bundle cannot be packed.
    """
    manifest = directory / MANIFEST
    names = sorted({*files, *(archive.address for archive in archives)})
    try:
        if manifest.exists():
            for name in set(_written(manifest)).difference(names):
                (directory / name).unlink(missing_ok=True)
        elif directory.exists() and any(directory.iterdir()):
            raise ReportError(f"{directory} is not empty and does not hold a site: choose another directory")
        for folder in {(directory / name).parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
        write_archives(archives, directory)
        manifest.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{error.filename or directory}: {error.strerror or error}") from error


def _written(manifest: Path) -> list[str]:
    """The files that an earlier build wrote; a manifest that names files outside its directory is refused."""
    try:
        names = json.loads(read_regular_file(manifest, MOST_BYTES))
        paths = [PurePosixPath(name) for name in names]
    except (ValueError, TypeError, RecursionError) as error:
        raise ReportError(f"{manifest} is damaged: {error}") from error
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise ReportError(f"{manifest} is damaged: it names files outside of the site")
    return [str(path) for path in paths]


def _put(files: dict[str, str], address: str, text: str) -> None:
    """Add a file; two pages at one address would hide one of them."""
    if address in files:
        raise ReportError(f"two pages of the site have the address {address}")
    files[address] = text


@functools.cache  # compiling the templates takes longer than a small site
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # No control characters in any output, and no marks that make a name look like another.
        finalize=lambda value: sanitize(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(
        date=lambda text: when(text).strftime("%Y-%m-%d"),
        time=lambda text: when(text).strftime("%Y-%m-%d %H:%M UTC"),
        number=plots.number,
        short=pass_context(lambda context, variant: context["report"].short(variant)),
        slug=slug,
        size=size,
        commit=commit,
        message=views.message,
        by_variant=lambda cells: columns(cells).items(),
        variant=variant_of,
        plain_link=plain_link,
        versions=versions,
    )
    environment.globals.update(GLYPHS=GLYPHS, plural=plural, meanings_of_status=status.MEANINGS, signs=status.SIGNS)
    return environment


def _comparison_page(index: int, comparison: Comparison) -> str:
    """The comparison with the newest older run always has the same address."""
    return f"compare/{slug(comparison.base.run.id)}.html" if index else "compare.html"
