"""`conformance explore`: search variations of configs, and keep what was found."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import click

from conformance.cli.params import FILE, MINUTES, Name, import_from_here
from conformance.core.commands import command
from conformance.core.console import Group, examples
from conformance.core.contract import CHECKED, Mode
from conformance.core.errors import InputError
from conformance.core.exporter_names import REFERENCE, canonical, is_own
from conformance.core.warnings_filter import silence_third_party

_NEEDS = ("torch", "transformers", "executorch", "hypothesis")


@click.group("explore", cls=Group)
def explore() -> None:
    """Search variations of configs for failures, and pin them.

    Published models have configs that no fixture has: one key-value head, a window longer than the cache, another
    rotary embedding.
    """


@explore.command(
    "run",
    needs=_NEEDS,
    epilog=examples(
        "conformance explore run llama,gemma3_text --minutes 10",
        "conformance explore run llama --backend xnnpack --mode dynamic --seed 7",
    ),
)
@click.argument("architectures", type=Name("ARCHITECTURES", several=True), metavar="MODEL_TYPES")
@click.option("--minutes", type=MINUTES, default=5.0, metavar="N", help="for all of them; default: 5")
@click.option(
    "--backend",
    type=Name("RUNNABLE"),
    default="exported",
    metavar="NAME",
    help="default: exported, which lowers nothing",
)
@click.option(
    "--exporter",
    type=Name("EXPORTERS"),
    default=REFERENCE,
    metavar="NAME",
    help="default: reference; formerly --subject",
)
@click.option(
    "--mode", type=Name("MODES", several=True), default="decode,dynamic", metavar="NAMES", help="default: both"
)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", help="try the variations of another search; default: new ones"
)
def run(
    architectures: list[str], minutes: float, backend: str, exporter: str, mode: list[str], seed: int | None
) -> int:
    """Look for variations of configs that fail.

    Hypothesis varies the configs of architectures, which are comma-separated. Each finding has the fewest changes that
    show it, and is written to build/conformance/findings. The exit code is 1 if there is one.
    """
    from conformance.pipeline.backends import BACKENDS

    lowering = BACKENDS.get(backend)
    if lowering is not None and lowering.obstacle:
        raise InputError("missing-package", lowering.obstacle)
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"exploring {', '.join(architectures)} for {minutes:g} minutes, --seed {seed}")
    sys.stdout.flush()
    import_from_here()
    silence_third_party()

    import torch

    from conformance.explore.search import Question, explore
    from conformance.exporters.resolve import resolve
    from conformance.pipeline.warmup import warm_up_export, warm_up_lowering, warm_up_runtime

    torch.set_num_threads(1)
    subject = resolve(canonical(exporter))
    question = Question(subject.name, backend, [Mode(name) for name in mode], seed)
    warm_up_export()
    if lowering:
        warm_up_runtime()
        warm_up_lowering([lowering])
    found = 0
    for result in explore(architectures, question, subject, minutes * 60):
        print(result, flush=True)
        found += len(result.findings)
    if found:
        print(f"{found} found: read them, then keep them with  {command('explore', 'pin')} FINDING.json")
    return 1 if found else 0


@explore.command(
    "pin",
    checkout=True,
    needs=_NEEDS,
    epilog=examples("conformance explore pin build/conformance/findings/llama-1.json"),
)
@click.argument("findings", nargs=-1, required=True, type=FILE, metavar="FINDING.json...")
@click.option(
    "--allow-import",
    is_flag=True,
    help="import the exporter that a finding names as package.module:callable; formerly --trust-subject",
)
def pin(findings: tuple[Path, ...], allow_import: bool) -> None:
    """Judge findings again, and add them to fixtures/pins.

    A pinned failure is expected from then on: fill in its reason and link. A pinned pass must keep passing.
    """
    silence_third_party()
    from conformance.core.cells import EXPORTED
    from conformance.core.suggest import unknown, unknown_architecture
    from conformance.explore.findings import pinned, read_finding, read_pins, write_pins
    from conformance.matrix.discovery import registered
    from conformance.pipeline.backends import BACKENDS
    from conformance.records.bundle import CONSENT

    read = [read_finding(path) for path in findings]
    for finding in read:
        if finding.architecture not in registered():
            raise InputError("unknown-name", unknown_architecture(finding.architecture, registered()))
        for kind, name, known in (
            ("backend", finding.backend, [EXPORTED, *BACKENDS]),
            ("checked clause", finding.clause, [clause.id for clause in CHECKED]),
        ):
            if name not in known:
                raise InputError("unknown-name", unknown(kind, name, known))
        if not is_own(finding.subject) and not allow_import:
            raise InputError(
                "import-not-allowed",
                f"{finding.subject} is not part of the suite and was not imported. If you trust it, add {CONSENT}",
            )
    import_from_here()
    from conformance.explore.search import Isolated
    from conformance.exporters.resolve import resolve

    subjects = dict.fromkeys(finding.subject for finding in read)
    judge = Isolated([resolve(name) for name in subjects])
    try:
        judgements = [judge(finding.architecture, finding.variation, finding.cell) for finding in read]
    finally:
        judge.close()
    for finding, judgement in zip(read, judgements, strict=True):
        name, signature = finding.architecture, judgement.signature
        if judgement.discarded:
            raise InputError("not-a-candidate", f"cannot pin {name} with {finding.variation}: {judgement.discarded}")
        path = write_pins(name, pinned(read_pins(name), finding, signature or None))
        result = f"fails as {signature}: fill in its reason and link" if signature else "must pass"
        print(f"{path}: {finding.clause} with {finding.variation} {result}")
