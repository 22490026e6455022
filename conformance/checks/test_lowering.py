"""Lowering: the program fits the edge dialect, each operator has a kernel, and memory is not wasted."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch

from conformance.checks.case import Case, clause
from conformance.checks.compare import run_script
from conformance.checks.matmul import PRODUCTS, multiplies_by
from conformance.checks.test_export import mutated_buffers
from conformance.core.attention import CUSTOM, CUSTOM_OPERATORS
from conformance.core.verdicts import ClauseViolationError, NotApplicableError, NotRunError, Stage
from conformance.decoding.fidelity import EQUAL_DB, fidelity
from conformance.decoding.local_runtime import local_runtime
from conformance.decoding.oracle import cache_states
from conformance.decoding.scripts import token_by_token
from conformance.matrix.delegation import Baseline, baseline
from conformance.pipeline.artifact import CacheBuffer, PartitionReport, StoredConstant, UndelegatedNode
from conformance.pipeline.contents import digest
from conformance.pipeline.quantisation import EMBEDDING, quantisation_record
from conformance.records import environment
from conformance.records.run import PartitionRecord, QuantisationRecord

#: Namespaces of operators that emission makes part of others.
_FUSED = ("torchao", "quantized_decomposed")
#: Names shown before "and N more".
_SHOWN = 5
#: Operators that cost as much as all others together: a backend without them is of no use for a language model.
_HEAVY = frozenset(f"aten.{name}.default" for name in PRODUCTS)
#: Share of a program's constants and caches that one operator outside delegates may move for a token. What cannot be
#: delegated, such as masks and positions, moves 0.9 % or less on the core architectures' fixtures, which are small; a
#: copy of one layer's keys moves 4.7 % (llama), the gathered weights of experts 25 % (mixtral).
_MOST_MOVED = 0.02
#: Activations may take this many times what is alive of them at once: ExecuTorch's greedy planner leaves gaps. They
#: take 1.0 to 1.6 times as much over the core architectures on portable and XNNPACK, 12 to 14 times without any reuse.
_ACTIVATIONS_BOUND = 2
#: Bytes for each slot of the cache that may always be moved: reading and writing its number twice, as computing a mask
#: does once a call. It is more than 2 % of a fixture with a long cache, and negligible beside real weights.
_MOST_MOVED_A_SLOT = 2 * 2 * torch.int64.itemsize
#: Tokens that torch decodes with a program which does not run here: past a fixture's sliding window. Each takes 0.1 s.
_COMPILED_TOKENS = 12
#: How much noise is too much for a checkpoint is its owner's decision. As much noise as signal is nonsense.
_NONSENSE_DB = 0.0


@clause("LOW-1")
def test_lowers(case: Case) -> None:
    """To the edge dialect with IR validity checks on, and on to the bytes of a program."""
    artifact = case.artifact
    undelegated = artifact.partition.undelegated
    case.measured["partition"] = PartitionRecord(
        delegates=dict(artifact.partition.delegates),
        delegated=dict(artifact.partition.delegated),
        undelegated=dict(undelegated),
        program_bytes=len(artifact.program),
        constant_bytes=artifact.emission.constant_bytes,
        planned_bytes=artifact.emission.planned_bytes,
        cache_bytes=artifact.emission.cache_bytes,
        moved=dict(artifact.partition.moved),
        lower_s=round(artifact.lower_s, 3),
        emit_s=round(artifact.emit_s, 3),
    )
    case.metrics.update(
        delegates=sum(artifact.partition.delegates.values()),
        delegated_operators=sum(artifact.partition.delegated.values()),
        undelegated_operators=sum(undelegated.values()),
        lower_s=round(artifact.lower_s, 3),
        emit_s=round(artifact.emit_s, 3),
        program_bytes=len(artifact.program),
    )


@clause("LOW-2")
def test_partition_is_complete(case: Case) -> None:
    """Asked again, the partitioner finds nothing more."""
    partitioner_would_take = case.artifact.partition.partitioner_would_take
    case.metrics["leftover"] = len(partitioner_would_take)
    if partitioner_would_take:
        raise _violation(
            "partition-incomplete",
            f"{len(partitioner_would_take)} nodes that the partitioner takes when asked again: "
            f"{_some(partitioner_would_take)}",
            "no such node",
        )


@clause("LOW-3")
def test_partition_covers(case: Case) -> None:
    """Every heavy operator is delegated, and of the others all but those that the baseline lists."""
    partition = case.artifact.partition
    delegated = sum(partition.delegated.values())
    case.metrics["delegated_share"] = round(_share(delegated, len(partition.undelegated_nodes)), 4)
    heavy = [node for node in partition.undelegated_nodes if node.operator in _HEAVY]
    if heavy:
        dtype = heavy[0].values.split()[0]
        code = f"heavy-operator-left-out:{heavy[0].operator}{'' if dtype == 'float32' else f':{dtype}'}"
        raise _violation(code, _some(heavy), "every matrix product inside a delegate")
    # A checkpoint is called as its folder is, which may be as a fixture is.
    known = None if case.is_checkpoint else baseline(case.built.program, environment.versions(), case.baselines)
    case.metrics["has_baseline"] = float(known is not None)  # without one, only heavy operators are looked at
    if known is not None:
        assert_as_listed(partition.undelegated_nodes, delegated, known)
    elif not case.builder.knows(case.backend):
        raise NotRunError(
            f"nothing is listed of what {case.cell.backend} leaves to portable kernels: "
            "`conformance matrix partitions RUN.json` lists what a run saw"
        )


@clause("LOW-12")
def test_little_is_moved_outside(case: Case) -> None:
    """The operator on portable kernels that moves most bytes in a call with one token."""
    artifact = case.artifact
    emission = artifact.emission
    weights = emission.exported_bytes if case.backend.owns_weights else emission.constant_bytes
    readable = weights + emission.cache_bytes
    asked_for = CUSTOM_OPERATORS if case.built.attention == CUSTOM else ()
    nodes = [
        node
        for node in artifact.partition.undelegated_nodes
        if node.operator not in asked_for and _is_called(node, artifact.emission.operators)
    ]
    most = max(nodes, key=lambda node: node.moved, default=None)
    if most is None or not readable:
        return
    case.metrics["most_moved_share"] = round(most.moved / readable, 4)
    if most.moved > max(_MOST_MOVED * readable, _MOST_MOVED_A_SLOT * case.space.length):
        raise _violation(
            f"moves-much:{most.operator}",
            f"{most.moved} bytes, {most.moved / readable:.0%} of the {readable} that a token may read, moved by {most}",
            f"at most {_MOST_MOVED:.0%} by any operator outside delegates",
        )


@clause("LOW-13")
def test_computes_before_emission(case: Case) -> None:
    """A program that is compiled for a device, run by torch: one token a call."""
    run_script(case, token_by_token(case.space.text(0)[:_COMPILED_TOKENS]), case.lowered_session())


def _is_called(node: UndelegatedNode, operators: Iterable[str]) -> bool:
    """Whether the emitted program has it: dequantising a table becomes part of the lookup."""
    namespace, _, name = node.operator.partition(".")
    called = (each.partition("::")[2].partition(".")[0] for each in operators)
    return namespace not in _FUSED or name.partition(".")[0] in called


@clause("LOW-4")
def test_weights_live_once(case: Case) -> None:
    """A delegate owns the matrices that it multiplies by; the program holds no constant twice, and no unused one."""
    artifact = case.artifact
    emission = artifact.emission
    case.metrics.update(constant_bytes=emission.constant_bytes, exported_constant_bytes=emission.exported_bytes)
    matrices = [name for name in artifact.partition.weights_as_inputs if multiplies_by(case.program, name)]
    if matrices:
        observed = f"{_some(matrices)} passed to a delegate at each call"
        raise _violation("weights-handed-in", observed, "weights that the delegate owns")
    twice = [constant for constant in emission.repeated if constant.copies > _needed(case, constant)]
    if twice:
        named = [f"{constant.name} ({constant.size} bytes, {constant.copies} times)" for constant in twice]
        raise _violation("stored-twice", f"{_some(named)} in the emitted program", "each constant of the model once")
    if emission.unread:
        named = [f"{name} ({size} bytes)" for name, size in emission.unread.items()]
        raise _emission_violation("unread", f"{_some(named)} stored, and read by nothing", "no such constant")
    operators = sum(artifact.partition.delegated.values()) + len(artifact.partition.undelegated_nodes)
    most = emission.exported_bytes + operators * case.backend.operator_bytes
    if len(artifact.program) > most:
        raise _emission_violation(
            "program-large",
            f"a program of {len(artifact.program):,} bytes",
            f"at most {most:,}: {emission.exported_bytes:,} of constants, "
            f"and {case.backend.operator_bytes:,} for each of {operators} operators",
        )


def _needed(case: Case, constant: StoredConstant) -> int:
    """How many tensors have this content: of the program, and of the model, whose tied weights are one."""
    model = case.architecture.prepared(case.backend)
    held = (*model.parameters(), *model.buffers())
    alike = {value.untyped_storage().data_ptr() for value in held if _is_content_of(constant, value)}
    return min(constant.tensors, len(alike) or constant.tensors)


def _is_content_of(constant: StoredConstant, value: torch.Tensor) -> bool:
    return value.nbytes == constant.size and digest(value) == constant.digest


@clause("LOW-5")
def test_kernels_exist(case: Case) -> None:
    """Each operator that the program calls is registered with the runtime; checked before loading."""
    device = case.backend.runs_on
    if device is not None:
        raise NotApplicableError(
            f"the driver of {device.name} does not list its kernels; a program that lacks one is refused at load, as "
            "the clauses of parity show"
        )
    operators = case.artifact.emission.operators
    case.metrics["kernels"] = len(operators)
    missing = sorted(set(operators) - set(local_runtime().operator_registry.operator_names))
    if missing:
        raise ClauseViolationError(
            Stage.LOAD,
            f"no-kernel:{missing[0]}",
            observed=f"no kernel for {_some(missing)}",
            expected="a kernel in the runtime for each operator of the program",
        )


@clause("LOW-6")
def test_caches_stay_in_place(case: Case) -> None:
    """Each cache of the exported program is planned memory that an update writes into."""
    emission = case.artifact.emission
    exported = len(mutated_buffers(case.program))
    case.metrics["caches"] = len(emission.caches)
    buffers_owned_by_delegate = case.artifact.partition.buffers_owned_by_delegate if case.backend.owns_state else ()
    for code, names, fault in (
        ("cache-returned", emission.returned, "among the program's outputs"),
        ("cache-unplanned", emission.unplanned, "not in planned memory"),
        ("cache-copied", emission.copied, "copied as a whole by an update"),
    ):
        if names:
            raise _emission_violation(code, f"{_some(names)} {fault}", "planned memory, updated in place")
    if len(emission.caches) + len(buffers_owned_by_delegate) < exported:
        raise _emission_violation(
            "cache-lost", f"{len(emission.caches)} mutable buffers", f"{exported}, as in the exported program"
        )


@clause("LOW-7")
def test_planned_memory_is_bounded(case: Case) -> None:
    """Caches no wider than the model's, and little more than the activations that are alive at once."""
    emission = case.artifact.emission
    activations = emission.planned_bytes - emission.cache_bytes
    alive = emission.alive_bytes - emission.cache_bytes
    case.metrics.update(
        planned_bytes=emission.planned_bytes, cache_bytes=emission.cache_bytes, alive_bytes=emission.alive_bytes
    )
    wide = list(_wide_caches(case, emission.caches))
    if wide:
        raise _emission_violation("cache-too-wide", _some(wide), "the dtype of the model's own cache")
    if activations > _ACTIVATIONS_BOUND * alive:
        raise _emission_violation(
            "memory-wasted",
            f"{activations} bytes for activations of which {alive} are alive at once",
            f"at most {_ACTIVATIONS_BOUND} times these",
        )


def _wide_caches(case: Case, caches: Iterable[CacheBuffer]) -> Iterator[str]:
    """Floating-point caches with more bytes a number than in eager decoding, where recurrences may keep float32."""
    prepared = case.backend.prepare is not None
    oracle = case.architecture.prepared_oracle(case.backend) if prepared else case.untried_oracle
    cache = oracle.new_cache()
    oracle.step(cache, 0)
    eager: dict[tuple[int, ...], list[torch.dtype]] = {}
    for _, _, state in cache_states(cache):
        if state.dtype.is_floating_point:
            eager.setdefault(tuple(state.shape), []).append(state.dtype)
    for dtypes in eager.values():
        dtypes.sort(key=lambda dtype: dtype.itemsize)
    # Exporters name buffers as they like. So, of one shape, the widest is compared with the model's widest, and so on.
    for buffer in sorted(caches, key=lambda buffer: getattr(torch, buffer.dtype).itemsize, reverse=True):
        dtype: torch.dtype = getattr(torch, buffer.dtype)
        if not dtype.is_floating_point:
            continue
        dtypes = eager.get(buffer.shape, [case.architecture.prepared(case.backend).dtype])
        own = dtypes.pop() if len(dtypes) > 1 else dtypes[0]
        if dtype.itemsize > own.itemsize:
            wanted = buffer.size * own.itemsize // dtype.itemsize
            own_name = str(own).removeprefix("torch.")
            yield f"{buffer.name}: {buffer.size} bytes of {buffer.dtype} where {own_name} takes {wanted}"


@clause("LOW-8")
def test_lowers_the_same_in_other_processes(case: Case) -> None:
    """Exported and lowered anew by a process that hashes strings differently."""
    difference = case.built.difference_by_process
    if difference:
        raise _emission_violation("bytes-differ", difference, "the same bytes from both processes")


@clause("LOW-9")
def test_passes_are_applied(case: Case) -> None:
    """Every operator, inside delegates and out, carries the mark that a user's pass left on it before partitioning."""
    nodes_missing_pass_mark = case.artifact.partition.nodes_missing_pass_mark
    if nodes_missing_pass_mark:
        raise _violation(
            "pass-without-effect",
            f"operators without the pass's mark: {_some(nodes_missing_pass_mark)}",
            "the mark on each operator",
        )


@clause("LOW-10")
def test_partition_is_sound(case: Case) -> None:
    """A delegate holds only operators that its backend declares, no update of a cache, and no copy of one."""
    partition = case.artifact.partition
    if partition.undeclared_ops:
        raise _violation(
            f"undeclared-operator:{partition.undeclared_ops[0]}",
            f"{_some(partition.undeclared_ops)} inside a delegate",
            f"operators that {case.cell.backend} declares",
        )
    if not case.backend.owns_state:
        _require_caches_outside(partition)
    if partition.buffers_frozen_in_delegate:
        raise _violation(
            "cache-frozen-in-delegate",
            f"a delegate keeps {_some(partition.buffers_frozen_in_delegate)} as exported, which the program changes",
            "a delegate that is given what the program has made of its caches",
        )
    if case.backend.declares is None and not case.builder.knows(case.backend):
        raise NotRunError(f"{case.cell.backend} has no `declares`, which says what operators it can take")


def _require_caches_outside(partition: PartitionReport) -> None:
    if partition.buffers_owned_by_delegate:
        raise _violation(
            "cache-in-delegate",
            f"{_some(partition.buffers_owned_by_delegate)} mutated inside a delegate",
            "cache updates outside",
        )
    updates = partition.cache_updates_in_delegate
    if updates:
        operator = min(updates.values())
        raise _violation(
            f"cache-update-in-delegate:{operator}",
            f"{operator} inside a delegate, whose input is {_some(updates)} and whose output is its next value",
            "cache updates outside",
        )


@clause("LOW-11")
def test_quantises(case: Case) -> None:
    """Most weights are integers, and the logits over a text of the float model's own stay near the float model's.

    Both are measured before either is judged, for the record.
    """
    promised = case.backend.quantisation
    assert promised is not None, "planned of backends that quantise alone"
    record = quantisation_record(case.model, case.program, promised.group_size)
    case.measured["quantisation"] = record
    case.metrics["quantised_share"] = round(record.share, 4)
    if record.products and not record.quantised:
        raise _violation("none-quantised", _nothing(record), "integers of at most 8 bits")
    found = fidelity(case.oracle, case.expected)
    if not all(map(math.isfinite, dataclasses.astuple(found))):
        raise _violation("not-finite", f"not all numbers are finite: {found}", "finite logits of both models")
    least_sqnr = _NONSENSE_DB if case.is_checkpoint else promised.least_sqnr
    case.metrics.update(
        float_sqnr_db=round(found.sqnr_db, 1),
        least_float_sqnr_db=least_sqnr,
        greedy_agreement=round(found.greedy_agreement, 4),
        perplexity_float=round(found.perplexity_float, 3),
        perplexity_quantised=round(found.perplexity_rounded, 3),
    )
    if found.sqnr_db >= EQUAL_DB:
        raise _violation("logits-equal", "the float model's logits to the last bit", "logits that quantising has moved")
    if found.sqnr_db < least_sqnr:
        raise _violation(
            "far-from-float",
            f"{found.sqnr_db:.1f} dB of signal over noise against the float model, and its greedy token at "
            f"{found.greedy_agreement:.0%} of positions",
            f"at least {least_sqnr:.0f} dB",
        )
    tables = [each.name for each in record.kept if each.why == EMBEDDING] if promised.embeddings else []
    if tables:
        raise _violation("embedding-kept", f"{_some(tables)} in floating point", "embeddings of integers")
    if record.share < promised.least_share:
        raise _violation(
            "little-quantised",
            f"{record.quantised} of {record.products} weights of matrix products, {record.share:.0%} of their bytes; "
            f"in floating point stay {_some(each.name for each in record.kept)}",
            f"at least {promised.least_share:.0%} of the bytes",
        )


def _nothing(record: QuantisationRecord) -> str:
    return (
        f"all {record.products} weights of matrix products in floating point, "
        f"{_some(f'{each.name} ({each.why})' if each.why else each.name for each in record.kept)}"
    )


def assert_as_listed(undelegated: Sequence[UndelegatedNode], delegated: int, known: Baseline) -> None:
    """Compare what is not delegated with the baseline: more is worse, and less has to be listed too.

    The latter only where the baseline was made with what is installed; a newer release may do better.
    """
    __tracebackhide__ = True
    share = _share(delegated, len(undelegated))
    observed, listed = Counter(node.operator for node in undelegated), Counter(known.left)
    more = observed - listed
    if more:
        names = [name for name in more if not listed[name]] or list(more)
        shown = [node for node in undelegated if node.operator in more]
        raise _violation(
            f"left-out:{names[0]}",
            f"{_counted(more)} more than listed: {_some(shown)}",
            f"what {known.source} lists, {_counted(listed)}",
        )
    if round(share, 4) < round(known.share, 4):
        raise _violation(
            "lower-share", f"a share of {share:.2%} delegated", f"{known.share:.2%}, as {known.source} lists"
        )
    fewer = listed - observed
    if known.exact and (fewer or round(share, 4) > round(known.share, 4)):
        raise _violation(
            "better-than-listed",
            f"{_counted(fewer) or 'nothing'} more delegated than listed, a share of {share:.2%} delegated",
            f"{known.share:.2%}, as {known.source} lists: run `conformance matrix partitions` on the record",
        )


def _share(delegated: int, undelegated: int) -> float:
    return delegated / (delegated + undelegated) if delegated + undelegated else 1.0


def _counted(operators: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(operators.items()))


def _some(names: Iterable[object]) -> str:
    texts = list(map(str, names))
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.LOWER, code, observed=observed, expected=expected)


def _emission_violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.EMIT, code, observed=observed, expected=expected)
