"""The record of a run: begun, added to as verdicts arrive, closed, and summed up for a person in the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conformance.core.cells import Cell
from conformance.core.paths import ROOT
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.failures.transport import unpack
from conformance.matrix.fingerprints import fingerprints
from conformance.matrix.incremental import Choice, NotComparableError, choose, earlier_run, explained, left_out
from conformance.records import environment
from conformance.records.resume import NotResumableError, RecordTakenError, claim, judged_so_far
from conformance.records.run import (
    UNREACHED,
    CellRecord,
    RunInfo,
    RunRecord,
    RunWriter,
    Since,
    cell_from_json,
)
from conformance.runner.judge import bare_record
from conformance.runner.options import Options, other_scripts
from conformance.runner.pytest_reports import BUNDLE, RECORD, cell_named, teardown
from conformance.runner.terminal import Progress, render_summary

#: What xdist calls the phase in which a worker died.
_WORKER_DIED = "???"
#: What to do once there is room again.
_GO_ON = "make room for it, and go on with --resume"
#: Architectures named in the header before "and N more".
_SHOWN = 12


class Recorder:
    """A pytest plugin for the controller, or the only process: it owns the record and the terminal.

    Attributes:
        unasked: Ids of the cells that are not to be judged, having a verdict from before the run was interrupted, or
            being left out by `--since`.
    """

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.versions = environment.versions()
        self.commit = environment.commit(ROOT)
        self.plan = {cell.id: cell for cell in options.cells}
        self.collected: dict[str, Cell] = {}
        self.fingerprints = self._fingerprints()
        #: Which cells `--since` leaves out.
        self.choice = self._choice()
        earlier = self._earlier()
        self.started = earlier.run.started if earlier else _now()
        self.run_id = earlier.run.id if earlier else uuid.uuid4().hex[:12]
        self.records: dict[str, CellRecord] = {cell.id: cell for cell in earlier.cells} if earlier else {}
        self.done = frozenset(self.records)
        left = {cell.id for cell in self.choice.left_out} if self.choice else set()
        self.unasked = self.done | left
        self.writer: RunWriter | None = None
        self.progress: Progress | None = None
        self._session: pytest.Session | None = None
        #: What the record on disk lacks, if it could not be written last.
        self._lacking = ""
        self._claimed = contextlib.ExitStack()

    def pytest_report_header(self) -> list[str]:
        """What is under test, with which versions, and how much of it."""
        selection = self.options.selection
        seed = "derandomised" if self.options.seed is None else f"seed {self.options.seed}"
        found = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        absent = f"conformance: not in transformers {self.versions.get('transformers')}, so not judged: "
        retired = "conformance: gone from later releases of Transformers, so judged only with --arch: "
        resumed = [f"conformance: going on with a run of {self.started}; {len(self.done)} cells are done"]
        return [
            *(resumed if self.done else []),
            *(f"conformance: {line}" for line in (explained(self.choice) if self.choice else [])),
            f"conformance: {', '.join(selection.subjects)}; {found}",
            f"conformance: {len(self.plan)} cells of {_first(selection.architectures)}; "
            f"{self.options.examples} examples a parity cell, {seed}; record {self.options.record}",
            *([absent + _first(self.options.absent)] if self.options.absent else []),
            *([retired + _first(self.options.retired)] if self.options.retired else []),
        ]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist: what will run."""
        self._collected(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """With xdist: what will run, as each worker found it."""
        self._collected(ids)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin the record, and take the terminal over from pytest's dots."""
        self._session = session
        if self.config.option.collectonly:
            return
        cells = self.records.values()
        try:
            self._claimed.enter_context(claim(self.options.record))
            self.writer = RunWriter(self.options.record, self._info(None), environment.environment(), cells)
        except (OSError, RecordTakenError) as error:
            told = f"cannot write {self.options.record}: {error.strerror}" if isinstance(error, OSError) else error
            raise pytest.UsageError(f"--record: {told}") from error
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.config.option.verbose <= 0:
            reporter.showfspath = False
            if self.config.option.tbstyle == "auto":
                # The summary tells failures by cause, once each; pytest would tell each cell again, twice.
                self.config.option.tbstyle = "no"
                reporter.reportchars = ""

            def tell(line: str) -> None:
                reporter.write_line(line)
                reporter.flush()  # a log file is block-buffered, and would show nothing for minutes

            self.progress = Progress(tell)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots: progress is told in lines of its own."""
        plain = getattr(report, RECORD, None)
        if self.progress is None or plain is None:
            return None
        counted = {"passed": "passed", "failed": "failed", "skipped": "skipped"}[report.outcome]
        return ("xfailed" if hasattr(report, "wasxfail") else counted), "", ""

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Iterator[None]:
        """A verdict has arrived, from here or from a worker: keep it before anything else happens."""
        record = self._kept(report)
        yield
        if record is not None and report.when == _WORKER_DIED:
            ended = teardown(report, record)
            ended.node = getattr(report, "node", None)  # type: ignore[attr-defined]  # as xdist does
            self.config.hook.pytest_runtest_logreport(report=ended)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close the record: what was planned and not reached is not-run, which is no pass."""
        if self.writer is None:
            return
        missing = [cell for cell_id, cell in self.collected.items() if cell_id not in self.records]
        for cell in missing:
            self.records[cell.id] = bare_record(cell, Verdict.NOT_RUN, UNREACHED)
        try:
            if missing:
                self.writer.add(*(self.records[cell.id] for cell in missing))
            self.writer.finish(self._info(_now()), self.plan)
        except OSError as error:  # the file is as it was when it could be written last
            self._lacking = f"{self.options.record} lacks the last verdicts: {error.strerror}; {_GO_ON}"
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        self._claimed.close()
        if self.unasked and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # nothing was left to do
        bad = any(record.verdict not in ACCEPTABLE for record in self.records.values())
        if bad and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The grid, the failures by cause, the counts, and where the record is."""
        if self.writer is None:
            return
        if self.choice and self.choice.left_out:
            terminalreporter.write_line(left_out(self.choice))
        # Of the checks themselves, such as an import that fails: each cause once, since most modules have the same.
        for cause, those in _by_cause(terminalreporter.getreports("error")).items():
            terminalreporter.write_sep("_", f"checks that cannot be imported: {len(those)}, by {cause}", red=True)
            terminalreporter.write_line(those[0].longreprtext)
        if not self.records:
            return
        width = terminalreporter._tw.fullwidth
        ordered = [self.records[cell_id] for cell_id in self.plan if cell_id in self.records]
        color = bool(terminalreporter._tw.hasmarkup)
        terminalreporter.write_line(render_summary(ordered, self.plan, self.options.record, width=width, color=color))
        if self._lacking:
            terminalreporter.write_line(self._lacking, red=True)

    def _kept(self, report: pytest.TestReport) -> CellRecord | None:
        plain = getattr(report, RECORD, None)
        if plain is None or self.writer is None:
            return None
        record = cell_from_json(plain)
        if sent := getattr(report, BUNDLE, None):
            folder = unpack(self.options.bundles, self.plan[record.id], sent)
            record = dataclasses.replace(record, bundle=shown(folder, self.config.rootpath))
        self.records[record.id] = record
        try:
            self.writer.add(record)
        except OSError as error:
            self._stop(f"{self.options.record} cannot be written: {error.strerror}; {_GO_ON}")
        if self.progress is not None:
            self.progress.add(record, self.plan[record.id], self.collected)
        return record

    def _collected(self, nodeids: Any) -> None:
        for nodeid in nodeids:
            cell = cell_named(nodeid, self.plan)
            if cell is not None:
                self.collected[cell.id] = cell

    def _fingerprints(self) -> dict[str, str]:
        selection = self.options.selection
        return fingerprints(self.options.matrix, selection.architectures, selection.subjects)

    def _choice(self) -> Choice | None:
        if self.options.since is None:
            return None
        try:
            run = earlier_run(self.options.since)
        except NotComparableError as error:
            raise pytest.UsageError(f"--since: {error}") from error
        return choose(run, self.options.cells, self.fingerprints, other_scripts(run.run, self.options))

    def _earlier(self) -> RunRecord | None:
        if not self.options.resume:
            return None
        try:
            return judged_so_far(self.options.record, self.options.asked, self.versions, self.options.seed, self.commit)
        except NotResumableError as error:
            raise pytest.UsageError(f"--resume: {error}") from error

    def _stop(self, why: str) -> None:
        """End the run after the cells that are being judged."""
        distributed = self.config.pluginmanager.get_plugin("dsession")
        if distributed is not None:
            distributed.shouldstop = why
        elif self._session is not None:
            self._session.shouldstop = why

    def _info(self, finished: str | None) -> RunInfo:
        done = [record for record in self.records.values() if record.verdict is not Verdict.NOT_RUN]
        return RunInfo(
            id=self.run_id,
            started=self.started,
            finished=finished,
            complete=finished is not None and len(done) == len(self.plan),
            options=dict(self.options.asked),
            seed=self.options.seed,
            commit=self.commit,
            fingerprints=self.fingerprints,
            since=Since(self.choice.run, tuple(cell.id for cell in self.choice.left_out)) if self.choice else None,
        )


def shown(folder: Path, root: Path) -> str:
    """Relative to where the run was started, if it lies there."""
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def _by_cause(reports: Iterable[pytest.CollectReport]) -> dict[str, list[pytest.CollectReport]]:
    """What could not be collected, by the last line of what is told of it."""
    causes: dict[str, list[pytest.CollectReport]] = {}
    for report in reports:
        last = report.longreprtext.rstrip().rpartition("\n")[2]
        causes.setdefault(last.removeprefix("E   "), []).append(report)
    return causes


def _first(architectures: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    rest = len(architectures) - _SHOWN
    return f"{', '.join(architectures[:_SHOWN])}{f' and {rest} more' if rest > 0 else ''}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
