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

from conformance.core.contract import CLAUSES
from conformance.core.files import read_regular_file
from conformance.core.text import plural, sanitize

from . import badges, documents, gate, plots, views
from .addresses import architecture_page, chosen, clause_page, grid_page, versions_page
from .analysis import status
from .analysis.clauses import ClauseStatus, alike, clause_ranges
from .analysis.compare import MEANINGS, Comparison
from .analysis.history import Progress, progress, stretches, versions
from .analysis.report import Architecture, Headline, Report
from .analysis.result import unchanged
from .analysis.variants import columns, variant_of
from .analysis.verdicts import GLYPHS, count, verdict_label
from .bundles import Archive, BundleLink, write_archives
from .delegation import delegations, size
from .errors import ReportError
from .loading import when
from .names import commit, plain_link, slug
from .overview import Tab, explained, grid, overview, sentence

_HERE = Path(__file__).parent
#: Lists the files that a build wrote, so that the next one removes these and no others.
MANIFEST = ".report-files.json"
#: Largest file of a site that is read, in bytes; an index of all architectures has 1 MiB.
MOST_BYTES = 64 << 20
#: Runs of a trend, and rows of an architecture's history.
_REMEMBERED = 50
#: Runs of a variant of an architecture whose signs are shown in a row.
_STRIP = 24


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a build.

    Args:
        now: The time now.
        stale_after: After how many days a run is old.
        repository: The web address of the project's repository, without a slash at its end; empty if it is not known.
    """

    now: datetime
    stale_after: int = 14
    repository: str = ""


def build(report: Report, settings: Settings, bundles: Mapping[str, BundleLink] | None = None) -> dict[str, str]:
    """The text files of the site, by their addresses in it; `bundles` are those of the newest run, by cell id."""
    files = {name: (_HERE / "static" / name).read_text("utf-8") for name in ("style.css", "script.js", "icon.svg")}
    files |= documents.schemas()
    pages = _Pages(report, settings, bundles or {}, files)
    pages.overview()
    pages.variants()
    pages.architectures()
    pages.failures()
    pages.clauses()
    pages.changes()
    _put(files, "index.json", documents.index(report))
    _put(files, "badge.json", badges.overall(report))
    return files


class _Pages:
    """Renders the pages of one report into `files`."""

    def __init__(
        self, report: Report, settings: Settings, bundles: Mapping[str, BundleLink], files: dict[str, str]
    ) -> None:
        self.report, self.bundles, self.files = report, bundles, files
        self.links = views.targets(report)
        self.headline = report.headlines[0] if report.headlines else None
        self.tabs = tuple(Tab(grid_page(each.variant), each) for each in report.headlines)
        self.shared: dict[str, object] = {
            "report": report,
            "header": views.run_header(report, settings.now, settings.stale_after),
            "pages": {each.name: architecture_page(each.name) for each in report.architectures},
            "clause_pages": {each.id: clause_page(each.id) for each in report.clauses if each.cells},
            "bundles": bundles,
            "links": self.links,
            "repository": settings.repository,
            "stages": self.tabs[0].page if self.tabs else "",
            "description": self._description(),
        }

    def _description(self) -> str:
        if not self.headline:
            return str(self.report.result)
        phrases = " · ".join(phrase.text for phrase in sentence(self.headline))
        return f"{self.report.short(self.headline.variant)}: {phrases}"

    def page(self, address: str, template: str, **values: object) -> None:
        root = "../" * (len(PurePosixPath(address).parts) - 1)
        rendered = _environment().get_template(template).render(root=root, address=address, **self.shared, **values)
        _put(self.files, address, rendered)

    def _progress(self, headline: Headline) -> tuple[Progress, ...]:
        return progress(self.report.runs, headline.variant)[-_REMEMBERED:]

    def overview(self) -> None:
        # The most informative variant of each exporter.
        firsts: dict[str, Headline] = {}
        for each in self.report.headlines:
            firsts.setdefault(each.variant.subject, each)
        self.page(
            "index.html",
            "index.html",
            rows=overview(self.report, self.links),
            headline=self.headline,
            sentences=[(each, sentence(each)) for each in firsts.values() if each.variant.subject],
            tabs=self.tabs,
            points=self._progress(self.headline) if self.headline else (),
            contract=len(CLAUSES),
        )

    def variants(self) -> None:
        first = self.headline.variant if self.headline else None
        versions_tabs = tuple(Tab(versions_page(each.variant, first), each) for each in self.report.headlines)
        for tab, other in zip(self.tabs, versions_tabs, strict=True):
            headline = tab.headline
            rows = grid(self.report, headline.variant, self.links)
            points = self._progress(headline)
            self.page(tab.page, "grid.html", rows=rows, headline=headline, tabs=self.tabs, points=points)
            compared = views.versions_rows(self.report.by_versions, headline.variant)
            self.page(other.page, "versions.html", rows=compared, headline=headline, tabs=versions_tabs)
        if not versions_tabs:
            self.page("versions.html", "versions.html", rows=(), headline=None, tabs=())

    def architectures(self) -> None:
        for each in self.report.architectures:
            self.page(architecture_page(each.name), "architecture.html", **self._architecture(each))
            archives = {cell.id: self.bundles[cell.id].archive for cell in each.cells if cell.id in self.bundles}
            packed = {cell_id: archive.address for cell_id, archive in archives.items() if archive}
            name = slug(each.name)
            _put(self.files, f"architectures/{name}.json", documents.architecture(self.report, each, packed))
            _put(self.files, f"badges/{name}.json", badges.badge(each.name, each.worst))

    def _architecture(self, each: Architecture) -> dict[str, object]:
        covered = tuple(state.variant for state in each.covered)
        past = self.report.past(each.name)
        errors = plots.errors(each.cells, self.report.short)
        sensitivity, delegated = plots.sensitivity(each.cells), delegations(each.cells)
        fields = any(cell.fields for cell in each.cells)
        sections = (
            ("failures", "Failures", each.causes),
            ("not-run", "Not run", each.unrun),
            ("clauses", "Verdict by clause", True),
            ("delegation", "Delegation and memory", delegated),
            ("errors", "Numeric error", errors),
            ("sensitivity", "Would the checks notice a fault?", sensitivity),
            ("fields", "Fields of the config", fields),
            ("history", "History", True),
            ("measured", "All measurements", True),
        )
        return {
            "architecture": each,
            "covered": covered,
            "states": explained(each, each.covered, self.links),
            "chapters": views.chapter_tables(each.cells),
            "errors": errors,
            "sensitivity": sensitivity,
            "delegations": delegated,
            "past": past[:_STRIP],
            "stretches": stretches(past, each.name, covered)[:_REMEMBERED],
            "sections": [(anchor, title) for anchor, title, present in sections if present],
        }

    def failures(self) -> None:
        for cause in self.report.causes:
            self.page(cause.page, "cause.html", cause=cause, groups=alike(cause.cells))
        failing = dict.fromkeys(verdict.value for cause in self.report.causes for verdict in cause.verdicts)
        self.page("causes/index.html", "causes.html", failing=tuple(failing))

    def clauses(self) -> None:
        chapters: dict[str, list[ClauseStatus]] = {}
        for each in self.report.clauses:
            chapters.setdefault(each.chapter, []).append(each)
            if each.cells:
                groups = [(cause, alike(cause.cells)) for cause in each.causes]
                self.page(clause_page(each.id), "clause.html", status=each, groups_of_causes=groups)
        self.page("clauses/index.html", "clauses.html", clause_chapters=chapters)

    def changes(self) -> None:
        compared = [(_comparison_page(index, each), each) for index, each in enumerate(self.report.comparisons)]
        for address, comparison in compared:
            self.page(
                address,
                "compare.html",
                comparison=comparison,
                meanings=MEANINGS,
                others=compared,
                answer=gate.answer(comparison),
                differing=gate.differing(comparison),
                changed=views.versions_changed(comparison),
            )


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
            raise ReportError(
                "not-a-site", f"{directory} is not empty and does not hold a site: choose another directory"
            )
        for folder in {(directory / name).parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
        write_archives(archives, directory)
        manifest.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReportError.of_file(error.filename or directory, error) from error


def _written(manifest: Path) -> list[str]:
    """The files that an earlier build wrote; a manifest that names files outside its directory is refused."""
    try:
        names = json.loads(read_regular_file(manifest, MOST_BYTES))
        paths = [PurePosixPath(name) for name in names]
    except (ValueError, TypeError, RecursionError) as error:
        raise ReportError("damaged-site", f"{manifest} is damaged ({error}): choose another directory") from error
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise ReportError("damaged-site", f"{manifest} names files outside of the site: choose another directory")
    return [str(path) for path in paths]


def _put(files: dict[str, str], address: str, text: str) -> None:
    """Add a file; two pages at one address would hide one of them."""
    if address in files:
        raise RuntimeError(f"two pages of the site have the address {address}")
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
        parts_of=pass_context(lambda context, variant: context["report"].parts(variant)),
        change_rows=views.change_rows,
        clause_ranges=clause_ranges,
        count_verdicts=count,
        status_in=lambda past, name, variant: past.status(name, variant),
        stretches=views.stretches_of,
        slug=slug,
        size=size,
        unchanged=unchanged,
        commit=commit,
        message=views.message,
        by_status=views.by_status,
        by_variant=columns,
        variant=variant_of,
        plain_link=plain_link,
        versions=versions,
    )
    environment.globals.update(
        GLYPHS=GLYPHS,
        chosen=chosen,
        meanings_of_status=status.MEANINGS,
        plural=plural,
        signs=status.SIGNS,
        verdict_label=verdict_label,
    )
    return environment


def _comparison_page(index: int, comparison: Comparison) -> str:
    """The comparison with the newest older run always has the same address."""
    return f"compare/{slug(comparison.base.run.id)}.html" if index else "compare.html"
