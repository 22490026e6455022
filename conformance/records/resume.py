"""Going on with a run that was interrupted: what it has judged already, and whether it may be added to."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from conformance.core.files import PARTIAL
from conformance.core.verdicts import Verdict
from conformance.records.run import DIRTY, NoRunError, RunRecord, load_run


class RecordTakenError(ValueError):
    """Another run is writing this record."""


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Lock the record at `path` for this process: two runs that replace it in turns would lose each other's verdicts.

    The lock ends with the process, however that ends.

    Raises:
        OSError: Its folder cannot be written.
        RecordTakenError: Another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Where the file system has no `flock`, the fallback would be a file that outlives a killed process.
    lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    try:
        held = lock.acquire(blocking=False)
    except Timeout as error:
        raise RecordTakenError(f"another run is writing {path}: wait for it, or choose another --record") from error
    with held:
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
            partial.unlink(missing_ok=True)  # left by a run that was killed as it wrote
        yield


class NotResumableError(ValueError):
    """The record is no run, or is of another run than the one asked for."""


def judged_so_far(
    path: Path,
    asked: Mapping[str, str | int | None],
    versions: Mapping[str, str],
    seed: int | None,
    commit: str | None = None,
) -> RunRecord | None:
    """The run recorded at `path`, with the cells that have a verdict; None if there is none.

    Args:
        path: The record.
        asked: The options of the run that goes on.
        versions: The installed packages.
        seed: Hypothesis's seed.
        commit: That of the checkout, if it is known. Changes on top of the same commit are let pass.

    Raises:
        NotResumableError: Its verdicts and those to come would not be of one run.
    """
    if not path.exists():
        return None
    try:
        run = load_run(path)
    except OSError as error:
        raise NotResumableError(f"{path}: {error.strerror or error}") from error
    except NoRunError as error:
        raise NotResumableError(str(error)) from error
    before = {**run.environment.packages, **run.run.options, "--hypothesis-seed": run.run.seed}
    now = {**versions, **asked, "--hypothesis-seed": seed}
    if commit and run.run.commit:
        before["commit"], now["commit"] = run.run.commit.removesuffix(DIRTY), commit.removesuffix(DIRTY)
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            raise NotResumableError(
                f"{path} is of another run: {name} was {before.get(name)} there and is {now.get(name)} now; "
                "run without --resume to begin anew"
            )
    cells = tuple(cell for cell in run.cells if cell.verdict is not Verdict.NOT_RUN)
    return RunRecord(run.schema_version, run.run, run.environment, cells)
