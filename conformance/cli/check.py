"""May this model be shipped? One screen, from the record of a run on it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from conformance.cli.quantised import cost_lines, quantised_lines
from conformance.core.cells import EAGER, EXPORTED
from conformance.core.contract import CLAUSES, Chapter
from conformance.core.text import plural
from conformance.core.verdicts import ACCEPTABLE, Verdict
from conformance.decoding.reading import has_tokenizer
from conformance.models.checkpoints import Checkpoint
from conformance.records.run import CellRecord, PartitionRecord, RunRecord
from conformance.runner.options import NOT_OF_CHECKPOINTS, NOT_OF_FILES

_MIB = 1 << 20
_VERSIONS = ("torch", "transformers", "executorch")
_TEXTS = {clause.id: clause.text for clause in CLAUSES}
#: Characters of an explanation that are shown; the record has all of it.
_SHOWN = 400


class Answer(StrEnum):
    """May it be shipped?"""

    YES = "yes"
    NO = "no"
    NOT_KNOWN = "not known"


def answer(run: RunRecord) -> Answer:
    """No, if anything failed; yes, if nothing did, everything was judged, and the program was run on the backend."""
    bad = {cell.verdict for cell in run.cells} - ACCEPTABLE
    if bad - {Verdict.NOT_RUN}:
        return Answer.NO
    return Answer.YES if run.run.complete and not bad and not list(_unknown(run)) else Answer.NOT_KNOWN


def _unknown(run: RunRecord) -> Iterator[str]:
    """Why the cells that were judged do not suffice for a yes."""
    asked = run.run.options
    if asked.get("clause"):
        yield f"Only {asked['clause']} was asked for. Without --clause, everything about the model is judged."
    elif not any(_is_about_decoding(cell) and cell.backend == asked.get("backend") for cell in run.cells):
        yield (
            f"The program was compiled only: it does not run on {asked.get('backend')} here. Run it on the device: "
            "docs/guides/devices.md."
        )


def _is_about_decoding(cell: CellRecord) -> bool:
    """Whether it shows that the program decodes, or would have if it had been reached."""
    return Chapter[cell.clause.partition("-")[0]] is Chapter.PAR and cell.verdict in (Verdict.PASS, Verdict.NOT_RUN)


def screen(run: RunRecord, checkpoint: Checkpoint) -> str:
    """The answer, its program, the evidence for and against it, and what was not checked."""
    bad = [cell for cell in run.cells if cell.verdict not in ACCEPTABLE]
    asked = run.run.options
    versions = ", ".join(
        f"{name} {run.environment.packages[name]}" for name in _VERSIONS if name in run.environment.packages
    )
    lines = [
        f"May {_subject(asked, checkpoint)} be shipped on {asked.get('backend')}? {answer(run).capitalize()}.",
        "",
        f"  {checkpoint.model_type}; {', '.join(_about(asked, checkpoint))}",
        f"  {versions}",
        "",
        *(f"  {line}" for line in _chapters(run.cells)),
        *(f"  {line}" for line in _programs(run.cells)),
        *(f"  note: {note}" for note in dict.fromkeys(note for cell in run.cells for note in cell.notes or ())),
        *(f"  {line}" for line in _quantised(run.cells)),
        *(f"  ? {line}" for line in _unknown(run) if answer(run) is Answer.NOT_KNOWN),
    ]
    for alike in _alike(bad):
        lines += ["", *_explained(alike)]
    for cell in run.cells:
        if cell.verdict is Verdict.EXPECTED_FAILURE and cell.expected:
            link = f" ({cell.expected.link})" if cell.expected.link else ""
            lines += ["", f"≈ {cell.clause}, known of {cell.backend}: {cell.expected.reason}{link}", *_told(cell)]
    return "\n".join([*lines, "", *_left_out(run, checkpoint)])


def _subject(asked: Mapping[str, object], checkpoint: Checkpoint) -> str:
    program = asked.get("program")
    return f"{program}, of {checkpoint.name}," if program else checkpoint.name


def _about(asked: Mapping[str, object], checkpoint: Checkpoint) -> Iterator[str]:
    """The program that the answer is about."""
    yield f"mode {asked.get('mode')}"
    yield f"a cache of {checkpoint.max_cache_len} tokens"
    if asked.get("prompt-chunk"):
        yield f"at most {asked['prompt-chunk']} tokens a call"
    if asked.get("batch-size"):
        yield f"{asked['batch-size']} rows a call"
    if asked.get("logits"):
        yield f"logits of {asked['logits']} tokens" if asked["logits"] == "all" else "logits of the last token"
    if asked.get("attention"):
        yield f"{asked['attention']} attention"
    yield _dtype(checkpoint)


def _dtype(checkpoint: Checkpoint) -> str:
    if checkpoint.dtype in ("auto", checkpoint.saved_dtype):
        return checkpoint.saved_dtype
    return f"{checkpoint.dtype} (saved as {checkpoint.saved_dtype})"


def _chapters(cells: Iterable[CellRecord]) -> Iterator[str]:
    """A line for each chapter and kind of program."""
    groups: dict[tuple[str, str], list[CellRecord]] = {}
    for cell in cells:
        chapter = Chapter[cell.clause.partition("-")[0]]
        groups.setdefault((chapter.value, cell.backend), []).append(cell)
    for (title, backend), group in groups.items():
        passed = sum(cell.verdict is Verdict.PASS for cell in group)
        known = sum(cell.verdict is Verdict.EXPECTED_FAILURE for cell in group)
        bad = [cell.clause for cell in group if cell.verdict not in ACCEPTABLE]
        where = {EAGER: "the model itself", EXPORTED: "the exported program"}.get(backend, f"the program on {backend}")
        asked = sum(cell.verdict is not Verdict.NOT_APPLICABLE for cell in group)
        if not asked:  # no line for a tokenizer if there is none
            continue
        parts = [f"{passed} of {asked} {'clause holds' if asked == 1 else 'clauses hold'}"]
        parts += [plural(known, "known failure")] if known else []
        parts += [f"not {', '.join(dict.fromkeys(bad))}"] if bad else []
        parts += list(_numbers(group))
        yield f"{'✗' if bad else '≈' if known else '✓'} {title}, {where}: {'; '.join(parts)}"


def _numbers(cells: Sequence[CellRecord]) -> Iterator[str]:
    metrics = [cell.metrics or {} for cell in cells]
    errors = [each["max_relative_error"] for each in metrics if "max_relative_error" in each]
    if errors:
        bound = max(each.get("tolerance", 0.0) for each in metrics)
        yield f"logits off by {max(errors):.1e} of their scale at most, {bound:.0e} allowed"
    noise = [each["sqnr_db"] for each in metrics if "sqnr_db" in each]
    if noise:
        least = min(each["least_sqnr_db"] for each in metrics if "least_sqnr_db" in each)
        yield f"at least {min(noise):.0f} dB of signal over noise, {least:.0f} dB allowed"
    answers = sum(int(each.get("answers", 0)) for each in metrics)
    if answers:
        yield f"{answers} answers of the LLM runner"
    for each in metrics:
        if each.get("num_bos"):
            yield f"an app has to set num_bos={each['num_bos']:.0f}"
        if "tokenizer_ids" in each and each["tokenizer_ids"] != each["logits"]:
            yield f"{each['tokenizer_ids']:.0f} ids in the tokenizer, {each['logits']:.0f} logits"
    effects = [value for each in metrics for name, value in each.items() if name.startswith("effect_")]
    if effects:
        yield f"the smallest planted fault moves the logits by {min(effects):.0f} × the tolerance"


def _programs(cells: Iterable[CellRecord]) -> Iterator[str]:
    for cell in cells:
        if cell.partition is not None:
            yield f"  mode {cell.mode}: {_program(cell.partition)}"


def _program(made: PartitionRecord) -> str:
    delegated, left = sum(made.delegated.values()), sum(made.undelegated.values())
    share = f"{100 * delegated / (delegated + left):.0f} % of operators delegated" if delegated else "nothing delegated"
    return (
        f"{made.program_bytes / _MIB:.1f} MiB, {made.planned_bytes / _MIB:.1f} MiB of planned memory, {share}, lowered "
        f"in {made.lower_s:.0f} s"
    )


def _quantised(cells: Sequence[CellRecord]) -> Iterator[str]:
    """What LOW-11 has measured, each line once for both modes."""
    constants = {cell.mode: cell.partition.constant_bytes for cell in cells if cell.partition is not None}
    lines: dict[str, None] = {}
    for cell in cells:
        if cell.quantisation is not None:
            lines |= dict.fromkeys(quantised_lines(cell.quantisation, constants.get(cell.mode)))
            lines |= dict.fromkeys(cost_lines(cell.metrics or {}))
    yield from (f"  {line}" for line in lines)


def _alike(cells: Iterable[CellRecord]) -> list[list[CellRecord]]:
    """Cells that end alike, such as all that need a model which does not load."""
    groups: dict[tuple[object, ...], list[CellRecord]] = {}
    for cell in cells:
        seen = [line for line in (cell.message or "").splitlines() if line.split()[:1] == ["observed"]]
        groups.setdefault((cell.verdict, cell.signature, *seen) if seen else (cell.id,), []).append(cell)
    return list(groups.values())


def _explained(cells: Sequence[CellRecord]) -> Iterator[str]:
    cell, *others = cells
    yield f"✗ {cell.clause} ({cell.verdict}): {_TEXTS[cell.clause]}"
    if others:
        yield f"  likewise  {', '.join(dict.fromkeys(other.clause for other in others))}"
    yield from _told(cell)
    yield f"  again     {cell.replay}"


def _told(cell: CellRecord) -> Iterator[str]:
    """The lines of a message that say what went wrong."""
    for line in (cell.message or "").splitlines():
        name = line.split()[0] if line.split() else ""
        if name in ("observed", "expected", "script") or cell.verdict not in (Verdict.FAIL, Verdict.EXPECTED_FAILURE):
            yield f"  {line.strip()[:_SHOWN]}{'…' if len(line.strip()) > _SHOWN else ''}"


def _left_out(run: RunRecord, checkpoint: Checkpoint) -> Iterator[str]:
    """What this answer does not cover."""
    judged = {cell.clause for cell in run.cells}
    never = [clause for clause in NOT_OF_CHECKPOINTS if clause not in judged]
    if run.run.options.get("program"):
        ways = [clause for clause in NOT_OF_FILES if clause not in (*judged, *never)]
        yield f"Not checked, because they are about exporting, and the file is exported already: {', '.join(ways)}."
    yield f"Not checked, because they do not depend on your model: {', '.join(never)}."
    beyond = [window for window in checkpoint.windows if window >= checkpoint.max_cache_len]
    if beyond:
        yield (
            f"Not tested: what happens past the window of {beyond[0]} tokens, which a cache of "
            f"{checkpoint.max_cache_len} never fills; --cache-length {beyond[0] + 8} shows it."
        )
    if checkpoint.context and checkpoint.context > checkpoint.max_cache_len:
        yield (
            f"Only a cache of {checkpoint.max_cache_len} tokens was checked. Use --cache-length for another, at most "
            f"{checkpoint.context}."
        )
    if not has_tokenizer(checkpoint.directory):
        yield "There is no tokenizer: the runner read one letter for each token id."
