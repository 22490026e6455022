"""What of a plan could come to another verdict than in an earlier run, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.core.cells import Cell
from conformance.core.text import first_few, plural
from conformance.core.verdicts import ACCEPTABLE
from conformance.matrix.fingerprints import parts
from conformance.records.run import InvalidRecordError, RunRecord, load_run

#: Names of architectures that are shown before "and N more".
_SHOWN = 8


class NotComparableError(ValueError):
    """There is no run there, or one that does not say what its verdicts depended on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, parted in two.

    Args:
        run: The id of the earlier run.
        reasons: By the id of a cell that is to be judged, why.
        left_out: The cells that are not.
    """

    run: str
    reasons: Mapping[str, str]
    left_out: tuple[Cell, ...]


def earlier_run(path: Path) -> RunRecord:
    """The run recorded at `path`.

    Raises:
        NotComparableError: There is none, or it is of a suite that noted no fingerprints.
    """
    try:
        run = load_run(path)
    except InvalidRecordError as error:
        raise NotComparableError(str(error)) from error
    except OSError as error:
        raise NotComparableError(f"{path}: {error.strerror or error}") from error
    if not run.run.fingerprints:
        raise NotComparableError(f"{path} does not say what its verdicts depended on: it is of an older suite")
    return run


def choose(run: RunRecord, plan: Iterable[Cell], found: Mapping[str, str], otherwise: str = "") -> Choice:
    """Which cells of `plan` to judge again.

    Args:
        run: The earlier run.
        plan: All cells that were asked for.
        found: The fingerprints of today.
        otherwise: How the scripts that are tried now differ from those of the earlier run; empty if they do not.
    """
    before = run.run.fingerprints or {}
    known = {cell.id: cell for cell in run.cells}
    reasons: dict[str, str] = {}
    left_out = []
    for cell in plan:
        changed = [name for name in parts(cell, found) if before.get(name) != found[name]]
        if cell.id not in known:
            reasons[cell.id] = "not judged in that run"
        elif known[cell.id].verdict not in ACCEPTABLE:
            reasons[cell.id] = f"{known[cell.id].verdict} in that run"
        elif otherwise:
            reasons[cell.id] = f"other scripts: {otherwise}"
        elif changed:
            reasons[cell.id] = f"changed: {', '.join(changed)}"
        else:
            left_out.append(cell)
    return Choice(run.run.id, reasons, tuple(left_out))


def explained(choice: Choice) -> Sequence[str]:
    """The choice in lines: why what is judged is judged, the most frequent reason first, and what is left out."""
    reasons = Counter(choice.reasons.values()).most_common()
    lines = [f"{plural(count, 'cell')} judged again since run {choice.run}: {reason}" for reason, count in reasons]
    return [*lines, left_out(choice)] if choice.left_out else lines


def left_out(choice: Choice) -> str:
    """What was not judged, and why, in one line."""
    names = list(dict.fromkeys(cell.architecture for cell in choice.left_out))
    cells = plural(len(choice.left_out), "cell")
    return (
        f"{cells} left out: as in run {choice.run}, nothing that they depend on has changed: {first_few(names, _SHOWN)}"
    )
