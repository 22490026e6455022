"""Failure bundles as downloads of the site.

A record may come from anybody, and what is packed here is published: the place that a record names is followed only
where it lies below the folder that was asked for, leads through no link, and holds the bundle of that very failure.
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

from conformance.records.bundle import FACTS, BundleError, read_bundle
from conformance.records.run import CellRecord, RunRecord
from report.causes import causes
from report.errors import ReportError
from report.model import by_architecture
from report.names import slug

#: MiB of a bundle that are packed at most, unless asked otherwise; real ones have about one.
MOST_MIB = 16
#: Bytes that all of a site's bundles may take. Hosts of static sites give some hundred MB.
_MOST_OF_ALL = 256 << 20
#: The names that the suite gives to files and folders.
_PLAIN = re.compile(r"[\w+-][\w.+-]*", re.ASCII)
#: The first moment that a zip file can tell: the same bundle always gives the same file.
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
        """The command for whoever has unpacked it."""
        return f"python -m conformance replay {self.folder.name}"


@dataclass(frozen=True, slots=True)
class Bundled:
    """What became of a cell's bundle: an archive, or why there is none.

    `replay` is the command where the bundle was left; None if the record names a place that is none.
    """

    archive: Archive | None
    missing: str
    replay: str | None


class _NotPackedError(Exception):
    """Why a bundle is not in the site."""


def gather(run: RunRecord, base: Path, most_mib: int = MOST_MIB) -> dict[str, Bundled]:
    """By cell id, the bundles that the pages of `run` show: of each architecture and cause, the first one.

    Args:
        run: The record.
        base: Where the run was started, which is what the record's places are relative to.
        most_mib: MiB of a bundle that are packed at most.
    """
    found: dict[str, Bundled] = {}
    left = _MOST_OF_ALL
    for cells in by_architecture(run.cells).values():
        for cause in causes(cells):
            cell = cause.bundled
            if cell is None:
                continue
            found[cell.id] = _bundled(cell, base, most_mib, left)
            archive = found[cell.id].archive
            left -= archive.size if archive else 0
    return found


def write_archives(archives: Iterable[Archive], directory: Path) -> None:
    """Pack `archives` into the site at `directory`."""
    for archive in archives:
        try:
            _pack(archive, directory / archive.address)
        except (OSError, zipfile.LargeZipFile) as error:
            raise ReportError(f"{archive.folder}: {getattr(error, 'strerror', None) or error}") from error


def sound_archive(path: Path) -> str | None:
    """What is wrong with a packed bundle; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as packed:
            parts = packed.infolist()
            # Before anything is unpacked. What a build packs is stored as it is, so that it unpacks to what it has.
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                return "is compressed, which no build does"
            if sum(part.file_size for part in parts) > path.stat().st_size:
                return "would unpack to more than it holds"
            broken = packed.testzip()
            names = [part.filename for part in parts]
    except FileNotFoundError:
        return "is missing"
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        return f"is no zip file: {error}"
    if broken:
        return f"is damaged at {broken}"
    odd = [name for name in names if len(name.split("/")) != 2 or not all(map(_PLAIN.fullmatch, name.split("/")))]
    if odd:
        return f"would unpack to {odd[0]!r}"
    return None if any(name.endswith(f"/{FACTS}") for name in names) else f"holds no {FACTS}"


def _bundled(cell: CellRecord, base: Path, most_mib: int, left: int) -> Bundled:
    place = cell.bundle or ""
    replay = f"python -m conformance replay {shlex.quote(place)}"
    try:
        parts = _parts(place)
    except _NotPackedError as why:
        return Bundled(None, str(why), None)
    try:
        return Bundled(_archive(cell, _folder(base, parts), most_mib << 20, left), "", replay)
    except _NotPackedError as why:
        return Bundled(None, str(why), replay)


def _parts(place: str) -> tuple[str, ...]:
    """The steps from where the run was started; a place outside of that is none to go to."""
    path = PurePosixPath(place)
    elsewhere = path.is_absolute() or PureWindowsPath(place).anchor or ".." in path.parts
    if elsewhere or not path.parts or "\\" in place or not place.isprintable():
        raise _NotPackedError("the record names a place outside of the folder that the run was started in")
    return path.parts


def _folder(base: Path, parts: tuple[str, ...]) -> Path:
    """The folder that is there: step by step, so that no link is followed."""
    folder = base
    for part in parts:
        folder /= part
        try:
            mode = folder.lstat().st_mode
        except OSError:
            raise _NotPackedError("its folder was not there when this page was made") from None
        if not stat.S_ISDIR(mode):
            raise _NotPackedError("its place is no folder, or lies behind a link, which is not followed")
    if not _PLAIN.fullmatch(folder.name):
        raise _NotPackedError("its folder has a name that the suite gives to none")
    return folder


def _archive(cell: CellRecord, folder: Path, most: int, left: int) -> Archive:
    try:
        bundle = read_bundle(folder)
    except BundleError:
        raise _NotPackedError("what is at its place is no bundle") from None
    told = (bundle.cell.id, bundle.stage, bundle.signature, bundle.message)
    if told != (cell.id, cell.stage, cell.signature, cell.message or ""):
        raise _NotPackedError("what is at its place now is the bundle of another failure")
    try:
        with os.scandir(folder) as entries:
            plain = [each for each in entries if each.is_file(follow_symlinks=False) and _PLAIN.fullmatch(each.name)]
            files = tuple(sorted((each.name, each.stat(follow_symlinks=False).st_size) for each in plain))
    except OSError as error:
        raise _NotPackedError(f"its folder cannot be read: {error.strerror}") from None
    archive = Archive(f"bundles/{slug(cell.id)}.zip", folder, files)
    if archive.size > most:
        raise _NotPackedError(f"it has {archive.size / (1 << 20):.1f} MiB, and more than {most >> 20} are not packed")
    if archive.size > left:
        raise _NotPackedError(f"the bundles of this site have {_MOST_OF_ALL >> 20} MiB already")
    return archive


def _pack(archive: Archive, path: Path) -> None:
    # Not compressed: programs and weights are random numbers and zip files already, and two versions of a compressor
    # would make two files.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for name, size in archive.files:
            told = zipfile.ZipInfo(f"{archive.folder.name}/{name}", _EPOCH)
            told.create_system, told.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            # It may have become a link since it was looked at.
            with open(os.open(archive.folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as source:
                if os.fstat(source.fileno()).st_size != size:
                    raise ReportError(f"{archive.folder / name} was changed while the site was made")
                with packed.open(told, "w") as target:
                    shutil.copyfileobj(source, target)


def archives(found: Mapping[str, Bundled]) -> tuple[Archive, ...]:
    """Those that can be packed."""
    return tuple(each.archive for each in found.values() if each.archive)
