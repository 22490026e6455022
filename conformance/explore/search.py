"""`conformance explore run`: Hypothesis varies a fixture's config, and looks for variations that fail."""

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
from conformance.explore.findings import FINDINGS, Finding, Pinned, read_pins, write_finding
from conformance.exporters.resolve import Exporter
from conformance.matrix.schema import load_matrix
from conformance.models.variations import Variation, build, variations
from conformance.pipeline.builder import Builder
from conformance.process.worker import IsolatedWorker, Limits, WorkerDiedError
from conformance.records.environment import versions

#: The clauses that judge a variation, in this order, until one fails.
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
#: Why a variation is discarded whose eager decoding with a cache is off the forward pass without one.
UNDECODABLE = f"{Stage.EAGER}:static-cache-decoding-differs"
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of judging one variation in one cell. Empty signature and message: passed or not applicable.

    Args:
        signature: The failure's.
        message: What was observed and expected.
        discarded: Why it cannot be a finding: the config class or the model refuses it, or eager decoding is wrong too.
    """

    signature: str = ""
    message: str = ""
    discarded: str = ""


Judge = Callable[[str, Variation, Cell], Judgement]


@dataclass(frozen=True, slots=True)
class Question:
    """What variations are judged for.

    Args:
        subject: The exporter under test, by name.
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
    """The result of exploring one architecture.

    Args:
        architecture: The architecture.
        tried: Number of variations that the checks have judged.
        discarded: Number of variations that were discarded, by reason.
        undecodable: Those of them whose eager decoding differs from the forward pass without a cache: no program of
            them can be judged, and which these are says what cannot be decoded with a cache.
        known: Number of failing variations that a pinned one explains.
        again: Number of failing variations like a finding of this run.
        fixture: The fixture's own failures, which are not findings.
        findings: The findings, each with its file.
    """

    architecture: str
    tried: int = 0
    discarded: Counter[str] = field(default_factory=Counter)
    undecodable: list[Variation] = field(default_factory=list)
    known: int = 0
    again: int = 0
    fixture: list[str] = field(default_factory=list)
    findings: list[tuple[Finding, Path]] = field(default_factory=list)

    @property
    def progress(self) -> str:
        """So far, in a few words."""
        return f"{self.tried} tried, {self.discarded.total()} discarded, {len(self.findings)} found"

    def __str__(self) -> str:
        lines = [f"{self.architecture}: {self.progress}"]
        lines += [f"  discarded  {count} × {reason}" for reason, count in self.discarded.most_common()]
        by_keys = Counter(", ".join(sorted(variation.changes)) for variation in self.undecodable)
        lines += [f"  eager      differs without a cache in {len(self.undecodable)}, which change"] * bool(by_keys)
        lines += [f"    {count} ×    {keys}" for keys, count in by_keys.most_common()]
        lines += [f"    with     {variation}" for variation in self.undecodable]
        lines += [f"  known      {self.known}, by fixtures/pins/{self.architecture}.json"] * bool(self.known)
        lines += [f"  alike      {self.again} fail like a finding below"] * bool(self.again)
        lines += [f"  fixture    fails by itself: {failure}" for failure in self.fixture]
        for finding, path in self.findings:
            lines += [
                f"  found      {finding.clause} {finding.cell.column}: {finding.signature}",
                f"    with     {finding.variation}",
                f"    message  {finding.message}",
                f"    file     {path}",
            ]
        return "\n".join(lines)


class _TimeIsUpError(BaseException):
    """The budget is spent. Not an `Exception`, which Hypothesis would treat as a failure."""


class _FoundError(Exception):
    """A variation fails."""


class Explorer:
    """Looks for variations of one architecture that fail, each with another clause or signature.

    Args:
        architecture: The architecture whose fixture is varied.
        question: What variations are judged for.
        judge: Judges one variation in one cell.
        pins: Variations that are known to fail.
        directory: Where findings are written.
        progress: Called with the exploration as it goes on.
    """

    def __init__(
        self,
        architecture: str,
        question: Question,
        judge: Judge,
        pins: Sequence[Pinned] = (),
        directory: Path = FINDINGS,
        progress: Callable[[Exploration], None] = lambda _: None,
    ) -> None:
        self.result = Exploration(architecture)
        self._architecture = architecture
        self._question = question
        self._judge = judge
        self._pins = pins
        self._directory = directory
        self._progress = progress
        self._cells = list(question.cells(architecture))
        self._deadline = 0.0
        self._judgements: dict[tuple[str, Cell], Judgement] = {}
        self._counted: set[str] = set()
        self._of_fixture: set[tuple[str, str, str]] = set()

    def explore(self, seconds: float, most: int | None = None) -> Exploration:
        """Search until the time is up, `most` failures have been found, or nothing new is left to try."""
        self._deadline = time.monotonic() + seconds
        number = idle = 0
        try:
            if not self._fixture_can_be_judged():
                return self.result
            while idle < _IDLE and (most is None or len(self.result.findings) < most):
                before = len(self._counted)
                failed = self._search(number)
                number += 1
                idle = 0 if failed or len(self._counted) > before else idle + 1
        except _TimeIsUpError:
            pass
        return self.result

    def _fixture_can_be_judged(self) -> bool:
        self._counted.add(Variation().key)
        for cell in self._cells:
            judgement = self._judged(Variation(), cell)
            if judgement.discarded:
                self.result.fixture.append(judgement.discarded)
                return False
            if judgement.signature:
                self._of_fixture.add((cell.column, cell.clause, judgement.signature))
                self.result.fixture.append(f"{cell.clause} {cell.column}: {judgement.signature}")
        return True

    def _search(self, number: int) -> bool:
        """One Hypothesis search; whether it has found a failure."""
        target: Finding | None = None
        path: Path | None = None

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
            nonlocal target, path
            finding = self._failure(variation, target)
            if finding is None:
                return
            if finding != target:  # smaller than the one before, which has been kept in case that the time is up
                if path is not None:
                    self.result.findings.pop()
                path = write_finding(self._directory, finding, path)
                self.result.findings.append((finding, path))
                target = finding
                self._progress(self.result)
            raise _FoundError

        try:
            judged()
        except _FoundError:
            return True
        return False

    def _failure(self, variation: Variation, target: Finding | None) -> Finding | None:
        """How `variation` fails, if that is new; with a `target`, only if it fails in the same way."""
        for cell in self._cells if target is None else [target.cell]:
            judgement = self._judged(variation, cell)
            self._count(variation, judgement)
            if judgement.discarded:
                reject()
            if not judgement.signature or (cell.column, cell.clause, judgement.signature) in self._of_fixture:
                continue
            finding = self._finding(variation, cell, judgement)
            if target is not None:
                return finding if finding.signature == target.signature else None
            failures = {(earlier.clause, earlier.signature) for earlier, _ in self.result.findings}
            if (finding.clause, finding.signature) in failures:
                self.result.again += 1
                return None
            if any(_explains(pin, finding) for pin in self._pins):
                self.result.known += 1
                return None
            return finding
        return None

    def _judged(self, variation: Variation, cell: Cell) -> Judgement:
        key = (variation.key, cell)
        if key not in self._judgements:
            if time.monotonic() > self._deadline:
                raise _TimeIsUpError
            self._judgements[key] = self._judge(self._architecture, variation, cell)
        return self._judgements[key]

    def _count(self, variation: Variation, judgement: Judgement) -> None:
        if variation.key in self._counted:
            return
        self._counted.add(variation.key)
        if judgement.discarded:
            self.result.discarded[judgement.discarded] += 1
            if judgement.discarded == UNDECODABLE:
                self.result.undecodable.append(variation)
        else:
            self.result.tried += 1
        self._progress(self.result)

    def _finding(self, variation: Variation, cell: Cell, judgement: Judgement) -> Finding:
        assert cell.subject is not None
        assert cell.mode is not None
        return Finding(
            subject=cell.subject,
            backend=cell.backend,
            mode=cell.mode,
            clause=cell.clause,
            overrides=dict(variation.overrides),
            max_cache_len=variation.max_cache_len,
            architecture=self._architecture,
            signature=judgement.signature,
            message=judgement.message,
            versions=versions(),
            seed=self._question.seed,
        )


def explore(
    architectures: Sequence[str], question: Question, exporter: Exporter, seconds: float
) -> Iterator[Exploration]:
    """Explore one architecture after the other, each with an equal share of the remaining time."""
    end = time.monotonic() + seconds
    judge = Isolated([exporter])
    try:
        for index, architecture in enumerate(architectures):
            share = (end - time.monotonic()) / (len(architectures) - index)
            with tqdm(total=round(share), desc=architecture, bar_format=_BAR, leave=False) as bar:
                began = time.monotonic()

                def progress(result: Exploration, bar: Any = bar, began: float = began) -> None:
                    bar.n = min(bar.total, round(time.monotonic() - began))
                    bar.set_postfix_str(result.progress)

                yield Explorer(architecture, question, judge, read_pins(architecture), progress=progress).explore(share)
    finally:
        judge.close()


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} s{postfix}"


class Isolated:
    """Judges variations in a child process, which one that crashes, hangs or takes all memory may end."""

    def __init__(self, exporters: Sequence[Exporter], limits: Limits = LIMITS) -> None:
        named = {exporter.name: exporter for exporter in exporters}
        without_cache = load_matrix().judged_without_cache(versions())
        builders: dict[tuple[str, str], Builder] = {}

        def judge(job: tuple[str, Variation, Cell]) -> Judgement:
            if not builders:
                _silence()
            architecture, variation, cell = job
            key = architecture, variation.key
            if key not in builders:
                builders.clear()  # of one variation only: it has some 100 MB
                builders[key] = Builder(
                    named,
                    build=lambda name: build(name, variation),
                    without_cache=without_cache,
                )
            return judged(builders[key], cell)

        self._worker = IsolatedWorker(judge, limits)

    def __call__(self, architecture: str, variation: Variation, cell: Cell) -> Judgement:
        """See `judged`; a process that ends is a failure too."""
        try:
            judgement: Judgement = self._worker.run(architecture, variation.key, (architecture, variation, cell))
        except WorkerDiedError as error:
            if error.stage in (Stage.BUILD, Stage.EAGER):
                return Judgement(discarded=f"{error.stage}: {error.verdict}")
            return Judgement(f"{error.stage or 'unknown'}:{error.verdict}", str(error))
        return judgement

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def _silence() -> None:
    """Nothing from this process on the terminal: torch prints the whole graph of a program that it cannot export."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def judged(builder: Builder, cell: Cell) -> Judgement:
    """Judge the builder's model in one cell, if eager decoding with its config can be trusted."""
    case = Case(cell, builder, _EXAMPLES)
    try:
        case.oracle  # noqa: B018 - raises where it cannot be trusted
        checks()[cell.clause](case)
    except (CellFailedError, NotRunError) as error:
        if isinstance(error, NotRunError) or error.stage in (Stage.BUILD, Stage.EAGER):
            return Judgement(discarded=_reason(error))
        script = getattr(error, "script", None)
        message = f"{error}; script {script}" if script else str(error)
        return Judgement(error.signature, one_line(message, _LONGEST))
    except NotApplicableError:
        return Judgement()
    except Exception as error:  # a fault of the check itself is a finding too
        return Judgement(f"harness-error:{type(error).__name__}", one_line(str(error), _LONGEST))
    return Judgement()


def _reason(error: CellFailedError | NotRunError) -> str:
    """The same for refusals of the same kind, whatever the numbers."""
    if isinstance(error, ClauseViolationError):
        return error.signature
    stage = f"{error.stage}: " if isinstance(error, CellFailedError) else ""
    return stage + _NUMBER.sub("#", " ".join(str(error).split()))[:_MOST_CHARACTERS]


def _explains(pin: Pinned, finding: Finding) -> bool:
    """Whether `finding` is the failure of `pin`, perhaps with more changes than it takes."""
    pin_fields, finding_fields = dataclasses.asdict(pin), dataclasses.asdict(finding)
    names = ("subject", "backend", "mode", "clause", "signature")
    alike = all(pin_fields[name] == finding_fields[name] for name in names)
    return alike and finding.variation.includes(pin.variation)
