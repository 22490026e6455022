"""Lowering: the program fits the edge dialect, the backend takes what it should, the runtime can take the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from conformance.checks.case import Case, clause
from conformance.checks.matmul import PRODUCTS, multiplies_by
from conformance.checks.test_export import mutated_buffers
from conformance.core.verdicts import ClauseViolationError, Stage
from conformance.matrix.delegation import Baseline, baseline
from conformance.pipeline.lowering import Artifact
from conformance.pipeline.partition import LeftOut
from conformance.records import environment
from conformance.records.run import PartitionRecord

#: Names shown before "and N more".
_SHOWN = 5
#: Operators that cost as much as all others together: a backend that leaves one out is no use for a language model.
_HEAVY = frozenset(f"aten.{name}.default" for name in PRODUCTS)
#: Activations may take this many times what is alive of them at once: ExecuTorch's greedy planner leaves gaps. They
#: take 1.0 to 1.6 times as much over the core architectures on portable and XNNPACK, 12 to 14 times without any reuse.
_ACTIVATIONS_BOUND = 2


@clause("LOW-1")
def test_lowers(case: Case) -> None:
    """To the edge dialect with IR validity checks on, and on to the bytes of a program."""
    artifact = _artifact(case)
    left = artifact.partition.undelegated
    case.measured["partition"] = PartitionRecord(
        delegates=dict(artifact.partition.delegates),
        delegated=dict(artifact.partition.delegated),
        undelegated=dict(left),
        program_bytes=len(artifact.program),
        constant_bytes=artifact.emission.constant_bytes,
        planned_bytes=artifact.emission.planned_bytes,
        cache_bytes=artifact.emission.cache_bytes,
        lower_s=round(artifact.lower_s, 3),
        emit_s=round(artifact.emit_s, 3),
    )
    case.metrics.update(
        delegates=sum(artifact.partition.delegates.values()),
        delegated_operators=sum(artifact.partition.delegated.values()),
        undelegated_operators=sum(left.values()),
        lower_s=round(artifact.lower_s, 3),
        emit_s=round(artifact.emit_s, 3),
        program_bytes=len(artifact.program),
    )


@clause("LOW-2")
def test_partition_is_complete(case: Case) -> None:
    """Asked again, the partitioner finds nothing more."""
    partitioner_would_take = _artifact(case).partition.partitioner_would_take
    case.metrics["leftover"] = len(partitioner_would_take)
    if partitioner_would_take:
        raise _violation(
            "partition-incomplete",
            f"{len(partitioner_would_take)} more: {_some(partitioner_would_take)}",
            "nothing left that the partitioner would take",
        )


@clause("LOW-3")
def test_partition_covers(case: Case) -> None:
    """No heavy operator is left out, and of the others exactly those that the baseline lists."""
    partition = _artifact(case).partition
    delegated = sum(partition.delegated.values())
    case.metrics["delegated_share"] = round(_share(delegated, len(partition.left)), 4)
    heavy = [each for each in partition.left if each.operator in _HEAVY]
    if heavy:
        raise _violation(
            f"heavy-operator-left-out:{heavy[0].operator}", _some(heavy), "every matrix product inside a delegate"
        )
    known = baseline(case.cell, environment.versions(), case.baselines)
    if known is not None:
        assert_as_listed(partition.left, delegated, known)


@clause("LOW-4")
def test_weights_live_once(case: Case) -> None:
    """A delegate owns the matrices that it multiplies by, and the program holds no constant twice."""
    artifact = _artifact(case)
    emission = artifact.emission
    case.metrics.update(constant_bytes=emission.constant_bytes, exported_constant_bytes=emission.exported_bytes)
    matrices = [name for name in artifact.partition.weights_as_inputs if multiplies_by(case.program, name)]
    if matrices:
        told = f"a delegate is given {_some(matrices)} at each call"
        raise _violation("weights-handed-in", told, "weights that the delegate owns")
    if emission.stored_twice:
        raise _violation(
            "stored-twice",
            f"{_some(emission.stored_twice)} more often in the program than in the exported one",
            "each constant once",
        )


@clause("LOW-5")
def test_kernels_exist(case: Case) -> None:
    """Known before loading: whatever is called has been registered with the runtime."""
    from executorch.runtime import Runtime

    operators = _artifact(case).emission.operators
    case.metrics["kernels"] = len(operators)
    missing = sorted(set(operators) - set(Runtime.get().operator_registry.operator_names))
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
    emission = _artifact(case).emission
    held = len(mutated_buffers(case.program))
    case.metrics["caches"] = len(emission.caches)
    buffers_owned_by_delegate = _artifact(case).partition.buffers_owned_by_delegate if case.backend.owns_state else ()
    for code, names, told in (
        ("cache-returned", emission.returned, "among the program's outputs"),
        ("cache-unplanned", emission.unplanned, "without a place in planned memory"),
        ("cache-copied", emission.copied, "copied as a whole by an update"),
    ):
        if names:
            raise _emission_violation(code, f"{_some(names)} {told}", "planned memory, updated in place")
    if len(emission.caches) + len(buffers_owned_by_delegate) < held:
        raise _emission_violation(
            "cache-lost", f"{len(emission.caches)} mutable buffers", f"{held}, as in the exported program"
        )


@clause("LOW-7")
def test_planned_memory_is_bounded(case: Case) -> None:
    """Caches, and little more than the activations that are alive at once."""
    emission = _artifact(case).emission
    activations = emission.planned_bytes - emission.cache_bytes
    alive = emission.alive_bytes - emission.cache_bytes
    case.metrics.update(
        planned_bytes=emission.planned_bytes, cache_bytes=emission.cache_bytes, alive_bytes=emission.alive_bytes
    )
    if activations > _ACTIVATIONS_BOUND * alive:
        raise _emission_violation(
            "memory-wasted",
            f"{activations} bytes for activations of which {alive} are alive at once",
            f"at most {_ACTIVATIONS_BOUND} times these",
        )


@clause("LOW-8")
def test_lowers_the_same_again(case: Case) -> None:
    """To the same bytes."""
    again = case.builder.repeated(case.cell.architecture, case.subject.name, case.mode, case.cell.backend)
    if again:
        raise _emission_violation("bytes-differ", again, "the same bytes as the first time")


@clause("LOW-9")
def test_passes_are_applied(case: Case) -> None:
    """Every operator, inside delegates and out, carries the mark that a user's pass left on it before partitioning."""
    nodes_missing_pass_mark = _artifact(case).partition.nodes_missing_pass_mark
    if nodes_missing_pass_mark:
        raise _violation(
            "pass-without-effect",
            f"no mark of it on {_some(nodes_missing_pass_mark)}",
            "the result of the pass in the program",
        )


@clause("LOW-10")
def test_partition_is_sound(case: Case) -> None:
    """A delegate holds nothing that its backend does not speak of, and no cache."""
    partition = _artifact(case).partition
    if partition.undeclared:
        raise _violation(
            f"undeclared-operator:{partition.undeclared[0]}",
            f"{_some(partition.undeclared)} inside a delegate",
            f"operators that {case.cell.backend} declares",
        )
    if case.backend.owns_state:
        return
    if partition.buffers_owned_by_delegate:
        raise _violation(
            "cache-in-delegate",
            f"{_some(partition.buffers_owned_by_delegate)} mutated inside a delegate",
            "cache updates outside",
        )
    if partition.written:
        operator = min(partition.written.values())
        raise _violation(
            f"cache-update-in-delegate:{operator}",
            f"{operator} inside a delegate, which gets {_some(partition.written)} and gives back another",
            "cache updates outside",
        )


def _artifact(case: Case) -> Artifact:
    return case.builder.artifact(case.cell.architecture, case.subject.name, case.mode, case.cell.backend)


def assert_as_listed(left: Sequence[LeftOut], delegated: int, known: Baseline) -> None:
    """What is left out against the baseline: more is worse, and less is news that has to be listed too.

    The latter only where the baseline was made with what is installed; a newer release may do better.
    """
    __tracebackhide__ = True
    share = _share(delegated, len(left))
    found, listed = Counter(each.operator for each in left), Counter(known.left)
    more = found - listed
    if more:
        names = [name for name in more if not listed[name]] or list(more)
        shown = [each for each in left if each.operator in more]
        raise _violation(
            f"left-out:{names[0]}",
            f"{_counted(more)} more than listed: {_some(shown)}",
            f"what {known.source} lists, {_counted(listed)}",
        )
    if round(share, 4) < round(known.share, 4):
        raise _violation(
            "lower-share", f"a share of {share:.2%} delegated", f"{known.share:.2%}, as {known.source} lists"
        )
    fewer = listed - found
    if known.exact and (fewer or round(share, 4) > round(known.share, 4)):
        raise _violation(
            "better-than-listed",
            f"{_counted(fewer) or 'nothing'} no longer left out, a share of {share:.2%} delegated",
            f"{known.share:.2%}, as {known.source} lists: run python -m conformance update-partitions on the record",
        )


def _share(delegated: int, left: int) -> float:
    return delegated / (delegated + left) if delegated + left else 1.0


def _counted(operators: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(operators.items()))


def _some(names: Iterable[object]) -> str:
    told = list(map(str, names))
    return ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")


def _violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.LOWER, code, observed=observed, expected=expected)


def _emission_violation(code: str, observed: str, expected: str) -> ClauseViolationError:
    return ClauseViolationError(Stage.EMIT, code, observed=observed, expected=expected)
