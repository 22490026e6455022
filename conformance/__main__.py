"""`python -m conformance`: look at what is installed, add an architecture, explore, print what is generated."""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from conformance.cli.model import add_commands
from conformance.core.text import one_line
from conformance.core.warnings_filter import silence_third_party
from conformance.records.bundle import CONSENT
from conformance.records.run import load_run

#: Somebody waits for it, and large models lower for minutes.
_LOCATE_S = 900


def main(argv: Sequence[str] | None = None) -> int:
    """Do one command; the exit code is 0, or 1 with a sentence on stderr. For `replay` and `locate`, see there."""
    parser = argparse.ArgumentParser(prog="python -m conformance")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("contract", help="print docs/contract.md").set_defaults(do=_contract)
    commands.add_parser("backends", help="print docs/backends.md").set_defaults(do=_backends)
    commands.add_parser("schema", help="print conformance/records/run.schema.json").set_defaults(do=_schema)
    status = commands.add_parser("status", help="print docs/status.md from run records")
    status.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")
    status.set_defaults(do=_status)
    grid = commands.add_parser(
        "compatibility", help="print docs/compatibility.md from run records with different versions"
    )
    grid.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")
    grid.set_defaults(do=_compatibility)
    update = commands.add_parser(
        "update-expectations", help="rewrite what models_matrix.yaml expects, from a run record"
    )
    update.add_argument("run", type=Path, metavar="RUN.json")
    update.set_defaults(do=_update)
    listed = commands.add_parser(
        "update-partitions", help="rewrite what backends are known to leave to portable kernels, from a run record"
    )
    listed.add_argument("run", type=Path, metavar="RUN.json")
    listed.set_defaults(do=_update_partitions)
    doctor = commands.add_parser("doctor", help="what is installed, what goes with what, and what is wrong")
    doctor.set_defaults(do=_doctor)
    timed = commands.add_parser(
        "update-durations", help="note how long each architecture took in a run, which --shard goes by"
    )
    timed.add_argument("run", type=Path, metavar="RUN.json")
    timed.set_defaults(do=_update_durations)
    new = commands.add_parser("new-architecture", help="write a fixture and a row for an architecture")
    new.add_argument("architecture", metavar="MODEL_TYPE")
    new.add_argument("--force", action="store_true", help="show what would be written, also where a row exists")
    new.set_defaults(do=_new)
    inspect = commands.add_parser("partition", help="what a backend took of a program, what it left, why, where from")
    inspect.add_argument("architecture", metavar="MODEL_TYPE")
    inspect.add_argument("--backend", default="xnnpack", metavar="NAME", help="default: xnnpack")
    inspect.add_argument("--mode", default="decode", metavar="NAME", help="decode or dynamic; default: decode")
    inspect.add_argument("--subject", default="reference", metavar="NAME", help="default: reference")
    inspect.set_defaults(do=_partition)
    search = commands.add_parser(
        "explore", help="let Hypothesis vary the configs of architectures, and look for variations that fail"
    )
    search.add_argument("architectures", metavar="MODEL_TYPES", help="separated by commas")
    search.add_argument("--minutes", type=_minutes, default=5.0, metavar="N", help="for all of them; default: 5")
    search.add_argument("--backend", default="exported", metavar="NAME", help="default: exported, which lowers nothing")
    search.add_argument("--subject", default="reference", metavar="NAME", help="default: reference")
    search.add_argument("--mode", default="decode,dynamic", metavar="NAMES", help="default: decode,dynamic")
    search.add_argument("--seed", type=int, metavar="N", help="try the variations of another search; default: new ones")
    search.set_defaults(do=_explore)
    pin = commands.add_parser("pin", help="judge findings of explore again, and add them to fixtures/variations")
    pin.add_argument("findings", nargs="+", type=Path, metavar="FINDING.json")
    _trust(pin)
    pin.set_defaults(do=_pin)
    again = commands.add_parser("replay", help="judge a failure bundle's cell again: FIXED, STILL FAILING, CANNOT RUN")
    again.add_argument("bundle", type=Path, metavar="BUNDLE")
    _trust(again)
    again.set_defaults(do=_replay)
    further = commands.add_parser("locate", help="replay, and say which step and which operator first go wrong")
    further.add_argument("bundle", type=Path, metavar="BUNDLE")
    _trust(further)
    further.set_defaults(do=_locate)
    add_commands(commands)
    arguments = parser.parse_args(argv)
    # What a bundle or a find names is never fetched. Read when Transformers is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    do: Callable[[argparse.Namespace], int | None] = arguments.do
    try:
        return do(arguments) or 0
    except (ValueError, OSError) as error:
        # Names and values in it may come from a record.
        print(f"error: {one_line(str(error), max_chars=1000)}", file=sys.stderr)
        return 1


def _trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        CONSENT,
        action="store_true",
        help="import the exporter that the file names as package.module:callable",
    )


def _contract(_: argparse.Namespace) -> None:
    from conformance.core.contract import contract_page

    print(contract_page(), end="")


def _backends(_: argparse.Namespace) -> None:
    from conformance.cli.backends_page import backends_page

    print(backends_page(), end="")


def _schema(_: argparse.Namespace) -> None:
    from conformance.records.run import schema_text

    print(schema_text(), end="")


def _status(arguments: argparse.Namespace) -> None:
    from report.status_page import status_page

    print(status_page([load_run(path) for path in arguments.runs]), end="")


def _compatibility(arguments: argparse.Namespace) -> None:
    from report.versions_page import compatibility_page

    print(compatibility_page([load_run(path) for path in arguments.runs]), end="")


def _update(arguments: argparse.Namespace) -> None:
    from conformance.matrix.schema import load_matrix, write_matrix
    from conformance.matrix.update import updated_matrix

    update = updated_matrix(load_matrix(drafted=True), load_run(arguments.run))
    write_matrix(update.matrix)
    print("\n".join(update.changes) or "nothing to change")


def _update_partitions(arguments: argparse.Namespace) -> None:
    from conformance.matrix.delegation import updated

    print("\n".join(updated(load_run(arguments.run))) or "nothing to change")


def _doctor(_: argparse.Namespace) -> int:
    from conformance.cli.doctor import diagnose, show

    diagnosis = diagnose()
    show(diagnosis)
    return 1 if diagnosis.problems else 0


def _update_durations(arguments: argparse.Namespace) -> None:
    from conformance.matrix.sharding import updated_durations

    print("\n".join(updated_durations(load_run(arguments.run))) or "nothing to change")


def _new(arguments: argparse.Namespace) -> None:
    from conformance.cli.add_architecture import add, draft
    from conformance.matrix.schema import load_matrix

    matrix = load_matrix(drafted=True)  # of several newcomers, an earlier one's reason may be still to be found
    made = draft(arguments.architecture) if arguments.force else add(arguments.architecture, matrix)
    print("\n".join(made.tried))
    fixture = f"fixtures/configs/{arguments.architecture}.json"
    if arguments.force:
        print(f"\n{fixture} would be:\n{made.fixture}\nthe row in models_matrix.yaml would be:\n{made.text}", end="")
    else:
        print(
            f"wrote {fixture} and a row in models_matrix.yaml: read both, then run\n  tox -e conformance -- --arch "
            f"{arguments.architecture}"
        )


def _partition(arguments: argparse.Namespace) -> int:
    """Exit code 1 where the program cannot be had, with the failure."""
    from conformance.core.cells import Program
    from conformance.core.contract import Mode
    from conformance.core.exporter_names import canonical
    from conformance.core.suggest import unknown
    from conformance.matrix.discovery import registered
    from conformance.pipeline.backends import BACKENDS

    named = {
        "architecture": (arguments.architecture, registered()),
        "backend": (arguments.backend, BACKENDS),
        "mode": (arguments.mode, list(Mode)),
    }
    for kind, (name, known) in named.items():
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    print(f"lowering {arguments.architecture}, unless the store has it", file=sys.stderr, flush=True)
    from conformance.cli.partition import partition_page, show
    from conformance.core.paths import ROOT
    from conformance.core.verdicts import CellFailedError, NotApplicableError, NotRunError
    from conformance.pipeline.builder import Builder
    from conformance.pipeline.store import Store
    from conformance.runner.options import DEFAULT_STORE, DEFAULT_STORE_LIMIT_MIB

    program = Program(arguments.architecture, canonical(arguments.subject), Mode(arguments.mode), arguments.backend)
    builder = Builder(store=Store(ROOT / DEFAULT_STORE, DEFAULT_STORE_LIMIT_MIB))
    try:
        artifact = builder.program(program).artifact
    except CellFailedError as error:
        raise ValueError(f"it fails at stage {error.stage}: {error}") from error
    except (NotApplicableError, NotRunError) as error:
        raise ValueError(str(error)) from error
    show(partition_page(program, artifact))
    return 0


def _explore(arguments: argparse.Namespace) -> int:
    """Exit code 1 where something was found."""
    from conformance.core.cells import EXPORTED
    from conformance.core.contract import Mode
    from conformance.core.exporter_names import canonical
    from conformance.core.suggest import unknown
    from conformance.matrix.discovery import registered
    from conformance.pipeline.backends import BACKENDS
    from conformance.runner.options import split_names

    running = [name for name, backend in BACKENDS.items() if backend.traits.runs]
    architectures, modes = split_names(arguments.architectures), split_names(arguments.mode)
    for kind, given, known in (
        ("architecture", architectures, registered()),
        ("mode", modes, list(Mode)),
        ("backend that runs here", [arguments.backend], [EXPORTED, *running]),
    ):
        if not given:
            raise ValueError(f"no {kind} given; known: {', '.join(sorted(known))}")
        for name in given:
            if name not in known:
                raise ValueError(unknown(kind, name, known))
    backend = BACKENDS.get(arguments.backend)
    if backend is not None and backend.obstacle:
        raise ValueError(backend.obstacle)
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"exploring {', '.join(architectures)} for {arguments.minutes:g} minutes, --seed {seed}", flush=True)

    import torch

    from conformance.explore.search import Question, explore
    from conformance.exporters.resolve import resolve
    from conformance.pipeline.warmup import warm_up

    silence_third_party()
    torch.set_num_threads(1)
    subject = resolve(canonical(arguments.subject))
    question = Question(subject.name, arguments.backend, [Mode(name) for name in modes], seed)
    warm_up([backend] if backend else [])
    found = 0
    for result in explore(architectures, question, subject, arguments.minutes * 60):
        print(result, flush=True)
        found += len(result.findings)
    if found:
        print(f"{found} found: read them, then keep them with  python -m conformance pin FINDING.json")
    return 1 if found else 0


def _pin(arguments: argparse.Namespace) -> None:
    from conformance.core.cells import EXPORTED
    from conformance.core.contract import CHECKED
    from conformance.core.exporter_names import is_own
    from conformance.core.suggest import unknown
    from conformance.explore.findings import pinned, read_finding, read_pins, write_pins
    from conformance.matrix.discovery import registered
    from conformance.pipeline.backends import BACKENDS

    findings = [read_finding(path) for path in arguments.findings]
    for finding in findings:
        for kind, name, known in (
            ("architecture", finding.architecture, registered()),
            ("backend", finding.backend, [EXPORTED, *BACKENDS]),
            ("checked clause", finding.clause, [clause.id for clause in CHECKED]),
        ):
            if name not in known:
                raise ValueError(unknown(kind, name, known))
        if not is_own(finding.subject) and not arguments.trust_subject:
            raise ValueError(f"its exporter {finding.subject} is code; if you trust it, add {CONSENT}")
    from conformance.explore.search import Isolated
    from conformance.exporters.resolve import resolve

    subjects = dict.fromkeys(finding.subject for finding in findings)
    judge = Isolated([resolve(name) for name in subjects])
    try:
        judgements = [judge(finding.architecture, finding.variation, finding.cell) for finding in findings]
    finally:
        judge.close()
    for finding, judgement in zip(findings, judgements, strict=True):
        name, signature = finding.architecture, judgement.signature
        if judgement.discarded:
            raise ValueError(f"{name} with {finding.variation} is not a candidate here: {judgement.discarded}")
        path = write_pins(name, pinned(read_pins(name), finding, signature or None))
        result = f"fails as {signature}: fill in its reason and link" if signature else "has to pass"
        print(f"{path}: {finding.clause} with {finding.variation} {result}")


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return minutes


def _locate(arguments: argparse.Namespace) -> int:
    """As `replay`, with the lowering that it takes to look further."""
    return _replay(arguments, seconds=_LOCATE_S)


def _replay(arguments: argparse.Namespace, seconds: int | None = None) -> int:
    """Exit code 0 for FIXED, 1 for STILL FAILING, 2 for CANNOT RUN."""
    from conformance.process.worker import Limits
    from conformance.records.bundle import BundleError, read_bundle

    try:
        bundle = read_bundle(arguments.bundle)
    except BundleError as error:
        print(f"CANNOT RUN: {one_line(str(error), max_chars=1000)}")
        return 2
    from conformance.core.paths import ROOT
    from conformance.failures.replay import Result, announcement, replay_within
    from conformance.pipeline.store import Store
    from conformance.runner.options import (
        DEFAULT_MEMORY_LIMIT_MIB,
        DEFAULT_STORE,
        DEFAULT_STORE_LIMIT_MIB,
        DEFAULT_TIME_LIMIT_S,
    )

    silence_third_party()
    print(announcement(bundle), flush=True)
    limits = Limits(DEFAULT_TIME_LIMIT_S + (seconds or 0), DEFAULT_MEMORY_LIMIT_MIB)
    store = Store(ROOT / DEFAULT_STORE, DEFAULT_STORE_LIMIT_MIB)
    done = replay_within(limits, bundle, store, seconds=seconds, trusted=arguments.trust_subject)
    print(f"{done.result}: {done.message}")
    return {Result.FIXED: 0, Result.STILL_FAILING: 1, Result.CANNOT_RUN: 2}[done.result]


if __name__ == "__main__":
    sys.exit(main())
