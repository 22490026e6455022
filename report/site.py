"""The static site: renders every page, and writes them to a folder without touching files of others."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from markupsafe import Markup

from conformance.core.files import read_regular_file
from conformance.core.text import plural, sanitize
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix.schema import Matrix
from conformance.records.run import RunRecord

from . import badges, documents, plots, views
from .bundles import Archive, BundleLink, write_archives
from .causes import Cause, causes
from .compare import MEANINGS, Comparison, compare
from .delegation import delegations, size
from .errors import ReportError
from .grouping import groups, unrun
from .loading import when
from .model import COMPILED_ONLY_GLYPH, GLYPHS, Status, Variant, columns, count, status_of, variant_of, variants
from .names import commit, plain_link, slug
from .timeline import History, versions

_HERE = Path(__file__).parent
#: Lists the files that a build wrote, so that the next one removes these and no others.
MANIFEST = ".report-files.json"
#: Largest file of a site that is read, in bytes; an index of all architectures has 1 MiB.
MOST_BYTES = 64 << 20
#: Pages show only the newest of very many runs; `conformance report history` reads them all.
_COMPARED, _REMEMBERED, _VERSIONS = 20, 50, 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a build: the time now, and after how many days a run is old."""

    now: datetime
    stale_after: int = 14


def build(
    history: History, matrix: Matrix, settings: Settings, bundles: Mapping[str, BundleLink] | None = None
) -> dict[str, str]:
    """The text files of the site, by their addresses in it; `bundles` are those of the newest run, by cell id."""
    run = history.head
    environment = _environment()
    header = views.run_header(run, settings.now, settings.stale_after)
    known = views.architectures(history, matrix)
    shown_variants = variants(run.cells)
    all_causes = causes(run.cells)
    compared = [compare(base, run) for base in reversed(history.runs[:-1][-_COMPARED:])]
    subjects = len({variant.subject for variant in shown_variants})
    shared: dict[str, object] = {
        "header": header,
        "subjects": subjects,
        "has_comparison": bool(compared),
        "pages": {each.name: each.page for each in known},
        "bundles": bundles or {},
    }
    files = {name: (_HERE / "static" / name).read_text("utf-8") for name in ("style.css", "script.js", "icon.svg")}
    files |= documents.schemas()

    def page(address: str, template: str, **values: object) -> None:
        root = "../" * (len(PurePosixPath(address).parts) - 1)
        rendered = environment.get_template(template).render(root=root, address=address, **shared, **values)
        _put(files, address, rendered)

    grids = {variant: views.grid(known, variant) for variant in shown_variants}
    addresses = {variant: views.grid_page(variant) if index else "index.html" for index, variant in enumerate(grids)}
    tabs = [views.tab(variant, addresses[variant], rows) for variant, rows in grids.items()]
    if not grids:
        page("index.html", "grid.html", rows=(), variant=None, tabs=(), stages=(), runs=())
    for variant, rows in grids.items():
        page(
            addresses[variant],
            "grid.html",
            rows=rows,
            variant=variant,
            tabs=tabs,
            stages=variant.stages,
            runs=history.runs[:-1][::-1],
        )
    for each in known:
        page(
            each.page,
            "architecture.html",
            architecture=each,
            columns=views.table_columns(each.cells),
            clauses=views.clause_rows(each.cells),
            causes=each.causes,
            errors=plots.errors(each.cells, lambda variant: _short(variant, subjects)),
            sensitivity=plots.sensitivity(each.cells),
            delegations=delegations(each.cells),
            unrun=unrun(each.cells),
            past=views.past(history, each, _REMEMBERED),
        )
        status = _status(each)
        archives = {cell.id: bundles[cell.id].archive for cell in each.cells if bundles and cell.id in bundles}
        document = documents.ArchitectureDocument(
            documents.SCHEMA_VERSION,
            run.run,
            status,
            each.cells,
            {cell_id: archive.address for cell_id, archive in archives.items() if archive},
        )
        _put(files, status.data, documents.ARCHITECTURE.dump_json(document, indent=1).decode() + "\n")
        _put(files, status.badge, badges.badge(each.name, each.status))
    for cause in all_causes:
        page(cause.page, "cause.html", cause=cause)
    page("causes/index.html", "causes.html", causes=all_causes)
    page("versions.html", "versions.html", **_compatibility(history))
    for index, comparison in enumerate(compared):
        address = _comparison_page(index, comparison)
        page(
            address,
            "compare.html",
            comparison=comparison,
            groups=groups(comparison),
            meanings=MEANINGS,
            others=[
                (_comparison_page(other, each), each.base, each is comparison) for other, each in enumerate(compared)
            ],
        )
    site_index = _index(run, known, all_causes)
    _put(files, "index.json", documents.INDEX.dump_json(site_index, indent=1).decode() + "\n")
    _put(files, "badge.json", _overall(site_index, run.run.complete))
    return files


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
        short=pass_context(lambda context, variant: _short(variant, context["subjects"])),
        slug=slug,
        size=size,
        commit=commit,
        message=views.message,
        by_variant=lambda cells: columns(cells).items(),
        variant=variant_of,
        plain_link=plain_link,
        versions=versions,
    )
    environment.globals.update(
        GLYPHS=GLYPHS,
        COMPILED_ONLY_GLYPH=COMPILED_ONLY_GLYPH,
        Status=Status,
        plural=plural,
        stages=tuple(Stage),
        verdicts=tuple(Verdict),
    )
    return environment


def _status(architecture: views.Architecture) -> documents.ArchitectureStatus:
    return documents.ArchitectureStatus(
        architecture.name,
        architecture.row.tier.value if architecture.row else None,
        architecture.row.caches if architecture.row else (),
        architecture.page,
        f"architectures/{architecture.slug}.json",
        f"badges/{architecture.slug}.json",
        dict(architecture.counts),
        tuple(map(_variant, architecture.covered)),
    )


def _variant(state: views.VariantState) -> documents.VariantStatus:
    return documents.VariantStatus(
        state.variant.subject,
        state.variant.backend,
        state.variant.mode,
        state.status.verdict,
        state.status.stage,
        state.status.label,
        state.since.started if state.since else None,
    )


def _index(run: RunRecord, known: Sequence[views.Architecture], all_causes: Sequence[Cause]) -> documents.Index:
    return documents.Index(
        documents.SCHEMA_VERSION,
        run.run,
        run.environment,
        dict(count(run.cells)),
        tuple(map(_status, known)),
        tuple(documents.CauseStatus(c.signature, c.page, c.known, len(c.cells), c.architectures) for c in all_causes),
    )


def _overall(index: documents.Index, complete: bool) -> str:
    counts = Counter(index.counts)
    known = counts[Verdict.EXPECTED_FAILURE]
    judged = counts.total() - counts[Verdict.NOT_APPLICABLE]
    passing = counts[Verdict.PASS]
    unexpected = passing + known < judged
    return badges.overall("ExecuTorch conformance", passing, known, judged, complete=complete, unexpected=unexpected)


def _short(variant: Variant, subjects: int) -> str:
    """The name of a variant, without its subject if the run has only one."""
    return str(variant) if subjects > 1 else f"{variant.backend} {variant.mode}".strip()


def _comparison_page(index: int, comparison: Comparison) -> str:
    """The comparison with the newest older run always has the same address."""
    return f"compare/{slug(comparison.base.run.id)}.html" if index else "compare.html"


def _compatibility(history: History) -> dict[str, Any]:
    """Versions x architectures: for each set of versions, the newest run that has the architecture."""
    latest: dict[tuple[tuple[str, str], ...], dict[str, Status]] = {}
    for index in range(len(history.runs) - 1, -1, -1):
        column = latest.setdefault(versions(history.runs[index]), {})
        for name, variants_of in history.columns[index].items():
            column.setdefault(name, status_of([cell for cells in variants_of.values() for cell in cells]))
    heads = list(latest)[:_VERSIONS]
    names = sorted({name for head in heads for name in latest[head]})
    rows = [(name, [latest[head].get(name, Status(None)) for head in heads]) for name in names]
    return {"heads": heads, "rows": rows, "not_shown": len(latest) - len(heads)}
