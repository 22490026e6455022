"""Resume an interrupted run: lock its record and journal, and check that they belong to the same run."""

from __future__ import annotations

import contextlib
import glob
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from conformance.core.errors import InputError
from conformance.core.files import PARTIAL
from conformance.core.option_names import by_option
from conformance.core.text import first_few
from conformance.core.verdicts import Verdict
from conformance.records.run import DIRTY, InvalidRecordError, RunRecord, journal_of, load_run

#: Names of changed parts in a message.
_SHOWN = 6


class RecordTakenError(InputError):
    """Another run is writing this record."""


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Lock the record at `path` and its journal for this process: two runs would lose each other's verdicts.

    The lock ends with the process, however that ends.

    Raises:
        OSError: Its folder cannot be written.
        RecordTakenError: Another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Where the file system has no `flock`, the fallback would be a file that outlives a killed process.
    lock = FileLock(path.with_name(f".{journal_of(path).name}.lock"), fallback_to_soft=False)
    try:
        held = lock.acquire(blocking=False)
    except Timeout as error:
        raise RecordTakenError(
            "record-taken", f"another run is writing {path}: wait for it, or choose another --output"
        ) from error
    with held:
        for file in (path, journal_of(path)):
            for partial in path.parent.glob(f".{glob.escape(file.name)}.*{PARTIAL}"):
                partial.unlink(missing_ok=True)  # left by a run that was killed as it wrote
        yield


class NotResumableError(InputError):
    """There is no record, or it is not a run record, or that of a different run."""


def judged_so_far(
    path: Path,
    asked: Mapping[str, str | int | None],
    versions: Mapping[str, str],
    seed: int | None,
    commit: str | None = None,
    fingerprints: Mapping[str, str] | None = None,
) -> RunRecord:
    """The run recorded at `path`, or in its journal if it was killed, with the cells that have a verdict.

    Args:
        path: The record.
        asked: The options of the run that resumes it.
        versions: Installed packages and their versions.
        seed: Hypothesis's seed.
        commit: The commit of the checkout, if it is known. Uncommitted changes are allowed.
        fingerprints: Hashes of the code that verdicts depend on, if they are known.

    Raises:
        NotResumableError: Python, versions, options, seed, commit or code differ, or the file is not a run record, or
            does not exist.
    """
    journal = journal_of(path)
    try:
        # Where both exist, the journal is the later one: it is deleted once the record has been written.
        run = load_run(journal if journal.exists() else path)
    except FileNotFoundError as error:
        raise NotResumableError(
            "nothing-to-resume",
            f"no run to resume: neither {path} nor its journal {journal.name} exists; run without --resume to start "
            "one, or give the --output of the run to resume",
        ) from error
    except OSError as error:
        raise NotResumableError.of_file(path, error) from error
    except InvalidRecordError as error:
        raise NotResumableError(error.code, str(error)) from error
    before = {"Python": run.environment.python, **run.environment.packages, **by_option(run.run.options)}
    now = {"Python": platform.python_version(), **versions, **by_option(asked)}
    before["--hypothesis-seed"], now["--hypothesis-seed"] = run.run.seed, seed
    if commit and run.run.commit:
        before["commit"], now["commit"] = run.run.commit.removesuffix(DIRTY), commit.removesuffix(DIRTY)
    differences = [f"{name} was {before.get(name)} and is now {now.get(name)}" for name in _differing(before, now)]
    if fingerprints and run.run.fingerprints:
        # A checkout's version and commit stay the same while its code changes.
        changed = _differing(run.run.fingerprints, fingerprints)
        differences += [f"{first_few(changed, _SHOWN)} changed"] if changed else []
    if differences:
        raise NotResumableError(
            "resume-differs",
            f"cannot resume {path}: {differences[0]}; "
            "run without --resume to start again, which keeps that record under another name",
        )
    cells = tuple(cell for cell in run.cells if cell.verdict is not Verdict.NOT_RUN)
    return RunRecord(run.schema_version, run.run, run.environment, cells)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
