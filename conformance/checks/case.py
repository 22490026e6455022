"""The argument of a check: a cell, the builder of models and programs, and the metrics that the check fills in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.core.cells import EXPORTED, Cell, split_row
from conformance.core.contract import Mode
from conformance.core.paths import PARTITIONS
from conformance.core.verdicts import CellFailedError, ClauseViolationError, NotApplicableError, Stage
from conformance.decoding.batched import Batched
from conformance.decoding.device import foresee
from conformance.decoding.fidelity import spread
from conformance.decoding.oracle import ROUNDINGS, Oracle, ProgramOracle
from conformance.decoding.scripts import DecodeScript, ScriptSpace
from conformance.decoding.sessions import Inputs, Session
from conformance.decoding.tokenizers import RunnerTokenizer
from conformance.exporters.resolve import Exporter
from conformance.matrix.schema import Expectation
from conformance.models.fixtures import MAX_CACHE_LEN, batch_size
from conformance.models.variations import of_row
from conformance.pipeline.artifact import Artifact
from conformance.pipeline.backends import FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.base import Precision
from conformance.pipeline.builder import Builder, BuiltArchitecture, BuiltProgram
from conformance.records.run import Measured

#: A variation gets one in so many of a fixture's generated scripts.
_VARIATION_SHARE = 5
#: Perturbed oracles of a checkpoint, each token of which costs a third of a second (SmolLM2-135M, 8da4w).
_DEEP_ORACLES = 4
#: Bytes of logits kept of scripts that a device has run ahead.
_AHEAD_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Case:
    """One cell being judged.

    Args:
        cell: The cell.
        builder: Builds and keeps models and programs.
        examples: How many scripts Hypothesis may try, beside the pinned ones.
        derandomize: Try the same scripts in every run.
        caches: The kinds of cache layers that the architecture's row declares; None where it has no row.
        only: The one script to try, in place of pinned and generated ones.
        shrink: Look for the shortest script that shows a failure.
        baselines: The lists of operators that backends leave to portable kernels.
        overrides: The changes of the decoder's config by each variation of the architecture's fixture.
        is_checkpoint: Whether the model is a user's checkpoint. It was not made to show faults, and its tokens cost
            time.
        metrics: Filled in by the check; goes into the record.
        measured: The same, for what is not a number.
        ahead: By cell and script, sessions on a device that have made the script's calls, for `session_for`.
    """

    cell: Cell
    builder: Builder
    examples: int
    derandomize: bool = True
    caches: tuple[str, ...] | None = None
    only: DecodeScript | None = None
    shrink: bool = True
    baselines: Path = PARTITIONS
    overrides: tuple[Mapping[str, Any], ...] = ()
    is_checkpoint: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
    ahead: dict[tuple[Cell, DecodeScript], list[Session]] = field(default_factory=dict)

    @property
    def architecture(self) -> BuiltArchitecture:
        """The fixture model and its oracle."""
        return self.builder.architecture(self.cell.architecture)

    @property
    def built(self) -> BuiltProgram:
        """The program under test; raises `NotApplicableError` where the clause does not apply to its exporter."""
        assert self.cell.program is not None, "eager cells have no program"
        built = self.builder.program(self.cell.program)
        built.exporter.require_clause(self.cell.clause)
        return built

    @property
    def model(self) -> PreTrainedModel:
        """The fixture model."""
        return self.architecture.model

    def model_to_export(self) -> PreTrainedModel:
        """The fixture model, newly built: an exporter may change it."""
        return self.architecture.model_to_export()

    @property
    def oracle(self) -> Oracle:
        """The oracle of the fixture model, compared with a forward pass without cache before its first use."""
        return self.architecture.trusted_oracle

    @property
    def untried_oracle(self) -> Oracle:
        """The oracle, for checks of the oracle itself."""
        return self.architecture.oracle

    @property
    def expected(self) -> Oracle | ProgramOracle:
        """The oracle of the cell's program: the model's, or that of the model as its backend rounds it."""
        return self.built.expected

    def perturbed_oracles(self) -> Iterator[Oracle | ProgramOracle]:
        """Oracles as good as the expected one, with other ties; none if the backend does not round."""
        precision = self.precision
        return self.built.perturbed_oracles(precision) if precision else iter(())

    @property
    def exporter(self) -> Exporter:
        """The exporter under test; raises `NotApplicableError` where the clause does not apply to it."""
        return self.built.exporter

    @property
    def mode(self) -> Mode:
        """The mode of a cell that has one."""
        assert self.cell.mode is not None, "eager cells have no mode"
        return self.cell.mode

    @property
    def program(self) -> ExportedProgram:
        """The exporter's program, not lowered."""
        return self.built.exported

    @property
    def artifact(self) -> Artifact:
        """The program, lowered and emitted."""
        return self.built.artifact

    @property
    def backend(self) -> Backend:
        """The backend of a cell that has one."""
        backend = self.builder.backend(self.cell.backend)
        assert backend is not None, "asked of cells that have one"
        return backend

    @property
    def precision(self) -> Precision | None:
        """The precision required of the logits, if `tolerance` does not decide."""
        backend = self.builder.backend(self.cell.backend)
        if backend is None or backend.precision is None or not self.is_checkpoint:
            return backend.precision if backend else None
        # Where thousands of values tie, one oracle is as good as 64, and each is as far off as this model's rounding.
        return dataclasses.replace(
            backend.precision,
            perturbation_std=max(backend.precision.perturbation_std, self.untried_oracle.noise),
            max_perturbed_oracles=_DEEP_ORACLES,
        )

    def precision_after(self, prefix: tuple[int, ...]) -> Precision:
        """The precision required of the logits after `prefix`, if they agree with no oracle within `precision`.

        A fixture's is the same. In a deep checkpoint some value ties at nearly every token, so that no two correct
        programs agree: SmolLM2-135M on `xnnpack-8da4w` is 4 to 37 dB from its oracles, and they are 5 to 39 dB from
        each other. So it may be four times as far from the nearest oracle as each of these is from the nearest other.
        """
        precision = self.precision
        assert precision is not None, "asked of backends that round alone"
        if not self.is_checkpoint:
            return precision
        apart = spread([oracle.logits(prefix) for oracle in (self.expected, *self.perturbed_oracles())])
        return dataclasses.replace(
            precision,
            least_sqnr=min(precision.least_sqnr, apart.sqnr_db - 20 * math.log10(ROUNDINGS)),
            # Each of two logits may have moved as far.
            tie_margin=max(precision.tie_margin, 2 * ROUNDINGS * apart.largest / self.expected.scale),
        )

    @property
    def tolerance(self) -> float:
        """The largest error that counts as equal, as a share of the logits' scale."""
        backend = self.builder.backend(self.cell.backend)
        least = backend.tolerance if backend else FLOAT32_TOLERANCE
        if not self.rounds:
            return least
        oracle = self.untried_oracle
        return max(least, ROUNDINGS * oracle.noise if self.is_checkpoint else 2 * oracle.rounding_of_all)

    @property
    def rounds(self) -> bool:
        """Whether the model may compute in half precision, so that two correct programs differ by its rounding.

        Fixtures themselves are float32, and a bundle needs their tolerance even if no model could be built.
        """
        return self.is_checkpoint or "dtype" in of_row(self.cell.architecture).settings

    @property
    def runner_tokenizer(self) -> RunnerTokenizer:
        """The LLM runner's tokenizer: the checkpoint's own, or one with a character for each id."""
        return self.architecture.runner_tokenizer

    @property
    def space(self) -> ScriptSpace:
        """The scripts this cell's program can be asked to follow."""
        length = self.architecture.cache_length
        chunk = 1 if self.cell.mode is Mode.DECODE else self.builder.shape.longest(length)
        return ScriptSpace(self.architecture.vocabulary, length, chunk)

    def new_session(self) -> Session:
        """A decoder with fresh caches: the exported program's or the runtime's, as the cell says."""
        return self._one_row(self.built.new_session())

    def lowered_session(self) -> Session:
        """A decoder with fresh caches of the lowered program before emission, run by torch."""
        return self._one_row(self.built.lowered_session())

    @property
    def on_device(self) -> bool:
        """Whether a device runs the cell's program, whose driver is started anew for each command."""
        backend = self.builder.backend(self.cell.backend)
        return backend is not None and backend.runs_on is not None

    def session_for(self, script: DecodeScript, whole: Callable[[DecodeScript], DecodeScript] | None = None) -> Session:
        """A session with fresh caches for `script`, whose calls a device makes at once.

        Args:
            script: The script.
            whole: Returns the script of all the calls to expect, which begins with that of `script`.
        """
        waiting = self.ahead.get((self.cell, script))
        if waiting:
            return waiting.pop()
        session = self.new_session()
        if self.on_device:
            foresee((session, inputs) for inputs in inputs_of(whole(script) if whole else script))
        return session

    def independent_session(self) -> Session:
        """A session of the program loaded anew, which stays valid when the next one begins."""
        return self.session_of(self.program) if self.cell.backend == EXPORTED else self.new_session()

    def session_of(self, program: ExportedProgram) -> Session:
        """A decoder with fresh caches of another exported program of the exporter's."""
        return self._one_row(self.exporter.driver.exported(program).new_session())

    def _one_row(self, session: Session) -> Session:
        """`session` for calls with one row, if the model has several."""
        rows = batch_size(self.model)
        if rows == 1:
            return session
        return Batched(session, rows, self.space.vocab, self.expected.logits, self.tolerance * self.expected.scale)

    def settings(self, **more: Any) -> settings:
        """Hypothesis' settings for this cell."""
        return settings(
            max_examples=self._affordable,
            derandomize=self.derandomize,
            database=None,
            # A first example builds the program, which takes seconds; later ones take milliseconds.
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if self._shrinks else [Phase.generate],
            **more,
        )

    @property
    def _shrinks(self) -> bool:
        return self.shrink and not self.on_device  # each of hundreds of attempts would start the driver

    def _run_ahead(
        self,
        scripts: Iterable[DecodeScript],
        sessions: int,
        whole: Callable[[DecodeScript], DecodeScript] | None,
    ) -> None:
        """Have a device run all the scripts with one command; those beyond the memory run when they are judged."""
        room = _AHEAD_BYTES
        planned: list[tuple[Session, Inputs]] = []
        for script in scripts:
            made = whole(script) if whole else script
            tokens = sum(len(call.tokens) for call in made.calls)
            room -= sessions * batch_size(self.model) * tokens * self.space.vocab * 4
            if room < 0:
                break
            for _ in range(sessions):
                session = self.new_session()
                self.ahead.setdefault((self.cell, script), []).append(session)
                planned += [(session, inputs) for inputs in inputs_of(made)]
        foresee(planned)

    @property
    def _affordable(self) -> int:
        """The number of scripts to generate: fewer for a variation, whose fixture is judged too, and for long scripts.

        With as many as for a fixture, one variation of each mechanism made tier core slower by 16 %.
        """
        if self.is_checkpoint or split_row(self.cell.architecture)[1] is None:
            return self.examples
        length = max(self.architecture.cache_length, MAX_CACHE_LEN)
        return max(1, self.examples * MAX_CACHE_LEN // (_VARIATION_SHARE * length))

    def try_scripts(
        self,
        strategy: st.SearchStrategy[DecodeScript],
        judge: Callable[[DecodeScript], object],
        pinned: tuple[DecodeScript, ...] = (),
        *,
        sessions: int = 1,
        whole: Callable[[DecodeScript], DecodeScript] | None = None,
    ) -> None:
        """Judge the pinned scripts, then generated ones; a failure is shrunk to the shortest script that shows it.

        Args:
            strategy: Generates scripts.
            judge: Judges one on sessions of `session_for`.
            pinned: Scripts to begin with.
            sessions: How many sessions `judge` asks for.
            whole: What it asks for them with.
        """

        def generate(judge: Callable[[DecodeScript], object]) -> None:
            @self.settings()
            @given(script=strategy)
            def judged(script: DecodeScript) -> None:
                judge(script)

            judged()

        self.try_generated(generate, judge, pinned, sessions=sessions, whole=whole)

    def try_generated(
        self,
        generate: Callable[[Callable[[DecodeScript], object]], None],
        judge: Callable[[DecodeScript], object],
        pinned: tuple[DecodeScript, ...] = (),
        *,
        sessions: int = 1,
        whole: Callable[[DecodeScript], DecodeScript] | None = None,
    ) -> None:
        """The same, where `generate` calls a function with each generated script.

        Raises:
            CellFailedError: The failure of the shortest script that was found.
            ClauseViolationError: The same, where it does not fail each time: its signature ends in `not-deterministic`.
        """
        if self.only is not None:
            judge(self.only)
            return
        if self.on_device:
            # The same scripts come again to be judged: they do not depend on what is done with them.
            scripts = dict.fromkeys(pinned)
            generate(scripts.setdefault)
            self._run_ahead(scripts, sessions, whole)
        shown = _first_violation(judge, pinned)
        if shown is None:
            with _deterministic():
                generate(judge)
            return
        if not self._shrinks:
            raise shown
        # Hypothesis shrinks only what it has generated, so it looks for a shorter one with the same failure.
        try:
            with _deterministic():
                generate(judge)
        except CellFailedError as shorter:
            if shorter.signature == shown.signature and _length(shorter) < _length(shown):
                raise
        raise shown

    def measure(self, name: str, value: float) -> None:
        """Keep the largest `value`, a finite number, seen under this name."""
        self.metrics[name] = max(self.metrics.get(name, value), value)


def _first_violation(
    judge: Callable[[DecodeScript], object], scripts: tuple[DecodeScript, ...]
) -> ClauseViolationError | None:
    for script in scripts:
        try:
            judge(script)
        except ClauseViolationError as error:
            return error
    return None


@contextmanager
def _deterministic() -> Iterator[None]:
    """Make a violation of a failure that Hypothesis has not seen again when it tried the same script.

    Hypothesis takes that for a fault of the check. But scripts have no state, and their sessions are new.
    """
    try:
        yield
    except Flaky as error:
        failed = error.subgroup(CellFailedError) if isinstance(error, ExceptionGroup) else None
        if failed is None:
            raise
        raise _not_deterministic(failed) from None


def _not_deterministic(failed: BaseExceptionGroup[CellFailedError]) -> ClauseViolationError:
    """The first of several failures, of a script that has not failed in the same way each time."""
    first = failed.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _not_deterministic(first)
    return ClauseViolationError(
        first.stage,
        f"{first.signature.removeprefix(f'{first.stage}:')}:not-deterministic",
        observed=f"{getattr(first, 'observed', first)}; not so when the script was tried again",
        expected=getattr(first, "expected", "the same result each time"),
        script=getattr(first, "script", None),
        relative_error=getattr(first, "relative_error", None),
        observed_logits=getattr(first, "observed_logits", None),
        expected_logits=getattr(first, "expected_logits", None),
    )


def _length(error: CellFailedError) -> tuple[int, int]:
    """Calls and tokens of the script that shows it."""
    script = getattr(error, "script", None)
    if not isinstance(script, DecodeScript):
        return (0, 0)
    return len(script.calls), sum(len(call.tokens) for call in script.calls)


def require_undecodable(case: Case, known: Expectation) -> None:
    """Try to decode eagerly with a static cache, which must fail as the architecture's row says.

    Raises:
        NotApplicableError: It fails so, and nothing else can judge the programs; no clause applies.
        CellFailedError: It fails in another way, or decodes after all.
    """
    try:
        case.architecture.static_oracle.agree_without_cache()
    except CellFailedError as error:
        if error.signature != known.signature:
            raise
        if known.without_cache:
            return
        link = f" ({known.link})" if known.link else ""
        raise NotApplicableError(f"cannot decode with a static cache: {known.reason}{link}") from None
    raise ClauseViolationError(
        Stage.EAGER,
        "decodes-after-all",
        observed="eager decoding with a static cache agrees with the forward pass without cache",
        expected=f"{known.signature}; remove {known.cause} from `known` of the row in models_matrix.yaml",
    )


def tensors(call_tokens: tuple[int, ...], position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A call's inputs: token ids, int64 [1, seq], and cache position, int64 [seq]."""
    return torch.tensor([call_tokens]), torch.arange(position, position + len(call_tokens))


def inputs_of(script: DecodeScript) -> list[Inputs]:
    """The inputs of a script's calls."""
    return [tensors(call.tokens, call.position) for call in script.calls]


#: Marks a check with the id of the clause it tests.
clause = pytest.mark.clause
