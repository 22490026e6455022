"""`python -m conformance explore`: Hypothesis varies a fixture's config, and looks for variations that fail."""

from __future__ import annotations

import dataclasses
import os
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, reject, seed, settings
from tqdm import tqdm  # type: ignore[import-untyped]  # it brings no types

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import BOTH_MODES, CLAUSES, Mode
from conformance.core.text import one_line
from conformance.core.verdicts import CellFailedError, ClauseViolationError, NotApplicableError, NotRunError, Stage
from conformance.explore.findings import FINDS, Find, Pinned, read_pins, write_find
from conformance.exporters.resolve import Exporter
from conformance.models.variations import Variation, build, variations
from conformance.pipeline.builder import Builder
from conformance.process.worker import IsolatedWorker, Limits, WorkerDiedError
from conformance.records.environment import versions

#: What a variation is judged by, in this order, until one fails.
EXPORT_CLAUSES = ("EXP-1", "EXP-3", "EXP-5")
PARITY_CLAUSES = ("PAR-1", "PAR-2", "PAR-3", "PAR-4", "PAR-5", "PAR-6")
#: Scripts generated for each clause, beside its pinned ones.
_EXAMPLES = 2
#: Seconds and MiB that one variation may take. A llama takes 4 s and 700 MiB with both modes exported.
LIMITS = Limits(seconds=300, mebibytes=6144)
#: Variations of one Hypothesis search. The next has another seed: a search that goes on for long mutates what it had.
_SEARCH = 100
#: Searches in a row without a new variation before the space counts as exhausted.
_IDLE = 3
_MOST_CHARACTERS = 140
#: Longest message of a finding, in characters.
_LONGEST = 4 * _MOST_CHARACTERS
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What judging one variation in one cell came to; a pass, or nothing to say, where both texts are empty.

    Args:
        signature: Of the failure.
        message: What was observed and expected.
        discarded: Why it is no find: the config class or the model refuses it, or eager decoding is wrong too.
    """

    signature: str = ""
    message: str = ""
    discarded: str = ""


Judge = Callable[[str, Variation, Cell], Outcome]


@dataclass(frozen=True, slots=True)
class Question:
    """What variations are tried for.

    Args:
        subject: The exporter under test.
        backend: A backend's name, or "exported".
        modes: The modes to export in.
        seed: The same seed tries the same variations.
        clauses: The clauses to judge by, in order.
    """

    subject: str
    backend: str = EXPORTED
    modes: Sequence[Mode] = BOTH_MODES
    seed: int = 0
    clauses: Sequence[str] = (*EXPORT_CLAUSES, *PARITY_CLAUSES)

    def cells(self, architecture: str) -> Iterator[Cell]:
        """Every cell of a variation, the exported program's first."""
        modes = {clause.id: clause.modes for clause in CLAUSES}
        for mode in self.modes:
            for backend in dict.fromkeys((EXPORTED, self.backend)):
                for clause in self.clauses:
                    if mode in modes[clause] and (backend == EXPORTED or clause not in EXPORT_CLAUSES):
                        yield Cell(architecture, self.subject, backend, mode, clause)


@dataclass(slots=True)
class Exploration:
    """What exploring one architecture came to.

    Args:
        architecture: Which.
        tried: Variations that the checks have judged.
        discarded: How many were no candidates, by reason.
        known: Failing variations that a pinned one explains.
        again: Failing variations like a find of this run.
        fixture: What the fixture itself fails at: no find.
        found: The finds, each with its file.
    """

    architecture: str
    tried: int = 0
    discarded: Counter[str] = field(default_factory=Counter)
    known: int = 0
    again: int = 0
    fixture: list[str] = field(default_factory=list)
    found: list[tuple[Find, Path]] = field(default_factory=list)

    @property
    def progress(self) -> str:
        """So far, in a few words."""
        return f"{self.tried} tried, {self.discarded.total()} discarded, {len(self.found)} found"

    def __str__(self) -> str:
        lines = [f"{self.architecture}: {self.progress}"]
        lines += [f"  discarded  {count} × {reason}" for reason, count in self.discarded.most_common()]
        lines += [f"  known      {self.known}, by fixtures/variations/{self.architecture}.json"] * bool(self.known)
        lines += [f"  alike      {self.again} fail like a find below"] * bool(self.again)
        lines += [f"  fixture    fails by itself: {failure}" for failure in self.fixture]
        for find, path in self.found:
            lines += [
                f"  found      {find.clause} {find.cell.column}: {find.signature}",
                f"    with     {find.variation}",
                f"    told     {find.message}",
                f"    file     {path}",
            ]
        return "\n".join(lines)


class _TimeIsUpError(BaseException):
    """The budget is spent. No `Exception`, which Hypothesis would take for a failure."""


class _FoundError(Exception):
    """A variation fails."""


class Explorer:
    """Looks for variations of one architecture that fail, each with another clause or signature.

    Args:
        architecture: Whose fixture is varied.
        question: What variations are tried for.
        judge: Judges one variation in one cell.
        pins: What is known to fail.
        finds: Where finds are written.
        tell: Called with the exploration as it goes on.
    """

    def __init__(
        self,
        architecture: str,
        question: Question,
        judge: Judge,
        pins: Sequence[Pinned] = (),
        finds: Path = FINDS,
        tell: Callable[[Exploration], None] = lambda _: None,
    ) -> None:
        self.result = Exploration(architecture)
        self._architecture = architecture
        self._question = question
        self._judge = judge
        self._pins = pins
        self._finds = finds
        self._tell = tell
        self._cells = list(question.cells(architecture))
        self._deadline = 0.0
        self._outcomes: dict[tuple[str, Cell], Outcome] = {}
        self._counted: set[str] = set()
        self._of_fixture: set[tuple[str, str, str]] = set()

    def explore(self, seconds: float, most: int | None = None) -> Exploration:
        """Search until the time is up, `most` failures have been found, or nothing new is left to try."""
        self._deadline = time.monotonic() + seconds
        number = idle = 0
        try:
            if not self._fixture_can_be_judged():
                return self.result
            while idle < _IDLE and (most is None or len(self.result.found) < most):
                before = len(self._counted)
                found = self._search(number)
                number += 1
                idle = 0 if found or len(self._counted) > before else idle + 1
        except _TimeIsUpError:
            pass
        return self.result

    def _fixture_can_be_judged(self) -> bool:
        self._counted.add(Variation().key)
        for cell in self._cells:
            outcome = self._outcome(Variation(), cell)
            if outcome.discarded:
                self.result.fixture.append(outcome.discarded)
                return False
            if outcome.signature:
                self._of_fixture.add((cell.column, cell.clause, outcome.signature))
                self.result.fixture.append(f"{cell.clause} {cell.column}: {outcome.signature}")
        return True

    def _search(self, number: int) -> bool:
        """One Hypothesis search; whether it has found something."""
        target: Find | None = None
        place: Path | None = None

        # Seeded by a checksum: Python's own hash of a text differs from process to process.
        @seed(zlib.crc32(f"{self._question.seed}/{self._architecture}/{number}".encode()))
        @settings(
            max_examples=_SEARCH,
            derandomize=False,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),  # a variation takes seconds, and the checks use Hypothesis too
            verbosity=Verbosity.quiet,
        )
        @given(variation=variations(self._architecture))
        def judged(variation: Variation) -> None:
            nonlocal target, place
            find = self._failure(variation, target)
            if find is None:
                return
            if find != target:  # smaller than the one before, which has been kept in case that the time is up
                if place is not None:
                    self.result.found.pop()
                place = write_find(self._finds, find, place)
                self.result.found.append((find, place))
                target = find
                self._tell(self.result)
            raise _FoundError

        try:
            judged()
        except _FoundError:
            return True
        return False

    def _failure(self, variation: Variation, target: Find | None) -> Find | None:
        """How `variation` fails, if that is new; once something has been found, only whether it fails in that way."""
        for cell in self._cells if target is None else [target.cell]:
            outcome = self._outcome(variation, cell)
            self._count(variation, outcome)
            if outcome.discarded:
                reject()
            if not outcome.signature or (cell.column, cell.clause, outcome.signature) in self._of_fixture:
                continue
            find = self._find(variation, cell, outcome)
            if target is not None:
                return find if find.signature == target.signature else None
            if any((each.clause, each.signature) == (find.clause, find.signature) for each, _ in self.result.found):
                self.result.again += 1
                return None
            if any(_explains(pin, find) for pin in self._pins):
                self.result.known += 1
                return None
            return find
        return None

    def _outcome(self, variation: Variation, cell: Cell) -> Outcome:
        key = (variation.key, cell)
        if key not in self._outcomes:
            if time.monotonic() > self._deadline:
                raise _TimeIsUpError
            self._outcomes[key] = self._judge(self._architecture, variation, cell)
        return self._outcomes[key]

    def _count(self, variation: Variation, outcome: Outcome) -> None:
        if variation.key in self._counted:
            return
        self._counted.add(variation.key)
        if outcome.discarded:
            self.result.discarded[outcome.discarded] += 1
        else:
            self.result.tried += 1
        self._tell(self.result)

    def _find(self, variation: Variation, cell: Cell, outcome: Outcome) -> Find:
        assert cell.subject is not None
        assert cell.mode is not None
        return Find(
            subject=cell.subject,
            backend=cell.backend,
            mode=cell.mode,
            clause=cell.clause,
            overrides=dict(variation.overrides),
            max_cache_len=variation.max_cache_len,
            architecture=self._architecture,
            signature=outcome.signature,
            message=outcome.message,
            versions=versions(),
            seed=self._question.seed,
        )


def explore(
    architectures: Sequence[str], question: Question, subject: Exporter, seconds: float
) -> Iterator[Exploration]:
    """Explore one architecture after the other, each with an equal share of what is left of the time."""
    end = time.monotonic() + seconds
    judge = Isolated([subject])
    try:
        for index, architecture in enumerate(architectures):
            share = (end - time.monotonic()) / (len(architectures) - index)
            with tqdm(total=round(share), desc=architecture, bar_format=_BAR, leave=False) as bar:
                began = time.monotonic()

                def tell(result: Exploration, bar: Any = bar, began: float = began) -> None:
                    bar.n = min(bar.total, round(time.monotonic() - began))
                    bar.set_postfix_str(result.progress)

                yield Explorer(architecture, question, judge, read_pins(architecture), tell=tell).explore(share)
    finally:
        judge.close()


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s{postfix}"


class Isolated:
    """Judges variations in a process of its own, which one that crashes, hangs or eats the memory may take down."""

    def __init__(self, subjects: Sequence[Exporter], limits: Limits = LIMITS) -> None:
        named = {subject.name: subject for subject in subjects}
        benches: dict[tuple[str, str], Builder] = {}

        def judge(job: tuple[str, Variation, Cell]) -> Outcome:
            if not benches:
                _silence()
            architecture, variation, cell = job
            place = architecture, variation.key
            if place not in benches:
                benches.clear()  # of one variation only: it has some 100 MB
                benches[place] = Builder(named, build=lambda name: build(name, variation))
            return judged(benches[place], cell)

        self._worker = IsolatedWorker(judge, limits)

    def __call__(self, architecture: str, variation: Variation, cell: Cell) -> Outcome:
        """See `judged`; a lost process is a failure too."""
        try:
            outcome: Outcome = self._worker.run(architecture, variation.key, (architecture, variation, cell))
        except WorkerDiedError as error:
            if error.stage in (Stage.BUILD, Stage.EAGER):
                return Outcome(discarded=f"{error.stage}: {error.verdict}")
            return Outcome(f"{error.stage or 'unknown'}:{error.verdict}", str(error))
        return outcome

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def _silence() -> None:
    """Nothing from this process on the terminal: torch prints the whole graph of a program that it cannot export."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def judged(builder: Builder, cell: Cell) -> Outcome:
    """Judge what is on the workbench in one cell, if eager decoding with its config can be trusted."""
    try:
        builder.trusted_oracle(cell.architecture)
        checks()[cell.clause](Case(cell, builder, _EXAMPLES))
    except (CellFailedError, NotRunError) as error:
        if isinstance(error, NotRunError) or error.stage in (Stage.BUILD, Stage.EAGER):
            return Outcome(discarded=_reason(error))
        script = getattr(error, "script", None)
        return Outcome(error.signature, one_line(f"{error}; script {script}" if script else str(error), _LONGEST))
    except NotApplicableError:
        return Outcome()
    except Exception as error:  # the suite's own check is at fault, which is worth knowing too
        return Outcome(f"harness-error:{type(error).__name__}", one_line(str(error), _LONGEST))
    return Outcome()


def _reason(error: CellFailedError | NotRunError) -> str:
    """The same for refusals of the same kind, whatever the numbers."""
    if isinstance(error, ClauseViolationError):
        return error.signature
    stage = f"{error.stage}: " if isinstance(error, CellFailedError) else ""
    return stage + _NUMBER.sub("#", " ".join(str(error).split()))[:_MOST_CHARACTERS]


def _explains(pin: Pinned, find: Find) -> bool:
    """Whether `find` is the failure that `pin` tells of, perhaps with more changes than it takes."""
    ours, theirs = dataclasses.asdict(pin), dataclasses.asdict(find)
    alike = all(ours[name] == theirs[name] for name in ("subject", "backend", "mode", "clause", "signature"))
    return alike and find.variation.includes(pin.variation)
