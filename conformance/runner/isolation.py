"""Runs each test in its architecture's worker process; if that dies, only the cell it was judging is lost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.runner import runtestprotocol  # pytest-forked and pytest-rerunfailures take it from there too

from conformance.core.cells import Cell
from conformance.process.worker import AnotherAskedForError, IsolatedWorker, Limits, WorkerDiedError
from conformance.records.run import cell_to_json
from conformance.runner.judge import bare_record
from conformance.runner.pytest_reports import RECORD, item_cell, teardown

#: Lines shown of what a process printed before it died.
_LAST_LINES = 5


class Isolation:
    """Judges the cells of one pytest process, each architecture's in a worker process.

    Args:
        config: pytest's.
        limits: What a worker process may use.
        exploring: The options that change which scripts are tried, for the replay command.
        prepare: Called before the first process is forked, so that what can be shared is not counted for any
            architecture.
        prepare_another: Called when a process has asked for another, which is then forked.
    """

    def __init__(
        self,
        config: pytest.Config,
        limits: Limits,
        exploring: str,
        prepare: Callable[[], None],
        prepare_another: Callable[[], None],
    ) -> None:
        self.config = config
        self.limits = limits
        self.exploring = exploring
        self._prepare = prepare
        self._prepare_another = prepare_another
        self._worker: IsolatedWorker | None = None

    def reports(self, item: pytest.Item, cell: Cell) -> list[pytest.TestReport]:
        """pytest's reports on `item`, which judges `cell`: from the worker process, or on how that died."""
        items = item.session.items
        if self._worker is None:
            self._prepare()
            self._worker = IsolatedWorker(lambda job: _judged(items, job), self.limits)
        began = time.monotonic()
        try:
            program = " ".join(part for part in (cell.subject, cell.column) if part)
            reports = self._run(cell, program, items.index(item))
        except WorkerDiedError as error:
            message = f"{cell.clause}: {error}{self._last_lines()}"
            record = dataclasses.replace(
                bare_record(cell, error.verdict, message, self.exploring),
                stage=error.stage,
                duration_s=round(time.monotonic() - began, 3),
            )
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", message, "call")
            setattr(report, RECORD, cell_to_json(record))
            return [report, teardown(report, record)]
        return [self.config.hook.pytest_report_from_serializable(config=self.config, data=data) for data in reports]

    def _run(self, cell: Cell, program: str, job: int) -> Any:
        assert self._worker is not None
        try:
            return self._worker.run(cell.architecture, program, job, cell.subject)
        except AnotherAskedForError:
            self._prepare_another()
            return self._worker.run(cell.architecture, program, job, cell.subject)

    def close(self) -> None:
        """End the worker process, if there is one."""
        if self._worker is not None:
            self._worker.close()

    def _last_lines(self) -> str:
        """What the worker process printed last, if pytest captures that."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if capture is None or not capture.is_globally_capturing():
            return ""
        lines = "\n".join(capture.read_global_capture()).split("\n")
        printed = [line for line in lines if line.strip()][-_LAST_LINES:]
        return "".join(f"\n  output    {line}" for line in printed)


def _judged(items: list[pytest.Item], job: int) -> list[dict[str, Any]]:
    """In the worker process: run the check of `items[job]`; returns pytest's reports as plain data."""
    item = items[job]
    following = items[job + 1] if job + 1 < len(items) else None
    cell, next_cell = item_cell(item), item_cell(following) if following else None
    # What is set up for the session lives as long as the architecture.
    nextitem = following if cell and next_cell and next_cell.architecture == cell.architecture else None
    hook = item.config.hook
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    return [hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]
