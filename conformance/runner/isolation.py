"""Tests run in a process of their architecture's own, which the loss of one costs a single cell."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.runner import runtestprotocol  # pytest-forked and pytest-rerunfailures take it from there too

from conformance.core.cells import Cell
from conformance.process.worker import IsolatedWorker, Limits, WorkerDiedError
from conformance.records.run import cell_to_json
from conformance.runner.judge import bare_record
from conformance.runner.pytest_reports import RECORD, item_cell, teardown

#: Lines shown of what a process printed before it was lost.
_LAST_LINES = 5


class Isolation:
    """Judges the cells of one pytest process, those of an architecture in one process after the other.

    Args:
        config: pytest's.
        limits: What a process may use.
        exploring: The options that change which scripts are tried.
        prepare: Called before the first process is forked, so that no architecture pays for what can be shared.
    """

    def __init__(self, config: pytest.Config, limits: Limits, exploring: str, prepare: Callable[[], None]) -> None:
        self.config = config
        self.limits = limits
        self.exploring = exploring
        self._prepare = prepare
        self._worker: IsolatedWorker | None = None

    def reports(self, item: pytest.Item, cell: Cell) -> list[pytest.TestReport]:
        """pytest's reports on `item`, which judges `cell`: of its process, or of how that was lost."""
        items = item.session.items
        if self._worker is None:
            self._prepare()
            self._worker = IsolatedWorker(lambda job: _judged(items, job), self.limits)
        began = time.monotonic()
        try:
            program = " ".join(part for part in (cell.subject, cell.column) if part)
            plain = self._worker.run(cell.architecture, program, items.index(item), cell.subject)
        except WorkerDiedError as lost:
            told = f"{cell.clause} came to no verdict: {lost}{self._last_words()}"
            record = dataclasses.replace(
                bare_record(cell, lost.verdict, told, self.exploring),
                stage=lost.stage,
                duration_s=round(time.monotonic() - began, 3),
            )
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", told, "call")
            setattr(report, RECORD, cell_to_json(record))
            return [report, teardown(report, record)]
        return [self.config.hook.pytest_report_from_serializable(config=self.config, data=data) for data in plain]

    def close(self) -> None:
        """End the process, if there is one."""
        if self._worker is not None:
            self._worker.close()

    def _last_words(self) -> str:
        """What the lost process printed last, where pytest captures that."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if capture is None or not capture.is_globally_capturing():
            return ""
        lines = "\n".join(capture.read_global_capture()).split("\n")
        said = [line for line in lines if line.strip()][-_LAST_LINES:]
        return "".join(f"\n  last words  {line}" for line in said)


def _judged(items: list[pytest.Item], job: int) -> list[dict[str, Any]]:
    """Run the check of `items[job]`, and give back pytest's reports as plain data."""
    item = items[job]
    following = items[job + 1] if job + 1 < len(items) else None
    ours, theirs = item_cell(item), item_cell(following) if following else None
    # What is set up for the session lives as long as the architecture.
    nextitem = following if ours and theirs and theirs.architecture == ours.architecture else None
    hook = item.config.hook
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    return [hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]
