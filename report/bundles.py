"""Failure bundles as downloads of the site.

A record may come from anyone, and what is packed here is published: the path that a record names is followed only
if it lies below the folder that was asked for, leads through no link, and holds the bundle of that very failure.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from conformance.records.bundle import BundleError, read_bundle
from conformance.records.run import CellRecord, RunRecord

from .analysis.causes import causes
from .analysis.variants import by_architecture
from .errors import ReportError
from .names import slug

#: Default size of the largest bundle to pack, in MiB; real ones have about one.
MOST_MIB = 16
#: Bytes that all of a site's bundles may take. Hosts of static sites give some hundred MB.
_MOST_OF_ALL = 256 << 20
#: The names that the suite gives to files and folders.
_PLAIN = re.compile(r"[\w+-][\w.+-]*", re.ASCII)
#: The earliest time that a zip file can hold, for all entries: the same bundle always gives the same file.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Archive:
    """A bundle to be packed: its address in the site, its folder, and its files with their sizes in bytes."""

    address: str
    folder: Path
    files: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)

    @property
    def replay(self) -> str:
        """The command to replay the unpacked bundle."""
        return f"conformance failure replay {self.folder.name}"


@dataclass(frozen=True, slots=True)
class BundleLink:
    """A cell's bundle on the site: an archive, or why there is none.

    `replay` is the command for the folder that the run was started in; None if the record's path leads out of it.
    """

    archive: Archive | None
    missing: str
    replay: str | None


class _NotPackedError(Exception):
    """The bundle is not packed; the message says why."""


def collect_bundles(run: RunRecord, base: Path, most_mib: int = MOST_MIB) -> dict[str, BundleLink]:
    """By cell id, the bundles that the pages of `run` show: of each architecture and cause, the first one.

    Args:
        run: The record.
        base: The folder that the run was started in, to which the record's paths are relative.
        most_mib: Size of the largest bundle to pack, in MiB.
    """
    links: dict[str, BundleLink] = {}
    remaining = _MOST_OF_ALL
    for cells in by_architecture(run.cells).values():
        for cause in causes(cells):
            cell = cause.bundled
            if cell is None:
                continue
            links[cell.id] = _link(cell, base, most_mib, remaining)
            archive = links[cell.id].archive
            remaining -= archive.size if archive else 0
    return links


def write_archives(archives: Iterable[Archive], directory: Path) -> None:
    """Pack `archives` into the site at `directory`."""
    for archive in archives:
        try:
            _pack(archive, directory / archive.address)
        except (OSError, zipfile.LargeZipFile) as error:
            raise ReportError("file-error", f"{archive.folder}: {getattr(error, 'strerror', None) or error}") from error


def _link(cell: CellRecord, base: Path, most_mib: int, remaining: int) -> BundleLink:
    path = cell.bundle or ""
    replay = f"conformance failure replay {shlex.quote(path)}"
    try:
        parts = _parts(path)
    except _NotPackedError as why:
        return BundleLink(None, str(why), None)
    try:
        return BundleLink(_archive(cell, _folder(base, parts), most_mib << 20, remaining), "", replay)
    except _NotPackedError as why:
        return BundleLink(None, str(why), replay)


def _parts(text: str) -> tuple[str, ...]:
    """The parts of a path below the folder that the run was started in; other paths are not followed."""
    path = PurePosixPath(text)
    elsewhere = path.is_absolute() or PureWindowsPath(text).anchor or ".." in path.parts
    if elsewhere or not path.parts or "\\" in text or not text.isprintable():
        raise _NotPackedError("the record's path is outside of the folder that the run was started in")
    return path.parts


def _folder(base: Path, parts: tuple[str, ...]) -> Path:
    """The folder, checked part by part, so that no link is followed."""
    folder = base
    for part in parts:
        folder /= part
        try:
            mode = folder.lstat().st_mode
        except OSError:
            raise _NotPackedError("its folder did not exist when this page was made") from None
        if not stat.S_ISDIR(mode):
            raise _NotPackedError("its path is not a folder, or leads through a link, which is not followed")
    if not _PLAIN.fullmatch(folder.name):
        raise _NotPackedError("the suite does not write folders of that name")
    return folder


def _archive(cell: CellRecord, folder: Path, max_bytes: int, remaining: int) -> Archive:
    try:
        bundle = read_bundle(folder)
    except BundleError:
        raise _NotPackedError("its folder does not hold a bundle") from None
    failure = (bundle.cell.id, bundle.stage, bundle.signature, bundle.message)
    if failure != (cell.id, cell.stage, cell.signature, cell.message or ""):
        raise _NotPackedError("its folder now holds the bundle of another failure")
    try:
        with os.scandir(folder) as entries:
            plain = [each for each in entries if each.is_file(follow_symlinks=False) and _PLAIN.fullmatch(each.name)]
            files = tuple(sorted((each.name, each.stat(follow_symlinks=False).st_size) for each in plain))
    except OSError as error:
        raise _NotPackedError(f"its folder cannot be read: {error.strerror}") from None
    archive = Archive(f"bundles/{slug(cell.id)}.zip", folder, files)
    if archive.size > max_bytes:
        size, limit = archive.size / (1 << 20), max_bytes >> 20
        raise _NotPackedError(f"it has {size:.1f} MiB, more than the limit of {limit} MiB (--bundle-limit)")
    if archive.size > remaining:
        raise _NotPackedError(f"the bundles of this site have reached their limit of {_MOST_OF_ALL >> 20} MiB")
    return archive


def _pack(archive: Archive, path: Path) -> None:
    # Not compressed: programs and weights are random numbers and zip files already, and two versions of a compressor
    # would make two files.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for name, size in archive.files:
            entry = zipfile.ZipInfo(f"{archive.folder.name}/{name}", _EPOCH)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            # It may have become a link since it was checked.
            with open(os.open(archive.folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as source:
                if os.fstat(source.fileno()).st_size != size:
                    raise ReportError("bundle-changed", f"{archive.folder / name} was changed while the site was made")
                with packed.open(entry, "w") as target:
                    shutil.copyfileobj(source, target)


def archives(links: Mapping[str, BundleLink]) -> tuple[Archive, ...]:
    """The bundles that can be packed."""
    return tuple(each.archive for each in links.values() if each.archive)
