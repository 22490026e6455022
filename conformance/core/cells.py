"""Cells: the smallest things that get a verdict, and the plan of which of them a run contains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from conformance.core.contract import BOTH_MODES, CLAUSES, Chapter, Clause, Mode, Scope
from conformance.core.verdicts import Stage

#: The backend of cells that need no backend.
EAGER, EXPORTED = "eager", "exported"
#: Between an architecture and the variation of its fixture, in a row's name: `llama+rope-yarn`.
_VARIED = "+"
_BY_ID = {clause.id: clause for clause in CLAUSES}


def row_name(architecture: str, variation: str) -> str:
    """The row of a variation of an architecture's fixture, such as ``llama+rope-yarn``."""
    return f"{architecture}{_VARIED}{variation}"


def split_row(row: str) -> tuple[str, str | None]:
    """The architecture of a row, and the variation of its fixture; None where it is the fixture itself."""
    architecture, _, variation = row.partition(_VARIED)
    return architecture, variation or None


@dataclass(frozen=True, slots=True)
class Program:
    """architecture x exporter x mode x backend: what is exported, lowered and run, and what most cells judge.

    `architecture` is a row's name: of a variation, both names (see `row_name`). `backend` is a backend's name, or
    "exported" for the program before lowering.
    """

    architecture: str
    exporter: str
    mode: Mode
    backend: str = EXPORTED


@dataclass(frozen=True, slots=True)
class Cell:
    """architecture x subject x backend x mode x clause; `subject` and `mode` are None where they do not apply.

    `architecture` is a row's name: of a variation, both names (see `row_name`). `backend` is a backend's name, or
    "exported" for the program before lowering, or "eager" for the fixture alone.
    """

    architecture: str
    subject: str | None
    backend: str
    mode: Mode | None
    clause: str

    @property
    def id(self) -> str:
        """Stable across runs and versions, such as ``llama/reference/xnnpack/decode/PAR-1``."""
        return "/".join(
            part for part in (self.architecture, self.subject, self.backend, self.mode, self.clause) if part
        )

    @property
    def program(self) -> Program | None:
        """The program that it judges; None where it judges the fixture alone."""
        if self.subject is None or self.mode is None:
            return None
        return Program(self.architecture, self.subject, self.mode, self.backend)

    @property
    def column(self) -> str:
        """The cell's place beside others of its architecture: backend and mode, such as ``xnnpack decode``."""
        return f"{self.backend} {self.mode}" if self.mode else self.backend


def cell_called(cell_id: str) -> Cell:
    """The cell with this id."""
    architecture, *middle, clause = cell_id.split("/")
    if len(middle) == 1:
        return Cell(architecture, None, middle[0], None, clause)
    subject, backend, mode = middle
    return Cell(architecture, subject, backend, Mode(mode), clause)


@dataclass(frozen=True, slots=True)
class BackendTraits:
    """The traits of a backend that planning needs, without importing the backend.

    `runs` says whether its programs can be executed here. If not, only clauses about lowering apply.
    """

    name: str
    delegating: bool
    runs: bool = True
    quantises: bool = False

    def concerned_by(self, clause: Clause) -> bool:
        """Whether `clause` applies to such a backend's programs."""
        executed = Scope.RUNTIME if self.runs else Scope.COMPILED
        scoped = Scope.LOWERED in clause.scopes or executed in clause.scopes
        return scoped and (self.delegating or not clause.delegating) and (self.quantises or not clause.quantising)


@dataclass(frozen=True, slots=True)
class Selection:
    """The selection of a run. Cells without a backend belong to it whatever backends are chosen.

    `not_lowered` are the architectures of which no program is lowered. Without `exported`, no cell is about a program
    before lowering. `sample` are the architectures that sampled clauses are checked on; None for all.
    """

    architectures: Sequence[str]
    subjects: Sequence[str]
    backends: Sequence[BackendTraits]
    clauses: Sequence[Clause]
    modes: Sequence[Mode] = BOTH_MODES
    not_lowered: Collection[str] = ()
    exported: bool = True
    sample: Collection[str] | None = None

    def runs(self, architecture: str) -> bool:
        """Whether programs of `architecture` are lowered for a backend that runs here."""
        return architecture not in self.not_lowered and any(backend.runs for backend in self.backends)

    def reasons_without_cells(self) -> list[str]:
        """Why clauses have no cell on any program of the selection: a sentence for each reason."""
        judged = {cell.clause for cell in plan(self)}
        reasons: dict[str, list[str]] = {}
        for clause in self.clauses:
            if clause.id not in judged:
                reasons.setdefault(self._reason(clause), []).append(clause.id)
        return [
            f"{', '.join(ids)} {'is' if len(ids) == 1 else 'are'} asked {reason}" for reason, ids in reasons.items()
        ]

    def _reason(self, clause: Clause) -> str:
        names = ", ".join(backend.name for backend in self.backends)
        if not set(clause.modes).intersection(self.modes):
            return f"only in mode {', '.join(clause.modes)}"
        if not names:
            return f"only of lowered programs, which {EXPORTED} does not have"
        if clause.sampled and self.sample is not None:
            return f"only of {', '.join(self.sample)}, unless it is named"
        if Scope.LOWERED not in clause.scopes:
            return f"only where programs run, and not on {names}"
        return f"only on backends that {'quantise' if clause.quantising else 'delegate'}, not on {names}"


def plan(selection: Selection) -> Iterator[Cell]:
    """Every cell of a run, architecture by architecture, each from eager to runtime."""
    for architecture in selection.architectures:
        yield from _eager(architecture, selection)
        for subject in selection.subjects:
            for mode in selection.modes:
                if selection.exported:
                    yield from _exported(architecture, subject, mode, selection)
                for backend in () if architecture in selection.not_lowered else selection.backends:
                    yield from _lowered(architecture, subject, mode, backend, selection)


def _eager(architecture: str, selection: Selection) -> Iterator[Cell]:
    # Sensitivity before parity: a fixture that cannot show a fault makes the rest worthless.
    clauses = [clause for clause in selection.clauses if Scope.EAGER in clause.scopes]
    for clause in sorted(clauses, key=lambda clause: clause.chapter is not Chapter.SEN):
        yield Cell(architecture, None, EAGER, None, clause.id)


def _exported(architecture: str, subject: str, mode: Mode, selection: Selection) -> Iterator[Cell]:
    for clause in selection.clauses:
        if Scope.EXPORTED in clause.scopes and mode in clause.modes:
            yield Cell(architecture, subject, EXPORTED, mode, clause.id)


def _lowered(
    architecture: str, subject: str, mode: Mode, backend: BackendTraits, selection: Selection
) -> Iterator[Cell]:
    in_sample = selection.sample is None or architecture in selection.sample
    for clause in selection.clauses:
        if mode in clause.modes and backend.concerned_by(clause) and (in_sample or not clause.sampled):
            yield Cell(architecture, subject, backend.name, mode, clause.id)


def needs(clause: str, backend: str, stage: Stage) -> bool:
    """Whether a cell of `clause` on `backend` can be judged only if `stage` can be done."""
    if backend == EAGER:
        return stage in (Stage.BUILD, Stage.EAGER)
    if backend == EXPORTED:
        return stage in (Stage.BUILD, Stage.EAGER, Stage.EXPORT)
    known = _BY_ID.get(clause)
    runs = known is not None and Scope.RUNTIME in known.scopes
    return runs or stage not in (Stage.LOAD, Stage.EXECUTE)


def is_own_export(clause: str) -> bool:
    """Whether a check of `clause` makes an export of its own, which may succeed where the program's fails."""
    known = _BY_ID.get(clause)
    return known is not None and known.own_export
