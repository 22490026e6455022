"""The contract: every clause, as data, in one place.

An id never changes its meaning and is never used again. Checks, expectations in the matrix, records and reports all
use these ids; `docs/reference/contract.md` is generated from this list (`conformance docs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """The shape a program is exported with: one token a call, or 1 to `max_cache_len` tokens a call."""

    DECODE = "decode"
    DYNAMIC = "dynamic"


class Level(StrEnum):
    """How much a violation weighs.

    A program that breaks a `must` clause is wrong, or cannot run. A `should` clause is about cost, convenience or a
    courtesy: a violation is shown, needs a known failure as any other does, and never makes the headline.
    """

    MUST = "must"
    SHOULD = "should"


class Scope(StrEnum):
    """What a clause is checked on. A clause may be checked on several."""

    EAGER = "eager"  # the model, its tokenizer and the oracle: no subject, no export
    EXPORTED = "exported"  # the subject's ExportedProgram, run by torch
    LOWERED = "lowered"  # that program, lowered by one backend and emitted
    RUNTIME = "runtime"  # the emitted program, run by ExecuTorch
    COMPILED = "compiled"  # of a backend that does not run here, the lowered program, run by torch


class Chapter(StrEnum):
    """The parts of the contract; the value is what a reader sees above the clauses."""

    EXP = "Export"
    LOW = "Lowering"
    PAR = "Parity"
    RUN = "Runner"
    SEN = "Sensitivity"


BOTH_MODES = (Mode.DECODE, Mode.DYNAMIC)


@dataclass(frozen=True, slots=True)
class Clause:
    """One numbered sentence of the contract.

    `scopes` is empty while the suite has no check for the clause. `delegating` clauses say nothing about a backend
    that has no partitioner, and `quantising` ones about one that does not quantise. `own_export` clauses make an export
    of their own, so they may hold where the program cannot be exported. `sampled` clauses are about ExecuTorch
    more than about an architecture: a run asks them of the matrix's first alone, unless it names them.
    """

    id: str
    text: str
    scopes: tuple[Scope, ...] = ()
    modes: tuple[Mode, ...] = BOTH_MODES
    delegating: bool = False
    quantising: bool = False
    own_export: bool = False
    sampled: bool = False
    level: Level = Level.MUST

    @property
    def chapter(self) -> Chapter:
        """The chapter, which is the id's first part."""
        return Chapter[self.id.partition("-")[0]]


_PARITY = (Scope.EXPORTED, Scope.RUNTIME)

CLAUSES: tuple[Clause, ...] = (
    Clause(
        "EXP-1",
        "The program is `forward(input_ids: int64 [batch, seq], cache_position: int64 [seq]) -> logits [batch, seq, "
        "vocab]`, and these two are its only user inputs. If dynamic, `seq` is one symbol in all three, from 1 to the "
        "full length of the cache.",
        (Scope.EXPORTED,),
    ),
    Clause("EXP-2", "No `Cache` object is among the graph's inputs or outputs.", (Scope.EXPORTED,)),
    Clause(
        "EXP-3",
        "Every cache tensor is one buffer of the program, mutated in place: none is lifted as a constant, none is "
        "duplicated, none is returned.",
        (Scope.EXPORTED,),
    ),
    # In one mode: with a dynamic length, a strict export takes 3 to 4 s of CPU, longer than all others of a row.
    Clause(
        "EXP-4",
        "It exports under `strict=True` and under `strict=False`, to programs that behave alike up to the last cache "
        "slot, and leaves the model as it was.",
        (Scope.EXPORTED,),
        (Mode.DECODE,),
        own_export=True,
        level=Level.SHOULD,
    ),
    Clause(
        "EXP-5",
        "It exports with a dynamic sequence length, from 1 to the full length of the cache.",
        (Scope.EXPORTED,),
        (Mode.DYNAMIC,),
    ),
    Clause(
        "EXP-6",
        "It exports with no example inputs given, to a program that decodes at any position.",
        (Scope.EXPORTED,),
        (Mode.DECODE,),
        own_export=True,
        level=Level.SHOULD,
    ),
    Clause(
        "EXP-7",
        "The program survives `torch.export.save` and `torch.export.load`.",
        (Scope.EXPORTED,),
        level=Level.SHOULD,
    ),
    Clause(
        "EXP-8",
        "The model is left as it was: weights, config, generation config, attention and experts implementation, train "
        "or eval mode, hooks, grad mode, random state; and so is the process: functions and methods of torch and "
        "Transformers, global hooks, settings of torch and TorchDynamo (default dtype and device, determinism, "
        "autocast, threads), registered pytrees, environment variables.",
        (Scope.EXPORTED,),
        level=Level.SHOULD,
    ),
    Clause(
        "EXP-9",
        "A misconfigured model gets a clear, documented error before any tracing. So does one whose cache is longer "
        "than its table of positions, by an error that names their number.",
        (Scope.EXPORTED,),
        (Mode.DECODE,),
        own_export=True,
        level=Level.SHOULD,
    ),
    Clause(
        "EXP-10",
        "Exported again, it is the same program: graph, signature and weights.",
        (Scope.EXPORTED,),
        (Mode.DECODE,),
        level=Level.SHOULD,
    ),
    Clause(
        "EXP-11",
        "A model in training mode is exported as in evaluation mode and left in training mode, or refused by an error "
        "that says why.",
        (Scope.EXPORTED,),
        (Mode.DECODE,),
        own_export=True,
        level=Level.SHOULD,
    ),
    Clause("LOW-1", "It lowers to the edge dialect with IR validity checks on.", (Scope.LOWERED,)),
    Clause(
        "LOW-2",
        "The partition is complete: the backend's partitioner, asked again on the lowered graph, finds nothing more "
        "to take.",
        (Scope.LOWERED,),
        delegating=True,
        level=Level.SHOULD,
    ),
    Clause(
        "LOW-3",
        "The partition covers: every compute-heavy operator (linear, matmul, attention products) is delegated, and "
        "only what the matrix row allows is left.",
        (Scope.LOWERED,),
        delegating=True,
        level=Level.SHOULD,
    ),
    Clause(
        "LOW-4",
        "Weights live once: constants used by a delegate are owned by it and not stored again, tied weights are stored "
        "once, no constant is stored that nothing reads, and the program is no larger than its constants and operators "
        "ask for.",
        (Scope.LOWERED,),
        level=Level.SHOULD,
    ),
    Clause("LOW-5", "Every undelegated operator has a kernel in the runtime.", (Scope.LOWERED,)),
    Clause(
        "LOW-6",
        "Cache buffers are planned memory, updated in place, and never make a round trip through program outputs.",
        (Scope.LOWERED,),
    ),
    Clause(
        "LOW-7",
        "Planned memory stays within a stated bound of cache and activations, and no cache is wider than the model's "
        "own.",
        (Scope.LOWERED,),
        level=Level.SHOULD,
    ),
    # In one mode and of a sample: it costs a process of 17 s, more than half of them imports.
    Clause(
        "LOW-8",
        "Two processes with different hash seeds lower the program to the same bytes.",
        (Scope.LOWERED,),
        (Mode.DECODE,),
        sampled=True,
        level=Level.SHOULD,
    ),
    Clause("LOW-9", "User-defined passes are applied.", (Scope.LOWERED,), level=Level.SHOULD),
    Clause(
        "LOW-10",
        "The partition is sound: a delegate contains only operators that its backend declares, no cache update, and no "
        "copy of a cache that the program changes.",
        (Scope.LOWERED,),
        delegating=True,
    ),
    # Not `must`: what is not quantised is larger and slower than was asked for, and right. That a program computes what
    # the quantised model computes is parity's to say.
    Clause(
        "LOW-11",
        "A backend that quantises does so: at least the share of the weights that it states is held as integers, and "
        "the logits are those of the float model but for the noise that it states.",
        (Scope.LOWERED,),
        quantising=True,
        level=Level.SHOULD,
    ),
    # Not `must`: what portable kernels move is slow, and right.
    Clause(
        "LOW-12",
        "The hot path is delegated: no operator outside delegates moves more than 2 % of the bytes that a token may "
        "read, which are the program's constants and caches; but for what custom attention asks for, and what makes a "
        "mask of the positions.",
        (Scope.LOWERED,),
        delegating=True,
        level=Level.SHOULD,
    ),
    # The only one on what such a backend computes. What its compiler made of a delegate is not run.
    Clause(
        "LOW-13",
        "A backend that does not run here is given the right thing to compile: with each delegate's program run by "
        "torch, the lowered program matches the oracle.",
        (Scope.COMPILED,),
    ),
    Clause("PAR-1", "Decoding token by token from position 0 matches the oracle.", _PARITY),
    Clause(
        "PAR-2",
        "Prefilling in any chunks, and continuing at any position with chunks or single tokens, matches the oracle.",
        _PARITY,
        (Mode.DYNAMIC,),
    ),
    Clause("PAR-3", "Rewinding, that is writing again at an earlier position, forgets what followed it.", _PARITY),
    Clause("PAR-4", "Starting again at position 0 forgets everything, recurrent state included.", _PARITY),
    Clause("PAR-5", "Decoding past the sliding window or attention chunk matches the oracle.", _PARITY),
    Clause("PAR-6", "Decoding right up to the last cache slot matches the oracle.", _PARITY),
    Clause(
        "PAR-7",
        "A position beyond the cache, a wrong dtype or a wrong rank is an error, and the next valid call is right.",
        _PARITY,
        level=Level.SHOULD,
    ),
    Clause("PAR-8", "The oracle itself agrees with a forward pass without a cache.", (Scope.EAGER,)),
    Clause("PAR-9", "The same input gives the same bytes.", _PARITY),
    Clause("PAR-10", "Greedy generation picks the same tokens.", _PARITY),
    Clause("PAR-11", "Two sessions of one program share no state, and the rows of a batch do not mix.", _PARITY),
    Clause(
        "PAR-12",
        "Any sequence of calls matches the oracle: prefills, continuations, rewinds, restarts and repeated calls, in "
        "whatever order.",
        _PARITY,
    ),
    Clause(
        "PAR-13",
        "A session of 500 calls, with at least 10 sequences, rewinds and restarts among them, matches the oracle "
        "throughout. Two programs interleaved in one process, and one program loaded twice, do not disturb each other.",
        _PARITY,
    ),
    Clause(
        "RUN-1",
        "The metadata methods of ExecuTorch's LLM runner are present and true.",
        (Scope.RUNTIME,),
        level=Level.SHOULD,
    ),
    Clause(
        "RUN-2",
        "`TextLLMRunner`, out of the box, generates the tokens that eager greedy decoding generates.",
        (Scope.RUNTIME,),
        level=Level.SHOULD,
    ),
    Clause("RUN-3", "It does so again on a second call.", (Scope.RUNTIME,), level=Level.SHOULD),
    # A must, unlike the others: no other way of running the program mends it, and wrong answers come without an error.
    Clause(
        "RUN-4",
        "The runner reads text as the same token ids as Transformers does with the checkpoint's tokenizer, and writes "
        "these as the same text.",
        (Scope.EAGER,),
    ),
    Clause(
        "SEN-1",
        "The fixture model is discriminating: zeroing the cache, shifting positions by one, swapping two layers' "
        "caches, or dropping the window each move the logits by at least 100 times the tolerance.",
        (Scope.EAGER,),
    ),
    Clause(
        "SEN-2",
        "The fixture exercises every layer kind and every kind of cached state that the architecture's default config "
        "has.",
        (Scope.EAGER,),
        level=Level.SHOULD,
    ),
    Clause(
        "SEN-3",
        "No field of the config is neutral: each that moves the logits has, in the fixture or in one of its "
        "variations, a value that differs from every neutral one (1, 0, None, false, or what other fields entail), and "
        "a neutral one moves the logits by at least 100 times the tolerance.",
        (Scope.EAGER,),
        level=Level.SHOULD,
    ),
)

CHECKED = tuple(clause for clause in CLAUSES if clause.scopes)


def contract_page() -> str:
    """The contract as `docs/reference/contract.md`."""
    lines = [
        "# The contract",
        "",
        "Generated from `conformance/core/contract.py` by `conformance docs`; a test compares the two.",
        "An id never changes its meaning. A clause with nothing under “checked on” has no check yet.",
    ]
    for chapter in Chapter:
        lines += [
            "",
            f"## {chapter.value}",
            "",
            "| clause | level | what holds | checked on | modes |",
            "| --- | --- | --- | --- | --- |",
        ]
        for clause in CLAUSES:
            if clause.chapter is chapter:
                scopes = ", ".join(clause.scopes)
                modes = ", ".join(clause.modes) if clause.scopes and Scope.EAGER not in clause.scopes else ""
                lines.append(f"| {clause.id} | {clause.level} | {clause.text} | {scopes} | {modes} |")
    return "\n".join(lines) + "\n"
