"""`python -m conformance replay`: judge a bundle's cell again, with what is installed now.

A bundle may come from a stranger. It is said what will run before it runs; an exporter that the bundle names is code,
and is imported only where the user said so; and the model that the bundle describes is built within limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import StrEnum

import torch
from transformers import AutoConfig, PreTrainedModel

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.exporter_names import is_own
from conformance.core.text import one_line, sanitize
from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError, Stage, Verdict, at
from conformance.decoding.scripts import Call, DecodeScript
from conformance.exporters.resolve import UnknownExporterError, resolve
from conformance.failures.localize import locate
from conformance.matrix.discovery import registered
from conformance.matrix.schema import load_matrix
from conformance.models.fixtures import MAX_CACHE_LEN, build_model, code_keys
from conformance.pipeline.backends import BACKENDS
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from conformance.process.worker import IsolatedWorker, Limits, WorkerDiedError
from conformance.records.bundle import CONSENT, Bundle
from conformance.records.environment import versions

#: Characters of a sentence that may quote the bundle.
_SHOWN = 1000


class Outcome(StrEnum):
    """What a replay comes to."""

    FIXED = "FIXED"
    STILL_FAILING = "STILL FAILING"
    CANNOT_RUN = "CANNOT RUN"


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """What came of it, and why."""

    outcome: Outcome
    told: str


def announcement(bundle: Bundle) -> str:
    """What a replay is going to do, and what has changed since the bundle was written."""
    lines = [f"replaying {one_line(bundle.cell.id)}"]
    if bundle.subject:
        whose = "known here" if is_own(bundle.subject) else "code that is imported from here"
        lines.append(f"  exporter  {one_line(bundle.subject)}, {whose}")
    if bundle.calls:
        lines.append(f"  script    {one_line(str(script_of(bundle)))}")
    now = versions()
    changed = [
        f"{name} {was} → {now.get(name, 'none')}" for name, was in bundle.versions.items() if now.get(name) != was
    ]
    lines.append(f"  versions  {one_line(', '.join(changed)) or 'as they were'}")
    return "\n".join(lines)


def replay_within(
    limits: Limits, bundle: Bundle, store: Store | None, *, seconds: int | None = None, trusted: bool = False
) -> Replay:
    """As `replay`, in a process of its own: what the bundle asks for may take any time and memory, or crash."""
    worker = IsolatedWorker(lambda _: replay(bundle, store, seconds=seconds, trusted=trusted), limits)
    try:
        done: Replay = worker.run(bundle.architecture, "replay", None)
    except WorkerDiedError as lost:
        outcome = Outcome.STILL_FAILING if lost.verdict is Verdict.CRASH else Outcome.CANNOT_RUN
        return Replay(outcome, str(lost))
    finally:
        worker.close()
    return done


def replay(bundle: Bundle, store: Store | None, *, seconds: int | None = None, trusted: bool = False) -> Replay:
    """Judge the bundle's cell again: its config, its script where it has one, the exporter and packages of today.

    Where it still fails, it is said where the program first goes wrong, as far as `seconds` of lowering go: none at
    all, if not given. An exporter that is not the suite's or Transformers' is imported only if `trusted`.
    """
    obstacle = next(_obstacles(bundle, trusted=trusted), None)
    if obstacle:
        return Replay(Outcome.CANNOT_RUN, one_line(obstacle, _SHOWN))
    row = load_matrix().architectures.get(bundle.architecture)
    case = Case(
        bundle.cell,
        Builder(build=lambda _: _build(bundle), store=store),
        bundle.examples,
        caches=row.caches if row else None,
        only=script_of(bundle),
    )
    torch.set_num_threads(1)
    try:
        checks()[bundle.clause](case)
    except CellFailedError as error:
        locate(case, error, seconds)
        told = "\n".join((str(error), *getattr(error, "diverged", ())))
        if error.signature != bundle.signature:
            told = f"otherwise: {error.signature}, was {bundle.signature}\n  {told}"
        return Replay(Outcome.STILL_FAILING, sanitize(told))
    except (NotApplicableError, NotRunError) as error:
        return Replay(Outcome.CANNOT_RUN, str(error))
    except Exception as error:  # the suite's own, or of a script that is none
        return Replay(Outcome.CANNOT_RUN, one_line(f"judging it failed: {type(error).__name__}: {error}", _SHOWN))
    return Replay(Outcome.FIXED, f"{bundle.clause} passes")


def script_of(bundle: Bundle) -> DecodeScript | None:
    """The bundle's decode script."""
    if not bundle.calls:
        return None
    return DecodeScript(tuple(Call(call.position, call.tokens) for call in bundle.calls))


def _obstacles(bundle: Bundle, *, trusted: bool) -> Iterator[str]:
    """Why the bundle cannot be replayed here."""
    if bundle.clause not in checks():
        yield f"this suite has no check for {bundle.clause}"
    if bundle.architecture not in registered():
        yield f"the installed Transformers has no architecture {bundle.architecture}"
    if bundle.config is None:
        yield "the bundle holds no config"
    for key in code_keys(bundle.config or {}):
        yield f"its config has the key {key!r}, by which a model can load code"
    if bundle.backend not in (*BACKENDS, "eager", "exported"):
        yield f"there is no backend {bundle.backend!r}"
    if bundle.max_cache_len != MAX_CACHE_LEN:
        yield f"it was found with {bundle.max_cache_len} cache positions; this suite has {MAX_CACHE_LEN}"
    if bundle.calls and max(call.position + len(call.tokens) for call in bundle.calls) > MAX_CACHE_LEN:
        yield f"its script goes beyond the {MAX_CACHE_LEN} cache positions"
    if bundle.subject and ":" in bundle.subject and not is_own(bundle.subject) and not trusted:
        yield f"its exporter {bundle.subject} is code, and is not imported; if you trust it, add {CONSENT}"
    elif bundle.subject:
        try:
            resolve(bundle.subject)
        except UnknownExporterError as error:
            yield str(error)


def _build(bundle: Bundle) -> PreTrainedModel:
    with at(Stage.BUILD):
        values = {**(bundle.config or {}), "model_type": bundle.architecture}
        return build_model(AutoConfig.for_model(**values))
