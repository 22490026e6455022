"""The static site: every page as text, and putting them on disk without ever touching what is not ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from conformance.core.files import read_regular_file
from conformance.core.text import shown
from conformance.core.verdicts import Stage, Verdict
from conformance.matrix.schema import Matrix
from conformance.records.run import RunRecord
from report import badges, documents, plots, views
from report.bundles import Archive, Bundled, write_archives
from report.causes import Cause, causes
from report.compare import MEANINGS, Comparison, compare
from report.delegation import delegations, size
from report.errors import ReportError
from report.grouping import groups, unrun
from report.loading import when
from report.model import GLYPHS, SHORT_GLYPH, Standing, Variant, columns, count, standing, told, variant_of, variants
from report.names import commit, plain_link, slug
from report.timeline import History, versions

_HERE = Path(__file__).parent
#: Lists what a build wrote, so that the next one can take it away, and nothing else.
MANIFEST = ".report-files.json"
#: Largest file of a site that is read; an index of all architectures has 1 MiB.
MOST_BYTES = 64 << 20
#: Pages keep to the newest of very many runs; `python -m report history` reads them all.
_COMPARED, _REMEMBERED, _VERSIONS = 20, 50, 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What a build is told beside the runs."""

    now: datetime
    stale_after: int = 14


def build(
    history: History, matrix: Matrix, settings: Settings, bundles: Mapping[str, Bundled] | None = None
) -> dict[str, str]:
    """Every file of the site that is text, by its address in it; `bundles` are those of its newest run, by cell."""
    run = history.head
    environment = _environment()
    strip = views.strip(run, settings.now, settings.stale_after)
    known = views.architectures(history, matrix)
    shown_variants = variants(run.cells)
    all_causes = causes(run.cells)
    compared = [compare(base, run) for base in reversed(history.runs[:-1][-_COMPARED:])]
    subjects = {variant.subject for variant in shown_variants}
    short = str if len(subjects) > 1 else _without_subject
    environment.filters["short"] = short
    environment.globals.update(
        strip=strip,
        subjects=len(subjects),
        has_causes=bool(all_causes),
        has_comparison=bool(compared),
        pages={each.name: each.page for each in known},
        bundles=bundles or {},
    )
    files = {name: (_HERE / "static" / name).read_text("utf-8") for name in ("style.css", "script.js", "icon.svg")}
    files |= documents.schemas()

    def page(address: str, template: str, **values: object) -> None:
        root = "../" * (len(PurePosixPath(address).parts) - 1)
        _put(files, address, environment.get_template(template).render(root=root, address=address, **values))

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
            errors=plots.errors(each.cells, short),
            sensitivity=plots.sensitivity(each.cells),
            delegations=delegations(each.cells),
            unrun=unrun(each.cells),
            past=views.past(history, each, _REMEMBERED),
        )
        status = _status(each)
        offered = {cell.id: bundles[cell.id].archive for cell in each.cells if bundles and cell.id in bundles}
        document = documents.ArchitectureDocument(
            documents.SCHEMA_VERSION,
            run.run,
            status,
            each.cells,
            {cell_id: archive.address for cell_id, archive in offered.items() if archive},
        )
        _put(files, status.data, documents.ARCHITECTURE.dump_json(document, indent=1).decode() + "\n")
        _put(files, status.badge, badges.badge(each.name, each.standing))
    for cause in all_causes:
        page(cause.page, "cause.html", cause=cause)
    page("causes/index.html", "causes.html", causes=all_causes)
    page("versions.html", "versions.html", **_compatibility(history))
    for place, comparison in enumerate(compared):
        address = _comparison_page(place, comparison)
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
    index = _index(run, known, all_causes)
    _put(files, "index.json", documents.INDEX.dump_json(index, indent=1).decode() + "\n")
    _put(files, "badge.json", _overall(index, run.run.complete))
    return files


def write(files: Mapping[str, str], directory: Path, archives: Sequence[Archive] = ()) -> None:
    """Put the site into `directory`, which must be new, empty, or hold an earlier site, which goes.

    Raises:
        ReportError: The directory holds something else, or a bundle cannot be packed.
    """
    manifest = directory / MANIFEST
    names = sorted({*files, *(archive.address for archive in archives)})
    try:
        if manifest.exists():
            for name in set(_written(manifest)).difference(names):
                (directory / name).unlink(missing_ok=True)
        elif directory.exists() and any(directory.iterdir()):
            raise ReportError(f"{directory} is not empty and holds no report: choose another directory")
        for folder in {(directory / name).parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
        write_archives(archives, directory)
        manifest.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{error.filename or directory}: {error.strerror or error}") from error


def _written(manifest: Path) -> list[str]:
    """What an earlier build wrote; a manifest that names anything outside its directory is none of ours."""
    try:
        names = json.loads(read_regular_file(manifest, MOST_BYTES))
        paths = [PurePosixPath(name) for name in names]
    except (ValueError, TypeError, RecursionError) as error:
        raise ReportError(f"{manifest} is damaged: {error}") from error
    if any(path.is_absolute() or ".." in path.parts for path in paths):
        raise ReportError(f"{manifest} is damaged: it names files outside of the report")
    return [str(path) for path in paths]


def _put(files: dict[str, str], address: str, text: str) -> None:
    """Add a file; two pages at one address would hide one of them."""
    if address in files:
        raise ReportError(f"two pages of the site would have the address {address}")
    files[address] = text


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever is printed: no control characters, and no marks that make a name read as another.
        finalize=lambda value: shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(
        date=lambda text: when(text).strftime("%Y-%m-%d"),
        time=lambda text: when(text).strftime("%Y-%m-%d %H:%M UTC"),
        number=plots.number,
        told=told,
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
        GLYPHS=GLYPHS, SHORT_GLYPH=SHORT_GLYPH, Standing=Standing, stages=tuple(Stage), verdicts=tuple(Verdict)
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
        tuple(map(_variant, architecture.own)),
    )


def _variant(state: views.VariantState) -> documents.VariantStatus:
    return documents.VariantStatus(
        state.variant.subject,
        state.variant.backend,
        state.variant.mode,
        state.standing.verdict,
        state.standing.stage,
        state.standing.label,
        state.since.started if state.since else None,
    )


def _index(run: RunRecord, known: Sequence[views.Architecture], found: Sequence[Cause]) -> documents.Index:
    return documents.Index(
        documents.SCHEMA_VERSION,
        run.run,
        run.environment,
        dict(count(run.cells)),
        tuple(map(_status, known)),
        tuple(documents.CauseStatus(c.signature, c.page, c.known, len(c.cells), c.architectures) for c in found),
    )


def _overall(index: documents.Index, complete: bool) -> str:
    counts = Counter(index.counts)
    known = counts[Verdict.EXPECTED_FAILURE]
    judged = counts.total() - counts[Verdict.NOT_APPLICABLE]
    holding = counts[Verdict.PASS]
    return badges.overall(
        "ExecuTorch conformance", holding, known, judged, complete=complete, unlisted=holding + known < judged
    )


def _without_subject(variant: Variant) -> str:
    """A variant's name where all have the same subject."""
    return f"{variant.backend} {variant.mode}".strip()


def _comparison_page(index: int, comparison: Comparison) -> str:
    """The newest pair has an address that stays."""
    return f"compare/{slug(comparison.base.run.id)}.html" if index else "compare.html"


def _compatibility(history: History) -> dict[str, Any]:
    """Versions x architectures: for each set of versions, the newest run that has the architecture."""
    latest: dict[tuple[tuple[str, str], ...], dict[str, Standing]] = {}
    for index in range(len(history.runs) - 1, -1, -1):
        column = latest.setdefault(versions(history.runs[index]), {})
        for name, found in history.columns[index].items():
            column.setdefault(name, standing([cell for cells in found.values() for cell in cells]))
    heads = list(latest)[:_VERSIONS]
    names = sorted({name for head in heads for name in latest[head]})
    rows = [(name, [latest[head].get(name, Standing(None)) for head in heads]) for name in names]
    return {"heads": heads, "rows": rows, "left_out": len(latest) - len(heads)}
