"""Writes the journal of a run as verdicts arrive, then its record; and its header, progress and summary."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shlex
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.core.cells import EXPORTED, Cell, plan
from conformance.core.commands import RUN_ARGUMENTS, RUN_COMMAND, run_command
from conformance.core.paths import PACKAGE, ROOT
from conformance.core.text import first_few, plural
from conformance.core.verdicts import ACCEPTABLE, Verdict, judged_nothing
from conformance.failures.transport import unpack
from conformance.matrix.fingerprints import fingerprint_of_files, fingerprints
from conformance.matrix.incremental import (
    IncrementalPlan,
    NotComparableError,
    earlier_run,
    plan_incremental,
    plan_lines,
    reused_line,
)
from conformance.records import environment
from conformance.records.journal import Journal, move_aside
from conformance.records.resume import NotResumableError, RecordTakenError, claim, judged_so_far
from conformance.records.run import (
    SCHEMA_VERSION,
    UNREACHED,
    CellRecord,
    InvalidRecordError,
    JournalFooter,
    RunInfo,
    RunRecord,
    Since,
    cell_from_json,
    is_journal,
    journal_of,
    load_run,
    write_run,
)
from conformance.runner.errors import usage_error
from conformance.runner.interrupts import Interrupts
from conformance.runner.judge import bare_record
from conformance.runner.options import Options, other_scripts
from conformance.runner.pytest_reports import BUNDLE, RECORD, cell_named, teardown
from conformance.runner.terminal import Progress, render_summary

#: What xdist calls the phase in which a worker died.
_WORKER_DIED = "???"
#: The next step after a full disk.
_NEXT_STEP = "free some space, then run again with --resume"
_RESUME = "--resume"
#: Architectures named in the header before "and N more".
_SHOWN = 12


class Recorder:
    """A pytest plugin for the controller, or the only process: it writes the record and the terminal output.

    Attributes:
        already_done: Ids of the cells that are not judged: those with a verdict from before the run was interrupted,
            and those that `--since` leaves out.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        if is_journal(options.record):
            raise usage_error(
                "invalid-output",
                f"--output: {options.record.name} is the name of a journal; end a record's name in .json",
            )
        if options.since and options.since.resolve() == options.record.resolve():
            raise usage_error(
                "invalid-output", "--since: this run would overwrite that record; choose another --output"
            )
        self.versions = environment.versions()
        self.environment = environment.environment()
        self.commit = environment.commit(ROOT)
        self.plan = {cell.id: cell for cell in options.cells}
        self.collected: dict[str, Cell] = {}
        self.fingerprints = self._fingerprints()
        #: The cells that `--since` leaves out.
        self.incremental = self._incremental()
        earlier = self._earlier()
        self.started = earlier.run.started if earlier else _now()
        self.run_id = earlier.run.id if earlier else uuid.uuid4().hex[:12]
        self.records: dict[str, CellRecord] = {cell.id: cell for cell in earlier.cells} if earlier else {}
        self.done = frozenset(self.records)
        reused = {cell.id for cell in self.incremental.reused} if self.incremental else set()
        self.already_done = self.done | reused
        self.journal: Journal | None = None
        self._journal_path = journal_of(options.record)
        #: The new paths of an earlier run's files, by the paths that they had.
        self.moved: dict[Path, Path] = {}
        self.progress: Progress | None = None
        self._session: pytest.Session | None = None
        #: Whether pytest got as far as ending the session.
        self._finished = False
        #: Whether `--resume` would judge more cells.
        self._resumable = False
        #: The error message, if the record could not be written at the end.
        self._write_error = ""
        self._lock = contextlib.ExitStack()
        self._interrupts: Interrupts | None = None

    def pytest_report_header(self) -> list[str]:
        """What is under test, the versions, and the options that decide how much is judged."""
        selection = self.options.selection
        seed = "fixed seed" if self.options.seed is None else f"seed {self.options.seed}"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        absent = f"conformance: not in transformers {self.versions.get('transformers')}, so not run: "
        retired = "conformance: removed in newer Transformers; run only with --arch: "
        done = f"{len(self.done)} of {len(self.plan)} cells done"
        done += "; nothing left to judge" if len(self.done) == len(self.plan) else ""
        return [
            *([f"conformance: resuming the run of {self.started}: {done}"] if self.done else []),
            *(f"conformance: {line}" for line in (plan_lines(self.incremental) if self.incremental else [])),
            f"conformance: {', '.join(selection.subjects)}; {versions}",
            f"conformance: {plural(len(self.plan), 'cell')} of {first_few(selection.architectures, _SHOWN)}; "
            f"{self.options.examples} generated scripts per parity check ({seed}){self._fewer()}",
            f"conformance: record {self.options.record}, written at the end; until then {self._journal_path.name}",
            *(f"conformance: {_moved_line(path, new)}" for path, new in self.moved.items()),
            *([absent + first_few(self.options.absent, _SHOWN)] if self.options.absent else []),
            *self._sampled(),
            *(f"conformance: no cell on {name}: none of the clauses applies there" for name in self._unjudged()),
            *([retired + first_few(self.options.retired, _SHOWN)] if self.options.retired else []),
        ]

    def _fewer(self) -> str:
        """The number of scripts of exported programs, if they get fewer."""
        exported = (cell for cell in plan(self.options.selection) if cell.backend == EXPORTED)
        counts = (self.options.examples_of(cell) for cell in exported)
        fewer = next((count for count in counts if count < self.options.examples), None)
        return f", {fewer} where the runtime is judged too" if fewer else ""

    def _sampled(self) -> list[str]:
        """The clauses that are checked on some architectures only, and the option that checks them on all."""
        selection = self.options.selection
        sample = selection.sample
        others = [] if sample is None else [name for name in selection.architectures if name not in sample]
        names = [clause.id for clause in selection.clauses if clause.sampled] if others and selection.backends else []
        asked = first_few([name for name in selection.architectures if name not in others], _SHOWN) or "none of these"
        return [f"conformance: {name} only on {asked}; on all with --clause {name}" for name in names]

    def _unjudged(self) -> list[str]:
        """Backends that were asked for, and that no cell is on."""
        judged = {cell.backend for cell in self.plan.values()}
        return [backend.name for backend in self.options.selection.backends if backend.name not in judged]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist: the cells that will be judged."""
        self._collected(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """With xdist: the cells that will be judged, as each worker collected them."""
        self._collected(ids)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Start the journal, and replace pytest's dots by lines of progress."""
        self._session = session
        if self.config.option.collectonly:
            return
        try:
            self._lock.enter_context(claim(self.options.record))
            if not self.options.resume:
                self._move_aside(self._journal_path)
            planned = [cell for cell_id, cell in self.plan.items() if cell_id not in self.already_done]
            self.journal = Journal(
                self._journal_path, self._info(None), self.environment, planned, self.records.values()
            )
            if not self._is_resumed(self.options.record):
                self._move_aside(self.options.record)
        except OSError as error:
            raise usage_error("file-error", f"--output: {self.options.record}: {error.strerror}") from error
        except RecordTakenError as error:
            raise usage_error(error.code, f"--output: {error}") from error
        self._interrupts = Interrupts()
        self.config.add_cleanup(self._interrupts.undo)
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.config.option.verbose <= 0:
            reporter.showfspath = False
            if self.config.option.tbstyle == "auto":
                # The summary has each failure once, by cause; pytest would print each cell again, twice.
                self.config.option.tbstyle = "no"
                reporter.reportchars = "w" if reporter.hasopt("w") else ""  # warnings are summed up all the same

            def write_line(line: str) -> None:
                reporter.write_line(line)
                reporter.flush()  # a log file is block-buffered, and would show nothing for minutes

            self.progress = Progress(write_line)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Suppress pytest's dots: progress has lines of its own."""
        plain = getattr(report, RECORD, None)
        if self.progress is None or plain is None:
            return None
        counted = {"passed": "passed", "failed": "failed", "skipped": "skipped"}[report.outcome]
        return ("xfailed" if hasattr(report, "wasxfail") else counted), "", ""

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Iterator[None]:
        """Record a verdict, of this process or a worker, before anything else happens."""
        record = self._kept(report)
        yield
        if record is not None and report.when == _WORKER_DIED:
            ended = teardown(report, record)
            ended.node = getattr(report, "node", None)  # type: ignore[attr-defined]  # as xdist does
            self.config.hook.pytest_runtest_logreport(report=ended)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close the record: cells that were collected and not judged get the verdict not-run."""
        if self._interrupts is not None:
            self._interrupts.ending()
        if self.journal is None:
            return
        missing = [cell for cell_id, cell in self.collected.items() if cell_id not in self.records]
        for cell in missing:
            self.records[cell.id] = bare_record(cell, Verdict.NOT_RUN, UNREACHED)
        info = self._info(_now())
        place = {cell_id: index for index, cell_id in enumerate(self.plan)}
        ordered = sorted(self.records.values(), key=lambda record: place.get(record.id, len(place)))
        try:
            self.journal.add(JournalFooter(info.finished, info.complete))
            write_run(self.options.record, RunRecord(SCHEMA_VERSION, info, self.environment, tuple(ordered)))
            self.journal.remove()
        except OSError as error:  # the journal has what could be written
            self._write_error = (
                f"{self.options.record} cannot be written: {error.strerror}; "
                f"its verdicts are in {self._journal_path.name}, as far as they could be written; {_NEXT_STEP}"
            )
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        self._lock.close()
        self._finished = True
        self._resumable = bool(missing or self._write_error) or session.exitstatus == pytest.ExitCode.INTERRUPTED
        if self.already_done and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # every cell was already done
        bad = any(record.verdict not in ACCEPTABLE for record in self.records.values())
        if bad and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        # What `--since` leaves out was judged before.
        nothing = judged_nothing(record.verdict for record in self.records.values())
        if self.records and nothing and not self.incremental and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The grid, the failures by cause, the counts, and the path of the record."""
        if self.journal is None:
            return
        if self.incremental and self.incremental.reused:
            terminalreporter.write_line(reused_line(self.incremental))
        # Errors in collecting the checks, such as a failing import, once each: most modules have the same.
        for cause, reports in _by_cause(terminalreporter.getreports("error")).items():
            terminalreporter.write_sep("_", f"checks that cannot be imported: {len(reports)}, by {cause}", red=True)
            terminalreporter.write_line(reports[0].longreprtext)
        if not self.records:
            return
        width = terminalreporter._tw.fullwidth
        ordered = [self.records[cell_id] for cell_id in self.plan if cell_id in self.records]
        color = bool(terminalreporter._tw.hasmarkup)
        terminalreporter.write_line(render_summary(ordered, self.options.record, width=width, color=color))
        if self._write_error:
            terminalreporter.write_line(self._write_error, red=True)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """End with the command that resumes a run that was interrupted."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        judged = len(self.records) > len(self.done)
        if (self._resumable or (judged and not self._finished)) and reporter is not None:
            reporter.write_line(f"to resume this run:\n{self._resume_command()}")
        # It could not begin, as with a --host that does not answer. If it was interrupted as it ended, verdicts stay.
        if not self._finished and not judged and not self.options.resume:
            if self.journal is not None:
                self.journal.remove()
            for path, new in self.moved.items():
                new.rename(path)
            self._lock.close()

    def _kept(self, report: pytest.TestReport) -> CellRecord | None:
        plain = getattr(report, RECORD, None)
        if plain is None or self.journal is None:
            return None
        record = cell_from_json(plain)
        if sent := getattr(report, BUNDLE, None):
            folder = unpack(self.options.bundles, self.plan[record.id], sent)
            record = dataclasses.replace(record, bundle=relative_to(folder, self.config.rootpath))
        self.records[record.id] = record
        try:
            self.journal.add(record)
        except OSError as error:
            self._stop(f"{self._journal_path} cannot be written: {error.strerror}; {_NEXT_STEP}")
        if self.progress is not None:
            self.progress.add(record, self.plan[record.id], self.collected)
        return record

    def _collected(self, nodeids: Any) -> None:
        for nodeid in nodeids:
            cell = cell_named(nodeid, self.plan)
            if cell is not None:
                self.collected[cell.id] = cell

    def _fingerprints(self) -> dict[str, str]:
        selection, checkpoint, program = self.options.selection, self.options.checkpoint, self.options.program
        found = fingerprints(self.options.matrix, selection.architectures, selection.subjects)
        if checkpoint is not None:
            found["files of the checkpoint"] = fingerprint_of_files(checkpoint.directory.iterdir())
        if program is not None:
            found["program file"] = fingerprint_of_files([program])
        return found

    def _incremental(self) -> IncrementalPlan | None:
        if self.options.since is None:
            return None
        try:
            run = earlier_run(self.options.since)
        except NotComparableError as error:
            raise usage_error(error.code, f"--since: {error}") from error
        return plan_incremental(run, self.options.cells, self.fingerprints, other_scripts(run.run, self.options))

    def _earlier(self) -> RunRecord | None:
        if not self.options.resume:
            return None
        try:
            return judged_so_far(
                self.options.record,
                self.options.asked,
                self.versions,
                self.options.seed,
                self.commit,
                self.fingerprints,
            )
        except NotResumableError as error:
            raise usage_error(error.code, f"--resume: {error}") from error

    def _move_aside(self, path: Path) -> None:
        if new := move_aside(path):
            self.moved[path] = new

    def _is_resumed(self, path: Path) -> bool:
        """Whether the record at `path` is that of the run that is resumed."""
        try:
            return self.options.resume and load_run(path).run.id == self.run_id
        except (OSError, InvalidRecordError):
            return False

    def _resume_command(self) -> str:
        """The arguments as typed, and --resume before them: options of pytest may be among them, after `--`."""
        typed = shlex.split(os.environ.get(RUN_ARGUMENTS, ""))
        if RUN_ARGUMENTS not in os.environ:  # pytest was started without `conformance run`, which names the package
            typed = [each for each in sys.argv[1:] if Path(each).resolve() != PACKAGE]
            typed = typed if RUN_COMMAND in os.environ else ["--", *typed]
        return run_command(_RESUME, *(each for each in typed if each != _RESUME))

    def _stop(self, why: str) -> None:
        """End the run after the cells that are being judged now."""
        distributed = self.config.pluginmanager.get_plugin("dsession")
        if distributed is not None:
            distributed.shouldstop = why
        elif self._session is not None:
            self._session.shouldstop = why

    def _info(self, finished: str | None) -> RunInfo:
        done = [record for record in self.records.values() if record.verdict is not Verdict.NOT_RUN]
        reused = tuple(cell.id for cell in self.incremental.reused) if self.incremental else ()
        missing = len(self.plan.keys() - self.records.keys() - set(reused))
        return RunInfo(
            id=self.run_id,
            started=self.started,
            finished=finished,
            complete=finished is not None and len(done) == len(self.plan),
            options=dict(self.options.asked),
            seed=self.options.seed,
            commit=self.commit,
            fingerprints=self.fingerprints,
            since=Since(self.incremental.run, reused, missing) if self.incremental else None,
        )


def relative_to(folder: Path, root: Path) -> str:
    """The path of `folder` relative to `root`, if it lies inside."""
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def _moved_line(path: Path, new: Path) -> str:
    if not is_journal(path):
        return f"the earlier {path.name} was moved to {new}"
    return f"the journal of an unfinished run was moved to {new}; resume it with --output {new.with_suffix('.json')}"


def _by_cause(reports: Iterable[pytest.CollectReport]) -> dict[str, list[pytest.CollectReport]]:
    """Collection errors, by their last line."""
    causes: dict[str, list[pytest.CollectReport]] = {}
    for report in reports:
        last = report.longreprtext.rstrip().rpartition("\n")[2]
        causes.setdefault(last.removeprefix("E   "), []).append(report)
    return causes


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
