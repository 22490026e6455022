"""The pytest side: cells become tests, what tests find becomes records, and records become `run.json` and a summary."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol  # pytest-forked and pytest-rerunfailures take it from there too

from conformance import environment
from conformance.bundles import write_bundle
from conformance.cells import Cell
from conformance.fingerprints import fingerprints
from conformance.hosts import is_remote
from conformance.isolation import ArchitectureLostError, Keeper, Limits, end_with
from conformance.judging import bare_record, judge
from conformance.matrix import ROOT, Expectation
from conformance.options import Options, other_scripts, resolve_subjects
from conformance.records import (
    UNREACHED,
    CellRecord,
    ExpectedFailure,
    RunInfo,
    RunRecord,
    RunWriter,
    Since,
    cell_from_json,
    cell_to_json,
)
from conformance.resuming import NotResumableError, RecordTakenError, claim, judged_so_far
from conformance.shipping import packed, unpack
from conformance.since import Choice, NotComparableError, choose, earlier_run, explained, left_out
from conformance.summary import Progress, render_summary
from conformance.verdicts import ACCEPTABLE, CellFailedError, Verdict

_CELL_ID = re.compile(r"\[(.+)\]")
_RECORD = "conformance_record"
_UNASKED = "conformance_unasked"
_REMOTE = "conformance_remote"
_BUNDLE = "conformance_bundle"
#: What xdist calls the phase in which a worker died.
_WORKER_DIED = "???"
#: What to do once there is room again, or the worker's killer gone.
_GO_ON = "make room for it, and go on with --resume"
_AGAIN = "--resume judges the cell again"
#: Architectures named in the header before "and N more".
_SHOWN = 12
#: Lines shown of what a process printed before it was lost.
_LAST_LINES = 5
_CELL = pytest.StashKey[Cell]()
_CASE = pytest.StashKey[Any]()
#: How pytest counts a verdict, for its own exit code.
_OUTCOMES = {Verdict.EXPECTED_FAILURE: "skipped", Verdict.NOT_APPLICABLE: "skipped", Verdict.PASS: "passed"}


class ConformancePlugin:
    """One per pytest process. The controller, or the only process, also owns the record and the terminal."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.config = config
        self.options = options
        self.versions = environment.versions()
        self.is_worker = hasattr(config, "workerinput")
        self.is_remote = bool(getattr(config, "workerinput", {}).get(_REMOTE))
        if self.is_worker:
            end_with(os.getppid())  # xdist would let it go on for up to 15 s
        self.commit = None if self.is_worker else environment.commit(ROOT)
        self.plan = {cell.id: cell for cell in options.cells}
        self.collected: dict[str, Cell] = {}
        self.records: dict[str, CellRecord] = {}
        self.fingerprints = None if self.is_worker else self._fingerprints()
        #: Which cells `--since` leaves out.
        self.choice = self._choice()
        earlier = self._earlier()
        self.started = earlier.run.started if earlier else _now()
        self.run_id = earlier.run.id if earlier else uuid.uuid4().hex[:12]
        #: Cells that have a verdict from before the run was interrupted.
        self.done: frozenset[str] = frozenset()
        if earlier:
            self.records = {cell.id: cell for cell in earlier.cells}
            self.done = frozenset(self.records)
        #: Cells that are not to be judged, being done or left out. Workers are told by the controller.
        self.unasked = frozenset(getattr(config, "workerinput", {}).get(_UNASKED, ())) | self.done
        self.unasked |= {cell.id for cell in self.choice.left_out} if self.choice else frozenset()
        self.writer: RunWriter | None = None
        self._session: pytest.Session | None = None
        #: What the record on disk lacks, if it could not be written last.
        self._lacking = ""
        self._claimed = contextlib.ExitStack()
        #: The processes of xdist's workers.
        self._workers: list[subprocess.Popen[bytes]] = []
        self.progress: Progress | None = None
        self.keeper: Keeper | None = None
        #: The program whose cells were judged last, and the seconds it has used.
        self._program: tuple[str | None, ...] = ()
        self._seconds = 0.0
        # A typo in a dotted path should end the run, not fail each of its cells. Known names need no import here.
        self.subjects = (
            resolve_subjects(options.selection) if any(":" in name for name in options.selection.subjects) else {}
        )

    # Collection

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test for each planned cell of the check's clause."""
        marker = metafunc.definition.get_closest_marker("clause")
        if marker is None or "case" not in metafunc.fixturenames:
            return
        cells = [cell for cell in self.plan.values() if cell.clause == marker.args[0]]
        metafunc.parametrize("cell", [pytest.param(cell, id=cell.id) for cell in cells], indirect=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """In the plan's order, so that artifacts are built once and then let go."""
        order = {cell_id: index for index, cell_id in enumerate(self.plan)}
        chosen: list[pytest.Item] = []
        # Done before, or a check none of whose cells were selected: pytest would show that as skipped.
        unselected: list[pytest.Item] = []
        for item in items:
            cell = _item_cell(item)
            if cell is None or cell.id in self.unasked:
                unselected.append(item)
            else:
                item.stash[_CELL] = cell
                chosen.append(item)
        config.hook.pytest_deselected(items=unselected)
        items[:] = sorted(chosen, key=lambda item: order[item.stash[_CELL].id])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist: what will run."""
        self._collected(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """With xdist: what will run, as each worker found it."""
        self._collected(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """With xdist: tell a new worker what is done. It cannot read that off the record, which grows meanwhile."""
        node.workerinput[_UNASKED] = sorted(self.unasked)
        node.workerinput[_REMOTE] = is_remote(node)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """With xdist: a worker has begun."""
        process = getattr(node.gateway._io, "popen", None)  # of one on this machine
        if process is not None:
            self._workers.append(process)

    def pytest_keyboard_interrupt(self) -> None:
        """End the workers, which xdist would wait for up to 15 s. What they have measured is here already."""
        for process in self._workers:
            process.kill()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """All checks of an architecture on one worker, which builds its artifacts once.

        A scheduler of our own, since xdist 3.8's loadgroup writes a node id that pytest 9.2 no longer reads.
        """
        from xdist.scheduler import LoadScopeScheduling

        cell_of = self._cell_of

        class ByArchitecture(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
            def _split_scope(self, nodeid: str) -> str:
                cell = cell_of(nodeid)
                return cell.architecture if cell else nodeid

            def remove_node(self, node: Any) -> str | None:
                # As xdist does it, which however gives the item that a worker died of to the next worker, until all
                # of them are dead.
                units = self.assigned_work.pop(node)
                lost = [nodeid for unit in units.values() for nodeid, completed in unit.items() if not completed]
                for unit in units.values():
                    unit.update((nodeid, True) for nodeid in lost[:1] if nodeid in unit)
                self.workqueue.update({scope: unit for scope, unit in units.items() if not all(unit.values())})
                for other in self.assigned_work:
                    self._reschedule(other)
                return lost[0] if lost else None

        return ByArchitecture(config, log)

    # Running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Judge a cell in its architecture's own process."""
        cell = item.stash.get(_CELL, None)
        if cell is None or self.options.limits is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._isolated(item, cell, self.options.limits):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.fixture
    def cell(self, request: pytest.FixtureRequest) -> Cell:
        """The cell being judged."""
        cell: Cell = request.param
        return cell

    @pytest.fixture(scope="session")
    def workbench(self) -> Any:
        """Models and programs, built once."""
        import torch

        from conformance.pipeline import stages
        from conformance.pipeline.store import Store
        from conformance.pipeline.workbench import Workbench

        subjects = self.subjects or resolve_subjects(self.options.selection)
        checkpoint = self.options.checkpoint
        if checkpoint is not None:  # alone on all cores
            return Workbench(subjects, build=lambda _: stages.build_own(checkpoint), tokenizer=checkpoint.tokenizer)
        # Two workers on two cores: more threads would only take turns.
        torch.set_num_threads(1)
        store = Store(self.options.store, self.options.store_limit) if self.options.store_limit else None
        return Workbench(subjects, store=store)

    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, cell: Cell, workbench: Any) -> Any:
        """What a check is given."""
        from conformance.checks.case import Case, require_undecodable

        row = self.options.matrix.architectures.get(cell.architecture)
        case = Case(
            cell,
            workbench,
            self.options.examples,
            derandomize=self.options.seed is None,
            caches=row.caches if row else None,
            own=self.options.checkpoint is not None,
        )
        request.node.stash[_CASE] = case
        if row and row.undecodable and row.undecodable.applies_to(self.versions):
            require_undecodable(case, row.undecodable)
        return case

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Judge the cell when its check has ended, and let pytest count it as the truth table says."""
        outcome: Any = yield
        report: pytest.TestReport = outcome.get_result()
        cell = item.stash.get(_CELL, None)
        ended = call.when == "call" or (call.when == "setup" and call.excinfo is not None)
        if cell is None or not ended or (call.excinfo and call.excinfo.errisinstance(KeyboardInterrupt)):
            return
        case = item.stash.get(_CASE, None)
        error = call.excinfo.value if call.excinfo else None

        def judged() -> CellRecord:
            return judge(
                cell,
                error,
                self._expectation(cell),
                versions=self.versions,
                metrics=case.metrics if case else {},
                duration_s=call.duration,
                exploring=self.options.exploring,
                partition=case.measured.get("partition") if case else None,
            )

        record = self._limited(judged(), cell)
        spent = self._spent(cell, call.duration)
        # Of somebody's own model, the evidence would be its weights several times over.
        if record.verdict is Verdict.FAIL and error is not None and self.options.checkpoint is None:
            divergence = self._divergence(case, error, spent)
            record = self._with_bundle(item, error, judged() if divergence else record, divergence)
        setattr(report, _RECORD, cell_to_json(record))
        if self.is_remote and record.bundle:
            setattr(report, _BUNDLE, packed(self.config.rootpath / record.bundle))
        # pytest's JUnit XML takes them from the report of the teardown, which is still to be made.
        item.user_properties += _properties(record)
        report.outcome = _OUTCOMES.get(record.verdict, "failed")  # type: ignore[assignment]  # a Literal
        if record.verdict is Verdict.EXPECTED_FAILURE and record.expected:
            report.wasxfail = record.expected.reason
        if record.verdict is Verdict.NOT_APPLICABLE:
            report.longrepr = (str(item.path), 0, record.message or "")
        elif record.verdict is not Verdict.HARNESS_ERROR:
            # The message is the explanation; a traceback through torch helps only where the suite itself failed.
            report.longrepr = record.message

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: object) -> None:
        """A worker died: the cell it was at has crashed."""
        cell = self._cell_of(crashitem)
        if cell is not None:
            # With a process for each architecture, nothing that is under test runs in the worker itself.
            alone = self.options.limits is None
            told = f"the process died while it judged {cell.id}" if alone else f"its xdist worker was killed; {_AGAIN}"
            verdict = Verdict.CRASH if alone else Verdict.NOT_RUN
            record = bare_record(cell, verdict, told, self.options.exploring)
            setattr(report, _RECORD, cell_to_json(record))

    # Reporting: in the controller, or the only process

    def pytest_report_header(self) -> list[str]:
        """What is under test, with which versions, and how much of it."""
        selection = self.options.selection
        seed = "derandomised" if self.options.seed is None else f"seed {self.options.seed}"
        found = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        absent = f"conformance: not in transformers {self.versions.get('transformers')}, so not judged: "
        resumed = [f"conformance: going on with a run of {self.started}; {len(self.done)} cells are done"]
        return [
            *(resumed if self.done else []),
            *(f"conformance: {line}" for line in (explained(self.choice) if self.choice else [])),
            f"conformance: {', '.join(selection.subjects)}; {found}",
            f"conformance: {len(self.plan)} cells of {_first(selection.architectures)}; "
            f"{self.options.examples} examples a parity cell, {seed}; record {self.options.record}",
            *([absent + _first(self.options.absent)] if self.options.absent else []),
        ]

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin the record, and take the terminal over from pytest's dots."""
        self._session = session
        if self.is_worker or self.config.option.collectonly:
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
        plain = getattr(report, _RECORD, None)
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
            ended = _teardown(report, record)
            ended.node = getattr(report, "node", None)  # type: ignore[attr-defined]  # as xdist does
            self.config.hook.pytest_runtest_logreport(report=ended)

    def _kept(self, report: pytest.TestReport) -> CellRecord | None:
        plain = getattr(report, _RECORD, None)
        if plain is None or self.writer is None:
            return None
        record = cell_from_json(plain)
        if sent := getattr(report, _BUNDLE, None):
            folder = unpack(self.options.bundles, self.plan[record.id], sent)
            record = dataclasses.replace(record, bundle=self._shown(folder))
        self.records[record.id] = record
        try:
            self.writer.add(record)
        except OSError as error:
            self._stop(f"{self.options.record} cannot be written: {error.strerror}; {_GO_ON}")
        if self.progress is not None:
            self.progress.add(record, self.plan[record.id], self.collected)
        return record

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close the record: what was planned and not reached is not-run, which is no pass."""
        if self.keeper is not None:
            self.keeper.close()
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
        if not self.records:
            return
        width = terminalreporter._tw.fullwidth
        ordered = [self.records[cell_id] for cell_id in self.plan if cell_id in self.records]
        color = bool(terminalreporter._tw.hasmarkup)
        terminalreporter.write_line(render_summary(ordered, self.plan, self.options.record, width=width, color=color))
        if self._lacking:
            terminalreporter.write_line(self._lacking, red=True)

    # Isolation

    def _isolated(self, item: pytest.Item, cell: Cell, limits: Limits) -> list[pytest.TestReport]:
        items = item.session.items
        if self.keeper is None:
            self._warm_up()
            self.keeper = Keeper(lambda job: _judged(items, job), limits)
        began = time.monotonic()
        try:
            program = " ".join(part for part in (cell.subject, cell.column) if part)
            plain = self.keeper.run(cell.architecture, program, items.index(item), cell.subject)
        except ArchitectureLostError as lost:
            told = f"{cell.clause} came to no verdict: {lost}{self._last_words()}"
            record = dataclasses.replace(
                bare_record(cell, lost.verdict, told, self.options.exploring),
                stage=lost.stage,
                duration_s=round(time.monotonic() - began, 3),
            )
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", told, "call")
            setattr(report, _RECORD, cell_to_json(record))
            return [report, _teardown(report, record)]
        return [self.config.hook.pytest_report_from_serializable(config=self.config, data=data) for data in plain]

    def _warm_up(self) -> None:
        """Before the first fork, so that no architecture pays for what can be shared."""
        from conformance.pipeline.backends import BACKENDS
        from conformance.pipeline.warming import warm_up

        lowered = dict.fromkeys(cell.backend for cell in self.plan.values() if cell.backend in BACKENDS)
        # Those of ExecuTorch itself. Other libraries may begin threads, or read the environment, when first used.
        warm_up(BACKENDS[name] for name in lowered if not BACKENDS[name].requires)

    def _spent(self, cell: Cell, duration_s: float) -> float:
        """Seconds that this process has used on the cell's program, with the `duration_s` of its own."""
        program = (cell.architecture, cell.subject, cell.column)
        if program != self._program:
            self._program, self._seconds = program, 0.0
        self._seconds += duration_s
        return self._seconds

    def _divergence(self, case: Any, error: BaseException, spent: float) -> Any:
        """Where the program first goes wrong, which the error then tells; None where that cannot be asked."""
        from conformance.locating import LIMIT_S, locate

        left = self.options.limits.seconds / 2 - spent if self.options.limits else LIMIT_S
        began = time.monotonic()
        divergence = locate(case, error, min(LIMIT_S, int(left))) if case is not None else None
        self._seconds += time.monotonic() - began
        return divergence

    def _with_bundle(
        self, item: pytest.Item, error: BaseException, record: CellRecord, divergence: Any = None
    ) -> CellRecord:
        """The record, with the place of the failure's bundle. What goes wrong here must not cost the verdict."""
        from conformance.evidence import bundle_of

        case = getattr(item, "funcargs", {}).get("case")
        if case is None or not isinstance(error, CellFailedError):
            return record
        try:
            bundle, files = bundle_of(case, error, record, self.versions, divergence)
            folder = write_bundle(self.options.bundles, bundle, files)
        except Exception as lost:
            told = f"{record.message}\n  bundle    none: {type(lost).__name__}: {lost}"
            return dataclasses.replace(record, message=told)
        return dataclasses.replace(record, bundle=self._shown(folder))

    def _last_words(self) -> str:
        """What the lost process printed last, where pytest captures that."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if capture is None or not capture.is_globally_capturing():
            return ""
        lines = "\n".join(capture.read_global_capture()).split("\n")
        said = [line for line in lines if line.strip()][-_LAST_LINES:]
        return "".join(f"\n  last words  {line}" for line in said)

    # Helpers

    def _shown(self, folder: Path) -> str:
        """Relative to where the run was started, if it lies there."""
        root = self.config.rootpath
        return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)

    def _fingerprints(self) -> dict[str, str]:
        selection = self.options.selection
        return fingerprints(self.options.matrix, selection.architectures, selection.subjects)

    def _choice(self) -> Choice | None:
        if self.fingerprints is None or self.options.since is None:
            return None
        try:
            run = earlier_run(self.options.since)
        except NotComparableError as error:
            raise pytest.UsageError(f"--since: {error}") from error
        return choose(run, self.options.cells, self.fingerprints, other_scripts(run.run, self.options))

    def _stop(self, why: str) -> None:
        """End the run after the cells that are being judged."""
        distributed = self.config.pluginmanager.get_plugin("dsession")
        if distributed is not None:
            distributed.shouldstop = why
        elif self._session is not None:
            self._session.shouldstop = why

    def _earlier(self) -> RunRecord | None:
        if self.is_worker or not self.options.resume:
            return None
        try:
            return judged_so_far(self.options.record, self.options.asked, self.versions, self.options.seed, self.commit)
        except NotResumableError as error:
            raise pytest.UsageError(f"--resume: {error}") from error

    def _limited(self, record: CellRecord, cell: Cell) -> CellRecord:
        """The record of a checkpoint's cell, with what is known of the backend."""
        if self.options.known is None or record.verdict is not Verdict.FAIL:
            return record
        known = self.options.known.known_limit(cell, record.stage, record.signature, self.versions)
        if known is None:
            return record
        expected = ExpectedFailure(known.reason, known.link)
        return dataclasses.replace(record, verdict=Verdict.EXPECTED_FAILURE, expected=expected)

    def _expectation(self, cell: Cell) -> Expectation | None:
        return self.options.matrix.expectation(cell, self.versions)

    def _collected(self, nodeids: Any) -> None:
        for nodeid in nodeids:
            cell = self._cell_of(nodeid)
            if cell is not None:
                self.collected[cell.id] = cell

    def _cell_of(self, nodeid: str) -> Cell | None:
        found = _CELL_ID.search(nodeid)
        return self.plan.get(found.group(1)) if found else None

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


def _first(architectures: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    rest = len(architectures) - _SHOWN
    return f"{', '.join(architectures[:_SHOWN])}{f' and {rest} more' if rest > 0 else ''}"


def _properties(record: CellRecord) -> list[tuple[str, object]]:
    """What a test case of pytest's JUnit XML says of its cell."""
    return [("cell", record.id), ("verdict", record.verdict.value)]


def _teardown(report: pytest.TestReport, record: CellRecord) -> pytest.TestReport:
    """What follows `report` where no teardown was reached: without it, the test case in the JUnit XML stays open."""
    return pytest.TestReport(
        report.nodeid, report.location, {}, "passed", None, "teardown", user_properties=_properties(record)
    )


def _judged(items: list[pytest.Item], job: int) -> list[dict[str, Any]]:
    """Run the check of `items[job]`, and give back pytest's reports as plain data."""
    item = items[job]
    following = items[job + 1] if job + 1 < len(items) else None
    ours, theirs = item.stash[_CELL], following.stash.get(_CELL, None) if following else None
    # What is set up for the session lives as long as the architecture.
    nextitem = following if theirs and theirs.architecture == ours.architecture else None
    hook = item.config.hook
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    return [hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]


def _item_cell(item: pytest.Item) -> Cell | None:
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
