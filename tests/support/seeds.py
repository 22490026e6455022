"""`python -m tests.support.seeds`: do all seeds give the same verdicts on a tier's parity cells? Takes tens of minutes.

Each architecture's programs are built once, in a process of its own, and tried with one seed after another.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import core
from hypothesis import strategies as st

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import Cell, Selection, plan
from conformance.core.contract import CHECKED, Chapter
from conformance.core.paths import ROOT
from conformance.core.verdicts import CellFailedError, NotApplicableError
from conformance.decoding.scripts import DecodeScript
from conformance.matrix.discovery import registered
from conformance.matrix.schema import Tier, load_matrix
from conformance.pipeline.backends import BACKENDS
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from conformance.runner.option_table import DEFAULT_STORE, DEFAULT_STORE_LIMIT_MIB
from conformance.runner.options import chosen_architectures

#: Outcomes of a cell that does not fail.
PASSED, NOT_APPLICABLE = "pass", "not-applicable"


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcomes of a cell: by seed, `PASSED`, `NOT_APPLICABLE` or the signature of its failure."""

    cell: str
    outcomes: Mapping[int, str]

    @property
    def steady(self) -> bool:
        """Whether all seeds agree."""
        return len(set(self.outcomes.values())) == 1


class _LaterCase(Case):
    """With a seed after the first: pinned scripts are the same whatever the seed, and have been tried."""

    def try_scripts(
        self,
        strategy: st.SearchStrategy[DecodeScript],
        judge: Callable[[DecodeScript], object],
        pinned: tuple[DecodeScript, ...] = (),
        **sessions: Any,
    ) -> None:
        """As of any case, without the pinned scripts."""
        del pinned
        super().try_scripts(strategy, judge, **sessions)


def tried(cell: Cell, builder: Builder, seeds: Sequence[int], examples: int, caches: tuple[str, ...] | None) -> Trial:
    """The cell's check with each seed."""
    outcomes = {}
    for seed in seeds:
        core.global_force_seed = seed  # type: ignore[assignment]  # as `--hypothesis-seed` does
        make: Callable[..., Case] = Case if seed == seeds[0] else _LaterCase
        case = make(cell, builder, examples, derandomize=False, caches=caches, shrink=False)
        outcomes[seed] = _outcome(case)
    return Trial(cell.id, outcomes)


def _outcome(case: Case) -> str:
    try:
        checks()[case.cell.clause](case)
    except NotApplicableError:
        return NOT_APPLICABLE
    except CellFailedError as error:
        return error.signature
    return PASSED


def _architecture(name: str, backends: Sequence[str], seeds: Sequence[int], examples: int, store: Path) -> list[Trial]:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    clauses = [clause for clause in CHECKED if clause.chapter is Chapter.PAR]
    cells = plan(Selection([name], ["reference"], [BACKENDS[backend].traits for backend in backends], clauses))
    builder = Builder(store=Store(store, DEFAULT_STORE_LIMIT_MIB))
    caches = load_matrix().architectures[name].caches
    return [tried(cell, builder, seeds, examples, caches) for cell in cells]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try them, and print which differ; the exit code is 1 if any does."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.seeds")
    parser.add_argument("--tier", choices=list(Tier), default=Tier.CORE)
    parser.add_argument("--arch", metavar="NAMES", help="of the tier; default: all of it")
    parser.add_argument("--backend", default="portable,xnnpack", metavar="NAMES")
    parser.add_argument("--seeds", type=int, default=20, metavar="N")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="scripts for each cell and seed")
    parser.add_argument("--store", type=Path, default=ROOT / DEFAULT_STORE, metavar="PATH")
    asked = parser.parse_args(arguments)
    names = chosen_architectures(load_matrix(), Tier(asked.tier), asked.arch, registered())[0]
    judge = partial(
        _architecture,
        backends=asked.backend.split(","),
        seeds=range(asked.seeds),
        examples=asked.examples,
        store=asked.store,
    )
    began = time.monotonic()
    all_trials: list[Trial] = []
    # Each in a process of its own: torch keeps what it has built.
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0)), maxtasksperchild=1) as pool:
        for done, trials in enumerate(pool.imap_unordered(judge, names), 1):
            all_trials += trials
            name = trials[0].cell.partition("/")[0]
            print(f"{done}/{len(names)}  {time.monotonic() - began:.0f} s  {name}: {_counts(trials)}", flush=True)
    print(f"{asked.seeds} seeds, {asked.examples} examples each: {_counts(all_trials)}")
    for trial in unsteady(all_trials):
        print(f"✗ {trial.cell}: {dict(trial.outcomes)}")
    return 1 if any(unsteady(all_trials)) else 0


def unsteady(trials: Iterable[Trial]) -> list[Trial]:
    """Those on which seeds do not agree."""
    return [trial for trial in trials if not trial.steady]


def _counts(trials: Sequence[Trial]) -> str:
    passed = sum(set(trial.outcomes.values()) == {PASSED} for trial in trials)
    return f"{len(trials)} cells, {passed} passed with every seed, {len(unsteady(trials))} differ from seed to seed"


if __name__ == "__main__":
    sys.exit(main())
