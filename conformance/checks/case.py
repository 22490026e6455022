"""What a check is given: a cell, the workbench to build what it needs, and where to put what it measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.export import ExportedProgram
from transformers import PreTrainedModel

from conformance.core.cells import EXPORTED, Cell
from conformance.core.contract import Mode
from conformance.core.paths import PARTITIONS
from conformance.core.verdicts import CellFailedError, ClauseViolationError, NotApplicableError, Stage
from conformance.decoding.oracle import ROUNDINGS, Oracle, ProgramOracle
from conformance.decoding.scripts import DecodeScript, ScriptSpace
from conformance.decoding.sessions import Session
from conformance.decoding.tokenizers import RunnerTokenizer
from conformance.exporters.resolve import Exporter
from conformance.matrix.schema import Expectation
from conformance.pipeline.backends import FLOAT32_TOLERANCE, Backend
from conformance.pipeline.backends.base import Precision
from conformance.pipeline.builder import Builder
from conformance.records.run import PartitionRecord


@dataclass(frozen=True, slots=True)
class Case:
    """One cell being judged.

    Args:
        cell: The cell.
        workbench: Builds and keeps models and programs.
        examples: How many scripts Hypothesis may try, beside the pinned ones.
        derandomize: Try the same scripts in every run.
        caches: The kinds of cache layers that the architecture's row declares; None where it has no row.
        only: The one script to try, in place of pinned and generated ones.
        shrink: Look for the shortest script that shows a failure.
        baselines: Where it is listed what backends leave to portable kernels.
        own: Whether the model is somebody's own checkpoint. It was not made to show faults, and its tokens cost time.
        metrics: Filled in by the check; goes into the record.
        measured: The same, for what is no number.
    """

    cell: Cell
    builder: Builder
    examples: int
    derandomize: bool = True
    caches: tuple[str, ...] | None = None
    only: DecodeScript | None = None
    shrink: bool = True
    baselines: Path = PARTITIONS
    own: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    measured: dict[Literal["partition"], PartitionRecord] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The fixture model."""
        return self.builder.model(self.cell.architecture)

    def model_to_export(self) -> PreTrainedModel:
        """The fixture model, newly built: whoever exports it may change it."""
        return self.builder.model_to_export(self.cell.architecture)

    @property
    def oracle(self) -> Oracle:
        """The oracle of the fixture model, which has been seen to agree with a forward pass without cache."""
        return self.builder.trusted_oracle(self.cell.architecture)

    @property
    def expected(self) -> Oracle | ProgramOracle:
        """What the cell's program is judged by: the oracle, or that of the model which its backend has rounded."""
        where = (self.cell.architecture, self.subject.name, self.mode)
        return self.builder.expected(*where, self.cell.backend)

    @property
    def untried_oracle(self) -> Oracle:
        """The oracle, for checks of the oracle itself."""
        return self.builder.oracle(self.cell.architecture)

    @property
    def subject(self) -> Exporter:
        """The subject under test; raises `NotApplicableError` where the cell's clause cannot be asked of it."""
        assert self.cell.subject is not None, "eager cells have no subject"
        subject = self.builder.subject(self.cell.subject)
        subject.require_clause(self.cell.clause)
        return subject

    @property
    def mode(self) -> Mode:
        """The mode of a cell that has one."""
        assert self.cell.mode is not None, "eager cells have no mode"
        return self.cell.mode

    @property
    def program(self) -> ExportedProgram:
        """The subject's exported program."""
        return self.builder.exported(self.cell.architecture, self.subject.name, self.mode, self.cell.backend)

    @property
    def backend(self) -> Backend:
        """The backend of a cell that has one."""
        return self.builder.backends[self.cell.backend]

    @property
    def precision(self) -> Precision | None:
        """How near the logits must come, where that is not by `tolerance`."""
        backend = self.builder.backends.get(self.cell.backend)
        return backend.precision if backend else None

    def disturbed(self) -> Iterator[Oracle | ProgramOracle]:
        """Oracles as good as the expected one, with other ties."""
        where = (self.cell.architecture, self.subject.name, self.mode, self.cell.backend)
        seed = 0
        while (oracle := self.builder.disturbed(*where, seed)) is not None:
            yield oracle
            seed += 1

    @property
    def tolerance(self) -> float:
        """The largest error that counts as equal, as a share of the logits' scale."""
        backend = self.builder.backends.get(self.cell.backend)
        least = backend.tolerance if backend else FLOAT32_TOLERANCE
        # Fixtures are of float32, and a bundle asks for their tolerance even where no model could be built.
        return max(least, ROUNDINGS * self.builder.oracle(self.cell.architecture).rounding) if self.own else least

    @property
    def runner_tokenizer(self) -> RunnerTokenizer:
        """The LLM runner's tokenizer: the checkpoint's own, or one with a character for each id."""
        return self.builder.runner_tokenizer(self.cell.architecture)

    @property
    def space(self) -> ScriptSpace:
        """The scripts this cell's program can be asked to follow."""
        vocab = int(self.model.config.get_text_config().vocab_size)
        length = self.builder.cache_length(self.cell.architecture)
        return ScriptSpace(vocab, length, 1 if self.cell.mode is Mode.DECODE else length)

    def new_session(self) -> Session:
        """A decoder with fresh caches: the exported program's or the runtime's, as the cell says."""
        where = (self.cell.architecture, self.subject.name, self.mode)
        if self.cell.backend == EXPORTED:
            return self.builder.exported_session(*where)
        return self.builder.runtime_session(*where, self.cell.backend)

    def session_of(self, program: ExportedProgram) -> Session:
        """A decoder with fresh caches of another exported program of the subject's."""
        return self.subject.driver.exported(program).new_session()

    def settings(self, **more: Any) -> settings:
        """How Hypothesis goes about this cell."""
        return settings(
            max_examples=self.examples,
            derandomize=self.derandomize,
            database=None,
            # A first example builds the program, which takes seconds; later ones take milliseconds.
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if self.shrink else [Phase.generate],
            **more,
        )

    def try_scripts(
        self,
        strategy: st.SearchStrategy[DecodeScript],
        judge: Callable[[DecodeScript], None],
        pinned: tuple[DecodeScript, ...] = (),
    ) -> None:
        """Judge the pinned scripts, then generated ones; a failure is shrunk to the shortest script that shows it."""
        if self.only is not None:
            judge(self.only)
            return

        @self.settings()
        @given(script=strategy)
        def judged(script: DecodeScript) -> None:
            judge(script)

        shown = _first_violation(judge, pinned)
        if shown is None:
            judged()
            return
        if not self.shrink:
            raise shown
        # Hypothesis shrinks only what it has generated, so it looks for a shorter one that shows the same.
        try:
            judged()
        except ClauseViolationError as shorter:
            if shorter.signature == shown.signature and _length(shorter) < _length(shown):
                raise
        raise shown

    def measure(self, name: str, value: float) -> None:
        """Keep the largest `value` seen under this name."""
        self.metrics[name] = max(self.metrics.get(name, value), value)


def _first_violation(
    judge: Callable[[DecodeScript], None], scripts: tuple[DecodeScript, ...]
) -> ClauseViolationError | None:
    for script in scripts:
        try:
            judge(script)
        except ClauseViolationError as error:
            return error
    return None


def _length(error: ClauseViolationError) -> tuple[int, int]:
    """Calls and tokens of the script that shows it."""
    if not isinstance(error.script, DecodeScript):
        return (0, 0)
    return len(error.script.calls), sum(len(call.tokens) for call in error.script.calls)


def require_undecodable(case: Case, known: Expectation) -> None:
    """Try to decode eagerly, which has to fail as the architecture's row says.

    Raises:
        NotApplicableError: It does; no clause applies.
        CellFailedError: It fails otherwise, or decodes after all.
    """
    try:
        case.builder.trusted_oracle(case.cell.architecture)
    except CellFailedError as error:
        if error.signature != known.signature:
            raise
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


#: Marks a check with the id of the clause it tests.
clause = pytest.mark.clause
