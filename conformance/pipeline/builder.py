"""Builds and caches the models and programs of one architecture.

`conformance.pipeline.lowering` is imported by what lowers: it takes 2 s, and a run of exported programs, or one whose
artifacts the store has, needs none of it.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import os
from collections.abc import Callable, Container, Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import torch
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.core.attention import PORTABLE
from conformance.core.call_shape import WHOLE, CallShape
from conformance.core.cells import EAGER, EXPORTED, Program
from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError, Stage, StageError, at
from conformance.decoding.device import DeviceProgram, DeviceSession
from conformance.decoding.oracle import CacheFreeOracle, Oracle, ProgramOracle, perturbed_model, perturbed_program
from conformance.decoding.scripts import Vocabulary
from conformance.decoding.sessions import InterpretedSession, RuntimeSession, Session, Startable
from conformance.decoding.tokenizers import CharTokenizer, CheckpointTokenizer, RunnerTokenizer
from conformance.decoding.vocabulary import vocabulary_of
from conformance.exporters.resolve import Exporter, resolve
from conformance.models.fixtures import cache_length
from conformance.pipeline import stages
from conformance.pipeline.artifact import Artifact
from conformance.pipeline.backends import BACKENDS, Backend, backend_called
from conformance.pipeline.backends.base import Interpreter, Precision
from conformance.pipeline.model_snapshot import changes, footprint
from conformance.pipeline.other_process import Request, difference_by_process
from conformance.pipeline.process_snapshot import Change, process_changes, process_snapshot
from conformance.pipeline.program_file import forward_plan
from conformance.pipeline.store import Store, key_of
from conformance.reference.errors import AttentionDoesNotFitError
from conformance.reference.metadata import eos_ids

if TYPE_CHECKING:
    from conformance.pipeline.lowering import Lowered

#: Bytes of a program whose weights are worth the 0.4 s that it takes to look for garbage.
_LARGE = 1 << 26
#: How many texts show the ranges that a program is quantised by.
_CALIBRATION_TEXTS = 4

T = TypeVar("T")
S = TypeVar("S", bound="_Built")


class _Built:
    """Something whose parts are built when first asked for, and kept.

    A failure is kept too: a stage that failed once is not tried again for the next clause, and fails there in the same
    way at no cost.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def let_go(self) -> None:
        """Forget all parts, also where a kept failure's traceback refers to this object."""
        self._kept.clear()

    def _cached(self, key: Hashable, build: Callable[[], T]) -> T:
        if key not in self._kept:
            try:
                self._kept[key] = build()
            except (CellFailedError, NotApplicableError) as error:
                self._kept[key] = error
        kept = self._kept[key]
        if isinstance(kept, CellFailedError | NotApplicableError):
            # Without its traceback, which grows each time it is raised, and which pytest formats each time.
            raise kept.with_traceback(None) from None
        part: T = kept
        return part


class _Part(Generic[S, T]):
    """Makes a method a property that is built when first read, and kept."""

    def __init__(self, build: Callable[[S], T]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, built: None, owner: type[S]) -> Self: ...

    @overload
    def __get__(self, built: S, owner: type[S]) -> T: ...

    def __get__(self, built: S | None, owner: type[S]) -> Self | T:
        return self if built is None else built._cached(self, lambda: self._build(built))

    def so_far(self, built: S) -> T | None:
        """The property's value, if it has been built; None where it was not read, or could not be built."""
        kept = built._kept.get(self)
        return None if isinstance(kept, Exception) else kept


class Builder:
    """Builds the models and programs of one architecture at a time; asked for another, it lets go of them.

    Args:
        exporters: Exporters that have been resolved already; others are resolved by name.
        backends: The backends by name; others are found by name, where that tells where they are.
        build: Makes an architecture's model; tests give others than the fixtures.
        store: Where artifacts are kept from run to run.
        tokenizer: The directory of the model's own tokenizer; without it, each token id is a character.
        shape: The shape of the programs' calls.
        attention: What exporters are asked for where a backend asks for nothing else, one of
            `conformance.core.attention.ATTENTIONS`.
        program_file: A `.pte` file that takes the place of every program: nothing is exported or lowered.
        without_cache: The architectures whose programs the forward pass without cache judges; see
            `conformance.matrix.known_failures.Undecodable`.
        require_lowering: Called whenever a program is about to be lowered.
        single_use: Export the model itself and not a newly built one, lower its program and not a copy, and do not
            look for side effects. For a checkpoint that is exported once and is too large for copies.
    """

    def __init__(
        self,
        exporters: Mapping[str, Exporter] | None = None,
        backends: Mapping[str, Backend] = BACKENDS,
        build: Callable[[str], PreTrainedModel] = stages.build,
        store: Store | None = None,
        tokenizer: Path | None = None,
        *,
        shape: CallShape = WHOLE,
        attention: str = PORTABLE,
        program_file: Path | None = None,
        without_cache: Container[str] = (),
        require_lowering: Callable[[], None] = lambda: None,
        single_use: bool = False,
    ) -> None:
        self._backends = backends
        self.build = build
        self.store = store
        self.tokenizer = tokenizer
        self.shape = shape
        self.attention = attention
        self.program_file = program_file
        self.without_cache = without_cache
        self.require_lowering = require_lowering
        self.single_use = single_use
        self._exporters = dict(exporters or {})
        self._current: BuiltArchitecture | None = None
        #: By exporter: what it has left behind in this process, which no later export of it changes again.
        self.left_behind: dict[str, list[Change]] = {}

    def architecture(self, name: str) -> BuiltArchitecture:
        """The architecture called `name`; those asked for before are let go."""
        if self._current is None or self._current.name != name:
            if self._current is not None:
                self._current.let_go()
            self._current = BuiltArchitecture(name, self)
        return self._current

    def program(self, program: Program) -> BuiltProgram:
        """What there is, or can be, of `program`. Asking for it builds nothing yet."""
        return self.architecture(program.architecture).program(program)

    def backend(self, name: str) -> Backend | None:
        """The backend called `name`; None before lowering."""
        if name in (EAGER, EXPORTED):
            return None
        return self._backends[name] if name in self._backends else backend_called(name)

    def knows(self, backend: Backend) -> bool:
        """Whether it is the suite's: what it leaves is listed, and its code is part of the artifact store's keys."""
        return backend.name in self._backends

    def exporter(self, name: str) -> Exporter:
        """The exporter called `name`."""
        if name not in self._exporters:
            self._exporters[name] = resolve(name)
        return self._exporters[name]


class BuiltArchitecture(_Built):
    """An architecture's model, what it is judged by, and its programs.

    Every property raises `CellFailedError` or `NotApplicableError` where it cannot be built.
    """

    def __init__(self, name: str, builder: Builder) -> None:
        super().__init__()
        self.name = name
        self._builder = builder
        self._programs: dict[Program, BuiltProgram] = {}

    def let_go(self) -> None:
        """Forget all parts, and those of the programs."""
        super().let_go()
        for program in self._programs.values():
            program.let_go()
        self._programs.clear()

    def program(self, program: Program) -> BuiltProgram:
        """One of its programs."""
        if program not in self._programs:
            self._programs[program] = BuiltProgram(program, self, self._builder)
        return self._programs[program]

    @_Part
    def model(self) -> PreTrainedModel:
        """The fixture model."""
        return self._builder.build(self.name)

    @_Part
    def cache_length(self) -> int:
        """Positions in the cache, in tokens, as the model asks for them before anybody has exported it."""
        return cache_length(self.model)

    @_Part
    def vocabulary(self) -> Vocabulary:
        """The model's token ids."""
        return vocabulary_of(self.model)

    @_Part
    def oracle(self) -> Oracle:
        """The oracle of the fixture model."""
        return self._oracle_of(self.model)

    @_Part
    def static_oracle(self) -> Oracle:
        """The fixture model's own decoding with a static cache, also where that is not what judges programs.

        It is the same object where it is: a model that keeps a state of its own (RecurrentGemma) has one oracle.
        """
        return self.oracle if self._decodes else Oracle(self.model, self.cache_length)

    @property
    def _decodes(self) -> bool:
        return self.model.config.model_type not in self._builder.without_cache

    def _oracle_of(self, model: PreTrainedModel) -> Oracle:
        return (Oracle if self._decodes else CacheFreeOracle)(model, self.cache_length)

    @_Part
    def trusted_oracle(self) -> Oracle:
        """The oracle, tried: parity with an oracle that ignores its cache would prove nothing."""
        oracle = self.oracle
        oracle.agree_without_cache()
        return oracle

    @_Part
    def runner_tokenizer(self) -> RunnerTokenizer:
        """The LLM runner's tokenizer: the checkpoint's own, or one with a character for each id."""
        vocab = self.oracle.vocab
        if self._builder.tokenizer is not None:
            return CheckpointTokenizer(self._builder.tokenizer, vocab)
        ends = (token for token in eos_ids(self.model) if token < vocab)
        return CharTokenizer(vocab, next(ends, vocab - 1))

    def prepared(self, backend: Backend | None) -> PreTrainedModel:
        """The model that the programs of `backend` are exported from: the fixture, or a rounded copy of it."""
        if backend is None or backend.prepare is None:
            return self.model
        _require(backend)
        return self._cached(("prepared", backend.name), lambda: _prepared(backend, self.model))

    def model_to_export(self, backend: Backend | None = None) -> PreTrainedModel:
        """A newly built one, equal to `prepared`: an exporter that changes its model (EXP-8) changes no other's."""
        if self._builder.single_use:
            return self.prepared(backend)
        model = self._builder.build(self.name)
        if backend is None or backend.prepare is None:
            return model
        _require(backend)
        return _prepared(backend, model)

    def prepared_oracle(self, backend: Backend) -> Oracle:
        """The oracle of the model that `backend` has rounded."""
        return self._cached(("prepared oracle", backend.name), lambda: self._oracle_of(self.prepared(backend)))

    def perturbed_oracle(self, backend: Backend, std: float, seed: int) -> Oracle:
        """The same of a model whose embeddings are off by noise with the standard deviation `std`, as a share."""
        return self._cached(
            ("perturbed oracle", backend.name, seed),
            lambda: self._oracle_of(perturbed_model(self.prepared(backend), std, seed)),
        )

    @property
    def evidence(self) -> dict[str, bytes]:
        """By file name, what has been built so far."""
        built = BuiltArchitecture.model.so_far(self) is not None
        return {"weights.pt": self._weights} if built else {}

    @_Part
    def _weights(self) -> bytes:
        held = io.BytesIO()
        torch.save(self.model.state_dict(), held)
        return held.getvalue()


class BuiltProgram(_Built):
    """A program at each stage, and what it is judged by.

    Every property raises `CellFailedError` or `NotApplicableError` where it cannot be built, and `NotRunError` where
    the backend lacks a package.
    """

    def __init__(self, program: Program, architecture: BuiltArchitecture, builder: Builder) -> None:
        super().__init__()
        self.program = program
        self.architecture = architecture
        #: None before lowering.
        self.backend = builder.backend(program.backend)
        self._builder = builder

    @property
    def exporter(self) -> Exporter:
        """The exporter that makes it."""
        return self._builder.exporter(self.program.exporter)

    @property
    def exported(self) -> ExportedProgram:
        """The exported program: of the fixture, or of what its backend makes of that first."""
        return self._source._exported

    @_Part
    def exported_without_examples(self) -> ExportedProgram:
        """The fixture's exported program once more, from the model alone."""
        model = self.architecture.model_to_export()
        with at(Stage.EXPORT):
            return self.exporter.export(model)

    @property
    def side_effects(self) -> list[Change]:
        """What exporting the fixture changed of it, and what its exporter has left behind in this process."""
        changed = self._before_lowering._exporting[1]
        return [*changed, *self._builder.left_behind.get(self.exporter.name, ())]

    @_Part
    def methods(self) -> dict[str, Any]:
        """The constant methods that the program is lowered with, by name."""
        model, mode = self.architecture.prepared(self.backend), self.program.mode
        return self.exporter.methods(model, mode, self._builder.shape.prompt_chunk, self.attention)

    @property
    def attention(self) -> str:
        """What the exporter is asked for, one of `conformance.core.attention.ATTENTIONS`."""
        own = PORTABLE if self.backend is None else self.backend.attention
        return self._builder.attention if own == PORTABLE else own

    @property
    def emitted(self) -> bytes:
        """The bytes of the program's `.pte` file: the one that was given, or the artifact's."""
        given = self._builder.program_file
        return self.artifact.program if given is None else self._cached("program file", given.read_bytes)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that the emitted program calls, such as ``aten::add.out``."""
        if self._builder.program_file is None:
            return self.artifact.emission.operators
        from conformance.pipeline.emission import kernels_of

        return self._cached("kernels", lambda: kernels_of(forward_plan(self.emitted)))

    @_Part
    def artifact(self) -> Artifact:
        """The program, lowered and emitted: out of the store, or made and put there."""
        _require(self._lowering)
        kept = self._store.get(self._store_key) if self._store is not None else None
        if kept is not None:
            return kept
        lowered = self._lowered_to_emit()
        from conformance.pipeline.lowering import emit  # after what may end this process, for another

        artifact = emit(lowered, self._lowering)
        if len(artifact.program) > _LARGE:
            gc.collect()  # a lowered program refers to itself, and holds its weights until then
        if self._store is not None:
            self._store.put(self._store_key, artifact)
        return artifact

    @property
    def _store(self) -> Store | None:
        return self._builder.store if self._builder.knows(self._lowering) else None

    @_Part
    def difference_by_process(self) -> str:
        """How the programs of two processes with different hash seeds differ; empty if they are the same bytes.

        The store keeps the answer beside the artifact.
        """
        artifact, store = self.artifact, self._store
        request = Request(self.program, self._builder.shape, self._builder.attention)
        if store is None:
            return difference_by_process(request, artifact.program)
        key = f"{self._store_key}-by-process"
        kept = store.get(key)
        if kept is None or kept.again is None:
            kept = dataclasses.replace(artifact, again=difference_by_process(request, artifact.program))
            store.put(key, kept)
        return str(kept.again)

    def lower(self) -> Lowered:
        """The program, lowered anew each time: emitting uses a lowered program up."""
        self._builder.require_lowering()
        from conformance.pipeline.lowering import lower

        # ExecuTorch marks the program's nodes while it lowers. A copy takes 0.02 s, exporting again 1 s.
        program = self.exported if self._builder.single_use else copy.deepcopy(self.exported)
        return lower(program, self._lowering, self.methods)

    def _lowered_to_emit(self) -> Lowered:
        if self._lowering.runs and self._lowering.interpreter is None:
            return self.lower()
        # It is run as well. A copy takes 0.2 s, lowering again 10 s.
        return dataclasses.replace(self._lowered, edge=copy.deepcopy(self._lowered.edge))

    @_Part
    def _lowered(self) -> Lowered:
        """The program to be run before emission. The store has none: what it keeps is the emitted program."""
        return self.lower()

    def loaded(self) -> Startable:
        """The exported program as a module of its own, whose sessions end no other's."""
        return self.exporter.driver.exported(self.exported)

    def new_session(self) -> Session:
        """A session with fresh caches, of the emitted program; for an interpreter, of what that was emitted from.

        Before lowering, it is one of the exported program, and ends the one before.
        """
        if self.backend is None:
            return self._module.new_session()
        emitted = self.emitted  # first, so that what cannot be emitted is not run either
        if self.backend.interpreter is not None:
            return self._interpreted_session(self.backend.interpreter)
        return self.session_of(emitted)

    def session_of(self, emitted: bytes) -> Session:
        """A session, where the backend's programs run, of bytes that were emitted from its exported program."""
        is_file = self._builder.program_file is not None
        device = self._lowering.runs_on
        if device is not None:
            if not is_file and not self.exporter.driver.by_contract:
                raise NotApplicableError(
                    f"{device.name} makes calls that are known ahead, and the inputs of a program by "
                    f"{self.exporter.name} hold what the call before returned"
                )
            # Kept, since each of hundreds of sessions would take the SHA-256 of the same bytes.
            program = self._cached(("device program", emitted), lambda: DeviceProgram.of(emitted))
            return DeviceSession(device, program)
        method = stages.load(emitted)
        return RuntimeSession(method) if is_file else self.exporter.driver.runtime(self.exported, method)

    def metadata(self) -> dict[str, tuple[Any, ...]]:
        """The values of the emitted program's methods that take no inputs, by name.

        They are read on this machine, since they are values in the file. Where a device runs the program, its other
        methods are not loaded here.
        """
        return stages.constants(self.emitted, load_all=self._lowering.runs_on is None)

    def _interpreted_session(self, interpreter: Interpreter) -> Session:
        if self._builder.program_file is not None:
            raise NotApplicableError(
                f"{interpreter.name} runs what a program is emitted from, and a file has none of it"
            )
        return InterpretedSession(self.lowered_session(), interpreter.running)

    def lowered_session(self) -> Session:
        """A session of the lowered program before emission: torch runs it, and the program of each of its delegates."""
        return self.exporter.driver.exported(self._lowered.edge.exported_program()).new_session()

    @property
    def expected(self) -> Oracle | ProgramOracle:
        """What the program is judged by; the fixture's oracle has been tried in any case."""
        trusted = self.architecture.trusted_oracle
        if self.backend is not None and self.backend.prepare:
            return self.architecture.prepared_oracle(self.backend)
        return self._program_oracle if self.backend is not None and self.backend.requantise else trusted

    def perturbed_oracles(self, precision: Precision) -> Iterator[Oracle | ProgramOracle]:
        """Oracles as good as the expected one, with other ties."""
        backend = self._lowering
        for seed in range(precision.max_perturbed_oracles):
            if backend.prepare:
                yield self.architecture.perturbed_oracle(backend, precision.perturbation_std, seed)
            else:
                yield self._perturbed_program_oracle(precision.perturbation_std, seed)

    def first_located(self, clause: str) -> str:
        """The clause of the first cell that asked where this program goes wrong; `clause`, if none has."""
        return self._cached("first located", lambda: clause)

    @property
    def evidence(self) -> dict[str, bytes]:
        """By file name, what has been built so far: weights, exported program, emitted program."""
        files = self.architecture.evidence
        if BuiltProgram._exported.so_far(self._source) is not None:
            files |= self._source._saved
        artifact = BuiltProgram.artifact.so_far(self)
        if artifact is not None:
            files["program.pte"] = artifact.program
        return files

    @property
    def _before_lowering(self) -> BuiltProgram:
        """The exported program of the fixture itself."""
        return self.architecture.program(dataclasses.replace(self.program, backend=EXPORTED))

    @property
    def _source(self) -> BuiltProgram:
        """The one whose exported program this one is lowered from."""
        return self if self.backend is not None and self.backend.variant else self._before_lowering

    @property
    def _lowering(self) -> Backend:
        if self.backend is None:
            raise ValueError(f"{self.program} is not lowered")
        return self.backend

    @_Part
    def _exported(self) -> ExportedProgram:
        if self.backend is None:
            return self._exporting[0]
        _require(self.backend)
        if self.backend.requantise and not self.exporter.driver.by_contract:
            raise NotApplicableError(
                f"{self.backend.name} is calibrated by calls with token ids and cache position, as EXP-1 has them, "
                f"and {self.exporter.name} takes others"
            )
        model = self.architecture.model_to_export(self.backend)
        try:
            program = self._export(model)
        except StageError as error:
            asked = self._builder.attention != PORTABLE  # then a refusal counts as a failure
            if asked or self.backend.attention == PORTABLE or not isinstance(error.cause, AttentionDoesNotFitError):
                raise
            raise NotApplicableError(str(error.cause)) from error
        if not self.backend.requantise:
            return program
        length = self.architecture.cache_length
        texts = [self.architecture.vocabulary.text(seed, length) for seed in range(_CALIBRATION_TEXTS)]
        shape = self._builder.shape
        return stages.requantise(self.backend.requantise, program, self.program.mode, texts, shape.longest(length))

    @_Part
    def _exporting(self) -> tuple[ExportedProgram, list[Change]]:
        """The fixture's exported program, and what exporting it changed of the model."""
        self.architecture.model  # noqa: B018 - for the evidence, should this fail
        model = self.architecture.model_to_export()
        exporter = self.exporter
        if self._builder.single_use:
            return self._export(model), []
        before, process = footprint(model), process_snapshot()
        program = self._export(model)
        self._builder.left_behind.setdefault(exporter.name, []).extend(process_changes(process))
        return program, [Change("model", text) for text in changes(before, footprint(model))]

    def _export(self, model: PreTrainedModel) -> ExportedProgram:
        return stages.export(self.exporter, model, self.program.mode, self._builder.shape, attention=self.attention)

    @_Part
    def _saved(self) -> dict[str, bytes]:
        held = io.BytesIO()
        try:
            torch.export.save(self.exported, held)
        except Exception:  # whatever torch's serialiser does not know (EXP-7 says so); the rest of the evidence stands
            return {}
        return {"program.pt2": held.getvalue()}

    @_Part
    def _module(self) -> Startable:
        return self.loaded()

    @_Part
    def _store_key(self) -> str:
        program = self.exported
        return key_of(program, self._lowering, self.methods)

    @_Part
    def _program_oracle(self) -> ProgramOracle:
        return self._oracle_of(self.loaded())

    def _perturbed_program_oracle(self, std: float, seed: int) -> ProgramOracle:
        program = self.exported
        return self._cached(
            ("perturbed oracle", seed),
            lambda: self._oracle_of(self.exporter.driver.exported(perturbed_program(program, std, seed))),
        )

    def _oracle_of(self, module: Startable) -> ProgramOracle:
        length = self.architecture.cache_length
        return ProgramOracle(module.new_session, self.architecture.vocabulary.text(0, length))


def _require(backend: Backend) -> None:
    """Raises `NotRunError` where the backend lacks a package; else makes the environment what it needs."""
    if backend.obstacle:
        raise NotRunError(backend.obstacle)
    for name, value in backend.environment:
        os.environ.setdefault(name, value)


def _prepared(backend: Backend, model: PreTrainedModel) -> PreTrainedModel:
    """What `backend`, which has a `prepare`, makes of the model."""
    assert backend.prepare is not None
    with at(Stage.BUILD):
        prepared: PreTrainedModel = backend.prepare(model)
        return prepared
