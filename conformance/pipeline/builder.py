"""The workbench: everything a cell needs, built when first asked for, once, and let go with its architecture."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError, Stage, at
from conformance.decoding.oracle import Oracle, ProgramOracle, disturbed, disturbed_program
from conformance.decoding.scripts import text
from conformance.decoding.sessions import Session, Startable
from conformance.decoding.tokenizers import CharTokenizer, RunnerTokenizer, tokenizer_of
from conformance.exporters.resolve import Exporter, resolve
from conformance.models.fixtures import cache_length
from conformance.pipeline import lowering, stages
from conformance.pipeline.backends import BACKENDS, Backend
from conformance.pipeline.lowering import Artifact, Lowered
from conformance.pipeline.model_snapshot import changes, footprint
from conformance.pipeline.store import Store, key_of
from conformance.reference.metadata import eos_ids

#: How many texts show the ranges that a program is quantised by.
_CALIBRATION_TEXTS = 4

T = TypeVar("T")


class Builder:
    """Builds the artifacts of one architecture at a time and keeps them, failures included.

    A stage that failed once is not tried again for the next clause: it fails there in the same way, at no cost.

    Args:
        subjects: Subjects that have been resolved already; others are resolved by name.
        backends: The backends by name.
        build: Makes an architecture's model; tests give others than the fixtures.
        store: Where artifacts are kept from run to run.
        tokenizer: The directory of the model's own tokenizer; without it, each token id is a letter.
    """

    def __init__(
        self,
        subjects: Mapping[str, Exporter] | None = None,
        backends: Mapping[str, Backend] = BACKENDS,
        build: Callable[[str], PreTrainedModel] = stages.build,
        store: Store | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        self.backends = backends
        self._subjects = dict(subjects or {})
        self.build = build
        self._store = store
        self._tokenizer = tokenizer
        self._architecture: str | None = None
        self._kept: dict[tuple[object, ...], Any] = {}

    def model(self, architecture: str) -> PreTrainedModel:
        """The fixture model."""
        return self._cached(architecture, ("model",), lambda: self.build(architecture))

    def cache_length(self, architecture: str) -> int:
        """Positions in the cache, in tokens, as the model asks for them before anybody has exported it."""
        return self._cached(architecture, ("cache_length",), lambda: cache_length(self.model(architecture)))

    def oracle(self, architecture: str) -> Oracle:
        """The oracle of the fixture model."""
        length = self.cache_length(architecture)
        return self._cached(architecture, ("oracle",), lambda: Oracle(self.model(architecture), length))

    def runner_tokenizer(self, architecture: str) -> RunnerTokenizer:
        """The LLM runner's tokenizer: the checkpoint's own, or one with a character for each id."""

        def make() -> RunnerTokenizer:
            vocab = self.oracle(architecture).vocab
            if self._tokenizer is not None:
                return tokenizer_of(self._tokenizer, vocab)
            ends = (token for token in eos_ids(self.model(architecture)) if token < vocab)
            return CharTokenizer(vocab, next(ends, vocab - 1))

        return self._cached(architecture, ("runner_tokenizer",), make)

    def trusted_oracle(self, architecture: str) -> Oracle:
        """The oracle, tried: parity with an oracle that ignores its cache would prove nothing."""

        def make() -> Oracle:
            oracle = self.oracle(architecture)
            oracle.agree_without_cache()
            return oracle

        return self._cached(architecture, ("trusted_oracle",), make)

    def subject(self, name: str) -> Exporter:
        """The subject called `name`."""
        if name not in self._subjects:
            self._subjects[name] = resolve(name)
        return self._subjects[name]

    def prepared(self, architecture: str, backend: str) -> PreTrainedModel:
        """The model that the programs of `backend` are exported from: the fixture, or a rounded copy of it."""
        known = self.backends.get(backend)
        prepare = known.prepare if known else None
        if known is None or prepare is None:
            return self.model(architecture)
        self._require(known)

        def make() -> PreTrainedModel:
            with at(Stage.BUILD):
                model: PreTrainedModel = prepare(self.model(architecture))
                return model

        return self._cached(architecture, ("prepared", backend), make)

    def model_to_export(self, architecture: str, backend: str = EXPORTED) -> PreTrainedModel:
        """A newly built one, equal to `prepared`: an exporter that changes its model (EXP-8) changes no other's."""
        model = self.build(architecture)
        known = self.backends.get(backend)
        if known is None or known.prepare is None:
            return model
        self._require(known)
        with at(Stage.BUILD):
            prepared: PreTrainedModel = known.prepare(model)
            return prepared

    def expected(self, architecture: str, subject: str, mode: Mode, backend: str) -> Oracle | ProgramOracle:
        """What the program of `backend` is judged by; the fixture's oracle has been tried in any case."""
        trusted = self.trusted_oracle(architecture)
        known = self.backends.get(backend)
        if known is None or known.variant is None:
            return trusted
        if known.prepare is not None:
            model = self.prepared(architecture, backend)
            length = self.cache_length(architecture)
            return self._cached(architecture, ("expected", backend), lambda: Oracle(model, length))

        module = self.started(architecture, subject, mode, backend)
        return self._cached(
            architecture, ("expected", subject, mode, backend), lambda: self._program_oracle(module, architecture)
        )

    def disturbed(
        self, architecture: str, subject: str, mode: Mode, backend: str, seed: int
    ) -> Oracle | ProgramOracle | None:
        """An oracle as good as the expected one, with other ties; None where there are no more, or none at all."""
        known = self.backends[backend]
        precision = known.precision
        if precision is None or seed >= precision.disturbed:
            return None
        if known.prepare is not None:
            model = self.prepared(architecture, backend)
            return self._cached(
                architecture,
                ("disturbed", backend, seed),
                lambda: Oracle(disturbed(model, precision.disturbance, seed), self.cache_length(architecture)),
            )
        program = self.exported(architecture, subject, mode, backend)
        return self._cached(
            architecture,
            ("disturbed", subject, mode, backend, seed),
            lambda: self._program_oracle(
                self.subject(subject).driver.exported(disturbed_program(program, precision.disturbance, seed)),
                architecture,
            ),
        )

    def _program_oracle(self, module: Startable, architecture: str) -> ProgramOracle:
        length = self.cache_length(architecture)
        return ProgramOracle(module.new_session, length, self.oracle(architecture).vocab)

    def exported(self, architecture: str, subject: str, mode: Mode, backend: str = EXPORTED) -> ExportedProgram:
        """The subject's exported program: of the fixture, or of what `backend` makes of it first."""
        known = self.backends.get(backend)
        if known is None or known.variant is None:
            return self._cached(
                architecture,
                ("exported", subject, mode, None),
                lambda: self._exporting(architecture, subject, mode)[0],
            )

        self._require(known)

        def make() -> ExportedProgram:
            length, vocab = self.cache_length(architecture), self.oracle(architecture).vocab
            if known.requantise and not self.subject(subject).driver.by_contract:
                told = f"{backend} is calibrated by calls with token ids and cache position, as EXP-1 has them"
                raise NotApplicableError(f"{told}, and {subject} takes others")
            program = stages.export(self.subject(subject), self.model_to_export(architecture, backend), mode)
            texts = [text(seed, length, vocab) for seed in range(_CALIBRATION_TEXTS)]
            return stages.requantise(known.requantise, program, mode, texts) if known.requantise else program

        return self._cached(architecture, ("exported", subject, mode, known.variant), make)

    def methods(self, architecture: str, subject: str, mode: Mode, backend: str) -> dict[str, Any]:
        """The constant methods that the subject's program is lowered with, by name."""

        def make() -> dict[str, Any]:
            return self.subject(subject).methods(self.prepared(architecture, backend), mode)

        return self._cached(architecture, ("methods", subject, mode, backend), make)

    def side_effects(self, architecture: str, subject: str, mode: Mode) -> list[str]:
        """What exporting the fixture changed of it and around it."""
        return self._exporting(architecture, subject, mode)[1]

    def artifact(self, architecture: str, subject: str, mode: Mode, backend: str) -> Artifact:
        """The program, lowered by `backend` and emitted: out of the store, or made and put there."""

        self._require(self.backends[backend])

        def make() -> Artifact:
            made = lowering.emit(self._lower(architecture, subject, mode, backend), self.backends[backend])
            if self._store is not None:
                self._store.put(self._key(architecture, subject, mode, backend), made)
            return made

        stored = self._stored(architecture, subject, mode, backend)
        return stored or self._cached(architecture, ("artifact", subject, mode, backend), make)

    def repeated(self, architecture: str, subject: str, mode: Mode, backend: str) -> str:
        """How another lowering of the same program differs from the artifact; empty if it gave the same bytes.

        It lowers once more, unless somebody has done so before and the store has the answer.
        """

        def make() -> str:
            artifact = self.artifact(architecture, subject, mode, backend)
            if artifact.again is not None:
                return artifact.again
            lowered = self._lower(architecture, subject, mode, backend)
            other = lowering.emit(lowered, self.backends[backend]).program
            again = _difference(artifact.program, other)
            if self._store is not None:
                key = self._key(architecture, subject, mode, backend)
                self._store.put(key, dataclasses.replace(artifact, again=again))
            return again

        return self._cached(architecture, ("repeated", subject, mode, backend), make)

    def lowered_again(self, architecture: str, subject: str, mode: Mode, backend: str) -> Lowered:
        """The program, lowered once more: emitting uses a lowered program up."""
        return self._lower(architecture, subject, mode, backend)

    def first_clause_to_ask(self, cell: Cell) -> str:
        """The clause of the first cell of this program for which it was asked where the program goes wrong."""
        key = ("first to ask", cell.subject, cell.mode, cell.backend)
        return self._cached(cell.architecture, key, lambda: cell.clause)

    def _require(self, backend: Backend) -> None:
        """Raises `NotRunError` where the backend lacks a package; else makes the environment what it needs."""
        if backend.obstacle:
            raise NotRunError(backend.obstacle)
        for name, value in backend.environment:
            os.environ.setdefault(name, value)

    def exported_session(self, architecture: str, subject: str, mode: Mode) -> Session:
        """A new session of the exported program; it ends the one before."""
        module = self._cached(
            architecture, ("module", subject, mode), lambda: self.started(architecture, subject, mode)
        )
        return module.new_session()

    def started(self, architecture: str, subject: str, mode: Mode, backend: str = EXPORTED) -> Startable:
        """The exported program as a module of its own, whose sessions end no other's."""
        return self.subject(subject).driver.exported(self.exported(architecture, subject, mode, backend))

    def runtime_session(self, architecture: str, subject: str, mode: Mode, backend: str) -> Session:
        """A new session of the emitted program."""
        method = stages.load(self.artifact(architecture, subject, mode, backend).program)
        return self.subject(subject).driver.runtime(self.exported(architecture, subject, mode, backend), method)

    def evidence(self, cell: Cell) -> dict[str, bytes]:
        """By file name, what has been built for `cell` so far: weights, exported program, emitted program."""
        if cell.architecture != self._architecture:
            return {}
        found: dict[str, bytes] = {}
        model = self._kept.get(("model",))
        if isinstance(model, PreTrainedModel):
            found["weights.pt"] = self._cached(cell.architecture, ("weights",), lambda: _weights(model))
        backend = self.backends.get(cell.backend)
        variant = backend.variant if backend else None
        program = self._kept.get(("exported", cell.subject, cell.mode, variant))
        if isinstance(program, ExportedProgram):
            key = ("saved", cell.subject, cell.mode, variant)
            found |= self._cached(cell.architecture, key, lambda: _saved(program))
        for kind in ("stored", "artifact"):
            artifact = self._kept.get((kind, cell.subject, cell.mode, cell.backend))
            if isinstance(artifact, Artifact):
                found["program.pte"] = artifact.program
        return found

    def _exporting(self, architecture: str, subject: str, mode: Mode) -> tuple[ExportedProgram, list[str]]:
        def make() -> tuple[ExportedProgram, list[str]]:
            self.model(architecture)  # for the evidence, should this fail
            model = self.model_to_export(architecture)
            before = footprint(model)
            program = stages.export(self.subject(subject), model, mode)
            return program, changes(before, footprint(model))

        return self._cached(architecture, ("exporting", subject, mode), make)

    def _lower(self, architecture: str, subject: str, mode: Mode, backend: str) -> Lowered:
        # ExecuTorch marks the program's nodes while it lowers. A copy takes 0.02 s, exporting again 1 s.
        program = copy.deepcopy(self.exported(architecture, subject, mode, backend))
        methods = self.methods(architecture, subject, mode, backend)
        return lowering.lower(program, self.backends[backend], methods)

    def _stored(self, architecture: str, subject: str, mode: Mode, backend: str) -> Artifact | None:
        """What the store had when it was first asked."""
        store = self._store
        if store is None:
            return None

        def find() -> Artifact | None:
            return store.get(self._key(architecture, subject, mode, backend))

        return self._cached(architecture, ("stored", subject, mode, backend), find)

    def _key(self, architecture: str, subject: str, mode: Mode, backend: str) -> str:
        def make() -> str:
            program = self.exported(architecture, subject, mode, backend)
            methods = self.methods(architecture, subject, mode, backend)
            return key_of(program, self.backends[backend], methods)

        return self._cached(architecture, ("key", subject, mode, backend), make)

    def _cached(self, architecture: str, key: tuple[object, ...], make: Callable[[], T]) -> T:
        if architecture != self._architecture:
            self._architecture = architecture
            self._kept.clear()
        if key not in self._kept:
            try:
                self._kept[key] = make()
            except (CellFailedError, NotApplicableError) as error:
                self._kept[key] = error
        kept = self._kept[key]
        if isinstance(kept, CellFailedError | NotApplicableError):
            # Without its traceback, which grows each time it is raised, and which pytest formats each time.
            raise kept.with_traceback(None) from None
        result: T = kept
        return result


def _difference(first: bytes, second: bytes) -> str:
    if first == second:
        return ""
    if len(first) != len(second):
        return f"{len(second)} bytes after {len(first)}"
    differing = [index for index, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    return f"{len(differing)} of {len(first)} bytes, the first at {differing[0]}"


def _weights(model: PreTrainedModel) -> bytes:
    held = io.BytesIO()
    torch.save(model.state_dict(), held)
    return held.getvalue()


def _saved(program: ExportedProgram) -> dict[str, bytes]:
    held = io.BytesIO()
    try:
        torch.export.save(program, held)
    except Exception:  # whatever torch's serialiser does not know (EXP-7 says so); the rest of the evidence stands
        return {}
    return {"program.pt2": held.getvalue()}
