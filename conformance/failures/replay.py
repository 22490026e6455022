"""`conformance failure replay`: judge a bundle's cell again, with what is installed now.

A bundle may come from anyone. `announcement` describes what will run before it runs; an exporter that the bundle names
is code, and is imported only with the user's consent; and the model that the bundle describes is built within limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import StrEnum

import torch
from transformers import PreTrainedModel

from conformance.checks.case import Case
from conformance.checks.registry import checks
from conformance.core.cells import EAGER, EXPORTED, split_row
from conformance.core.exporter_names import is_own, is_own_backend
from conformance.core.text import one_line, sanitize
from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError, Stage, Verdict, at
from conformance.decoding.scripts import Call, DecodeScript
from conformance.exporters.resolve import UnknownExporterError, resolve
from conformance.failures.localize import locate
from conformance.failures.outcome import Outcome
from conformance.matrix.discovery import registered
from conformance.matrix.schema import load_matrix
from conformance.matrix.variations import LONGEST_CACHE
from conformance.models.fixtures import code_keys
from conformance.models.variations import Variation, built
from conformance.pipeline.backends import backend_called
from conformance.pipeline.builder import Builder
from conformance.pipeline.store import Store
from conformance.process.worker import IsolatedWorker, Limits, WorkerDiedError
from conformance.records.bundle import CONSENT, Bundle
from conformance.records.environment import versions

#: Characters of a sentence that may quote the bundle.
_SHOWN = 1000


class Result(StrEnum):
    """The result of a replay."""

    FIXED = "FIXED"
    STILL_FAILING = "STILL FAILING"
    CANNOT_RUN = "CANNOT RUN"


@dataclasses.dataclass(frozen=True, slots=True)
class Replay:
    """The result, and why."""

    result: Result
    message: str


def announcement(bundle: Bundle) -> str:
    """What a replay is going to run, and the versions that have changed since the bundle was written."""
    lines = [f"replaying {one_line(bundle.cell.id)}"]
    if bundle.subject:
        source = "part of the suite" if is_own(bundle.subject) else "not part of the suite"
        lines.append(f"  exporter  {one_line(bundle.subject)}, {source}")
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
        result = Result.STILL_FAILING if lost.verdict is Verdict.CRASH else Result.CANNOT_RUN
        return Replay(result, str(lost))
    finally:
        worker.close()
    return done


def replay(bundle: Bundle, store: Store | None, *, seconds: int | None = None, trusted: bool = False) -> Replay:
    """Judge the bundle's cell again: its config, its script if it has one, and the installed exporter and packages.

    Where it still fails, the message has where the program first goes wrong, as far as `seconds` of lowering go; with
    None, nothing is lowered for that. What is not part of the suite is imported only if `trusted`.
    """
    obstacle = next(_obstacles(bundle, trusted=trusted), None)
    if obstacle:
        return Replay(Result.CANNOT_RUN, one_line(obstacle, _SHOWN))
    matrix = load_matrix()
    row = matrix.row(bundle.architecture)
    case = Case(
        bundle.cell,
        Builder(build=lambda _: _build(bundle), store=store, without_cache=matrix.judged_without_cache(versions())),
        bundle.examples,
        caches=row.caches if row else None,
        only=script_of(bundle),
        overrides=matrix.overrides(bundle.architecture),
    )
    torch.set_num_threads(1)
    try:
        checks()[bundle.clause](case)
    except CellFailedError as error:
        outcome = Outcome(error, locate(case, error, seconds))
        message = "\n".join((str(error), *outcome.diverged))
        if error.signature != bundle.signature:
            message = f"another failure: expected {bundle.signature}, got {error.signature}\n  {message}"
        return Replay(Result.STILL_FAILING, sanitize(message))
    except (NotApplicableError, NotRunError) as error:
        return Replay(Result.CANNOT_RUN, str(error))
    except Exception as error:  # a fault of the suite, or an invalid script
        return Replay(Result.CANNOT_RUN, one_line(f"the check itself failed: {type(error).__name__}: {error}", _SHOWN))
    return Replay(Result.FIXED, f"{bundle.clause} passes")


def script_of(bundle: Bundle) -> DecodeScript | None:
    """The bundle's decode script."""
    if not bundle.calls:
        return None
    return DecodeScript(tuple(Call(call.position, call.tokens) for call in bundle.calls))


def _obstacles(bundle: Bundle, *, trusted: bool) -> Iterator[str]:
    """Why the bundle cannot be replayed here."""
    if bundle.clause not in checks():
        yield f"this suite has no check for {bundle.clause}"
    if split_row(bundle.architecture)[0] not in registered():
        yield f"the installed Transformers has no architecture {split_row(bundle.architecture)[0]}"
    if bundle.config is None:
        yield "the bundle has no config"
    for key in code_keys(bundle.config or {}):
        yield f"its config has the key {key!r}, by which a model can load code"
    if ":" in bundle.backend and not is_own_backend(bundle.backend) and not trusted:
        yield f"{bundle.backend} is not part of the suite and was not imported. If you trust it, add {CONSENT}"
    elif bundle.backend not in (EAGER, EXPORTED):
        try:
            backend_called(bundle.backend)
        except ValueError as error:
            yield str(error)
    length = bundle.max_cache_len
    if length > LONGEST_CACHE:
        yield f"it was found with {length} cache positions; this suite has {LONGEST_CACHE} at most"
    if bundle.calls and max(call.position + len(call.tokens) for call in bundle.calls) > length:
        yield f"its script goes beyond the {length} cache positions"
    if bundle.subject and ":" in bundle.subject and not is_own(bundle.subject) and not trusted:
        yield f"{bundle.subject} is not part of the suite and was not imported. If you trust it, add {CONSENT}"
    elif bundle.subject:
        try:
            resolve(bundle.subject)
        except UnknownExporterError as error:
            yield str(error)


def _build(bundle: Bundle) -> PreTrainedModel:
    with at(Stage.BUILD):
        values = {**(bundle.config or {}), "model_type": split_row(bundle.architecture)[0]}
        return built(values, Variation(max_cache_len=bundle.max_cache_len, settings=bundle.settings))
