"""The pytest plugin: cells become tests, and their outcomes verdicts."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from conformance.core.cells import EAGER, EXPORTED, Cell
from conformance.core.gc_tuning import gc_paused
from conformance.core.verdicts import CellFailedError, Stage, Verdict
from conformance.core.warnings_filter import silence_third_party
from conformance.failures.outcome import Outcome
from conformance.failures.transport import packed
from conformance.matrix.schema import Expectation
from conformance.process.fork import end_with
from conformance.process.worker import ask_for_another
from conformance.records import environment
from conformance.records.bundle import folder_name, write_bundle
from conformance.records.run import CellRecord, ExpectedFailure, cell_to_json
from conformance.runner.hosts import is_remote
from conformance.runner.isolation import Isolation
from conformance.runner.judge import bare_record, is_listed, judge
from conformance.runner.option_table import DEFAULT_BUNDLES
from conformance.runner.options import Options, resolve_exporters
from conformance.runner.pytest_reports import BUNDLE, RECORD, cell_named, item_cell, properties
from conformance.runner.recorder import Recorder, relative_to

#: Keys of xdist's `workerinput`: ids of the cells that are not to be judged, and whether the worker is remote.
_ALREADY_DONE, _REMOTE = "conformance_already_done", "conformance_remote"
_CELL = pytest.StashKey[Cell]()
#: pytest's outcome for a verdict, which decides its own exit code.
_OUTCOMES = {Verdict.EXPECTED_FAILURE: "skipped", Verdict.NOT_APPLICABLE: "skipped", Verdict.PASS: "passed"}


class ConformancePlugin:
    """One per pytest process, xdist's workers among them.

    Args:
        config: pytest's.
        options: The options of the run.
        recorder: The run's recorder, in the process that has it; None in xdist's workers.
    """

    def __init__(self, config: pytest.Config, options: Options, recorder: Recorder | None) -> None:
        self.config = config
        self.options = options
        self.versions = environment.versions()
        workerinput = getattr(config, "workerinput", {})
        self.is_remote = bool(workerinput.get(_REMOTE))
        if (
            self.is_remote
        ):  # bundles are sent to the controller; its --failures-dir may be a path that exists only there
            self.options = dataclasses.replace(options, bundles=config.rootpath / DEFAULT_BUNDLES)
        if hasattr(config, "workerinput"):
            end_with(os.getppid())  # xdist would let it go on for up to 15 s
        self.plan = {cell.id: cell for cell in options.cells}
        #: Ids of the cells that are not to be judged. Workers get them from the controller.
        self.already_done = recorder.already_done if recorder else frozenset(workerinput.get(_ALREADY_DONE, ()))
        #: The processes of xdist's workers.
        self._workers: list[subprocess.Popen[bytes]] = []
        self.isolation = (
            Isolation(config, options.limits, options.exploring, self._warm_up, self._warm_up_lowering)
            if options.limits
            else None
        )
        #: Whether processes are forked from one that has been warmed up for lowering.
        self._lowers = False
        #: The program whose cells were judged last, and the seconds that they took.
        self._program: tuple[str | None, ...] = ()
        self._seconds = 0.0
        #: Notes on how the checkpoint was loaded.
        self._notes: tuple[str, ...] = ()
        #: A typo in a dotted path should end the run, not fail each of its cells. Known names need no import here.
        self.subjects = {}
        if any(":" in name for name in options.selection.subjects):
            silence_third_party()  # this early, pytest shows what it ignores later
            self.subjects = resolve_exporters(options.selection)

    # Collection

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Import torch and Transformers, as the checks do, without the garbage collector running."""
        with gc_paused():
            return (yield)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test for each planned cell of the check's clause."""
        marker = metafunc.definition.get_closest_marker("clause")
        if marker is None or "case" not in metafunc.fixturenames:
            return
        cells = [cell for cell in self.plan.values() if cell.clause == marker.args[0]]
        metafunc.parametrize("cell", [pytest.param(cell, id=cell.id) for cell in cells], indirect=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Sort by the plan, so that artifacts are built once and dropped after their last cell."""
        order = {cell_id: index for index, cell_id in enumerate(self.plan)}
        selected: list[pytest.Item] = []
        # Done before, or a check none of whose cells were selected: pytest would show that as skipped.
        unselected: list[pytest.Item] = []
        for item in items:
            cell = item_cell(item)
            if cell is None or cell.id in self.already_done:
                unselected.append(item)
            else:
                item.stash[_CELL] = cell
                selected.append(item)
        config.hook.pytest_deselected(items=unselected)
        items[:] = sorted(selected, key=lambda item: order[item.stash[_CELL].id])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """With xdist: send a new worker what is done. It cannot read that off the record, which grows meanwhile."""
        node.workerinput[_ALREADY_DONE] = sorted(self.already_done)
        node.workerinput[_REMOTE] = is_remote(node)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(self, node: Any) -> None:
        """With xdist: a worker has started."""
        process = getattr(node.gateway._io, "popen", None)  # None for a worker behind a socket
        if process is not None:
            self._workers.append(process)

    def pytest_keyboard_interrupt(self) -> None:
        """Kill the workers, which xdist would wait for up to 15 s. Their verdicts so far have arrived."""
        for process in self._workers:
            process.kill()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """All checks of an architecture on one worker, which builds its artifacts once.

        A scheduler of our own, since xdist 3.8's loadgroup writes a node id that pytest 9.2 no longer reads.
        """
        from xdist.scheduler import LoadScopeScheduling

        plan = self.plan

        class ByArchitecture(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
            def _split_scope(self, nodeid: str) -> str:
                cell = cell_named(nodeid, plan)
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
        """Judge a cell in its architecture's worker process."""
        cell = item.stash.get(_CELL, None)
        if cell is None or self.isolation is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self.isolation.reports(item, cell):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.fixture
    def cell(self, request: pytest.FixtureRequest) -> Cell:
        """The cell being judged."""
        cell: Cell = request.param
        return cell

    @functools.cached_property
    def _builder(self) -> Any:
        """Models and programs, built once in the process that judges."""
        import torch

        from conformance.decoding.reading import has_tokenizer
        from conformance.pipeline import stages
        from conformance.pipeline.builder import Builder

        checkpoint = self.options.checkpoint
        if checkpoint is not None:  # alone on all cores

            def build(_: str) -> Any:
                loaded = stages.build_own(checkpoint)
                self._notes = loaded.notes
                return loaded.model

            return Builder(
                self.subjects or resolve_exporters(self.options.selection),
                build=build,
                tokenizer=checkpoint.directory if has_tokenizer(checkpoint.directory) else None,
                shape=self.options.shape,
                attention=self.options.attention,
                program_file=self.options.program,
                without_cache=self._without_cache,
            )
        subjects = self.subjects or resolve_exporters(self.options.selection)
        # Two workers on two cores: more threads would only take turns.
        torch.set_num_threads(1)
        return Builder(
            subjects, store=self._store, without_cache=self._without_cache, require_lowering=self._require_lowering
        )

    @property
    def _without_cache(self) -> frozenset[str]:
        return self.options.matrix.judged_without_cache(self.versions)

    @pytest.fixture
    def case(self, cell: Cell) -> Any:
        """The case that a check is called with."""
        from conformance.checks.case import Case, require_undecodable

        row = self.options.matrix.row(cell.architecture)
        case = Case(
            cell,
            self._builder,
            self.options.examples_of(cell),
            derandomize=self.options.seed is None,
            caches=row.caches if row else None,
            overrides=self.options.matrix.overrides(cell.architecture),
            is_checkpoint=self.options.checkpoint is not None,
        )
        known = self.options.matrix.undecodable(cell.architecture, self.versions)
        if known is not None:
            require_undecodable(case, known)
        return case

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Judge the cell when its check has ended, and let pytest count it as the truth table says."""
        result: Any = yield
        report: pytest.TestReport = result.get_result()
        cell = item.stash.get(_CELL, None)
        ended = call.when == "call" or (call.when == "setup" and call.excinfo is not None)
        if cell is None or not ended or (call.excinfo and call.excinfo.errisinstance(KeyboardInterrupt)):
            return
        case = getattr(item, "funcargs", {}).get("case")
        error = call.excinfo.value if call.excinfo else None
        outcome, expectation = Outcome(error), self._expectation(cell)
        spent = self._spent(cell, call.duration)
        unexpected = isinstance(error, CellFailedError) and not is_listed(error, expectation)
        if case is not None and self._notes:
            case.measured["notes"] = self._notes
        # Of a checkpoint, the evidence would be its weights several times over.
        if unexpected and case is not None and self.options.checkpoint is None:
            folder = relative_to(self.options.bundles / folder_name(cell), self.config.rootpath)
            outcome = Outcome(error, self._divergence(case, error, spent), folder)
        record = judge(
            cell,
            outcome,
            expectation,
            versions=self.versions,
            metrics=case.metrics if case else {},
            duration_s=call.duration,
            exploring=self.options.exploring,
            measured=case.measured if case else None,
        )
        record = self._with_bundle(case, outcome, self._limited(record, cell, case))
        setattr(report, RECORD, cell_to_json(record))
        if self.is_remote and record.bundle:
            setattr(report, BUNDLE, packed(self.config.rootpath / record.bundle))
        # pytest's JUnit XML takes them from the report of the teardown, which is still to be made.
        item.user_properties += properties(record)
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
        """An xdist worker died: give the cell that it was judging a record."""
        cell = cell_named(crashitem, self.plan)
        if cell is not None:
            if self.options.limits is None:
                verdict, message = Verdict.CRASH, f"the process died while it judged {cell.id}"
            else:  # with a process for each architecture, nothing that is under test runs in xdist's worker
                verdict, message = Verdict.NOT_RUN, "the xdist worker was killed; --resume judges this cell again"
            record = bare_record(cell, verdict, message, self.options.exploring)
            setattr(report, RECORD, cell_to_json(record))

    def pytest_sessionfinish(self) -> None:
        """End the last architecture's worker process."""
        if self.isolation is not None:
            self.isolation.close()

    def _warm_up(self) -> None:
        """Before the first fork, do the work that all architectures share: its time counts for none of them."""
        from conformance.pipeline.warmup import warm_up_export, warm_up_runtime

        warm_up_export()
        if not self._lowered_backends:
            return
        warm_up_runtime()
        if self.options.program is None and (self._store is None or self._store.is_empty):
            self._warm_up_lowering()

    def _warm_up_lowering(self) -> None:
        """The same of lowering, which most runs do without, since the artifact store has their programs."""
        from conformance.pipeline.backends import BACKENDS
        from conformance.pipeline.warmup import warm_up_lowering

        # Those of ExecuTorch itself. Other code may begin threads, or read the environment, when first used.
        own = (BACKENDS[name] for name in self._lowered_backends if name in BACKENDS)
        warm_up_lowering(backend for backend in own if not backend.requires)
        self._lowers = True

    def _require_lowering(self) -> None:
        """In a process whose parent has not been warmed up for lowering: have the cell judged in one whose has."""
        if self.isolation is not None and not self._lowers:
            ask_for_another()

    @functools.cached_property
    def _lowered_backends(self) -> tuple[str, ...]:
        """Those of the plan, in its order."""
        backends = dict.fromkeys(cell.backend for cell in self.plan.values())
        return tuple(name for name in backends if name not in (EAGER, EXPORTED))

    @functools.cached_property
    def _store(self) -> Any:
        """The artifact store; None if the run has none."""
        from conformance.pipeline.store import Store

        return Store(self.options.store, self.options.store_limit) if self.options.store_limit else None

    def _spent(self, cell: Cell, duration_s: float) -> float:
        """Seconds that this process has used on the cell's program, with the `duration_s` of its own."""
        program = (cell.architecture, cell.subject, cell.column)
        if program != self._program:
            self._program, self._seconds = program, 0.0
        self._seconds += duration_s
        return self._seconds

    def _divergence(self, case: Any, error: BaseException | None, spent: float) -> Any:
        """Where the program of a failed cell first goes wrong; None if that is not located."""
        from conformance.failures.localize import LIMIT_S, locate

        remaining = self.options.limits.seconds / 2 - spent if self.options.limits else LIMIT_S
        began = time.monotonic()
        divergence = locate(case, error, min(LIMIT_S, int(remaining)))
        self._seconds += time.monotonic() - began
        return divergence

    def _with_bundle(self, case: Any, outcome: Outcome, record: CellRecord) -> CellRecord:
        """Write the failure's bundle, if it gets one. An error here must not cost the verdict."""
        if outcome.bundle is None:
            return record
        from conformance.failures.capture import bundle_of

        try:
            write_bundle(self.options.bundles, *bundle_of(case, outcome, record, self.versions))
        except Exception as lost:
            message = f"{record.message}\n  bundle    none: {type(lost).__name__}: {lost}"
            return dataclasses.replace(record, message=message, bundle=None)
        return record

    def _limited(self, record: CellRecord, cell: Cell, case: Any) -> CellRecord:
        """The record of a checkpoint's cell, with the backend's known failures."""
        if self.options.known is None or case is None or record.verdict is not Verdict.FAIL:
            return record
        if record.stage not in (Stage.EXPORT, Stage.LOWER, Stage.EMIT):
            return record  # and there may be no model
        from conformance.models.limits import limits_of

        limits = limits_of(case.model.config.get_text_config(decoder=True))
        known = self.options.known.known_limit(cell, record.stage, record.signature, self.versions, limits)
        if known is None:
            return record
        expected = ExpectedFailure(known.reason, known.link)
        return dataclasses.replace(record, verdict=Verdict.EXPECTED_FAILURE, expected=expected)

    def _expectation(self, cell: Cell) -> Expectation | None:
        return self.options.matrix.expectation(cell, self.versions)
