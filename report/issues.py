"""Issues on GitHub for unexpected failures: one for each cause, updated while it lasts and closed when it is fixed."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from conformance.core.text import first_few, one_line, plural
from conformance.records.run import CellRecord, RunRecord

from .analysis import analyse
from .analysis.causes import Cause
from .analysis.verdicts import CONCLUSIVE
from .errors import ReportError
from .loading import when
from .markdown import code, prose
from .summary import unexpected

LABEL = "conformance"
#: A night in which everything fails, as when a package cannot be imported, opens no more than these.
MOST_OPENED = 20
_NAMED = 20
_TITLE = 120
_MESSAGE = 4000
#: The first line of an issue's text: the series of runs, the cause, and hashes of the ids of its cells. Issues of
#: earlier versions have no hashes.
_MARK = re.compile(r"<!-- executorch-conformance (\S+) (\S+)(?: ([0-9a-f]+))? -->")
#: GitHub allows 65536 characters; a hash has 8.
_MOST_HASHES = 7000
_LISTED = 1000

#: Calls `gh` with arguments and a text on standard input, and gives what it printed.
Gh = Callable[[Sequence[str], str], str]


@dataclass(frozen=True, slots=True)
class OpenIssue:
    """An issue as `gh` lists it."""

    number: int
    title: str
    body: str


_OPEN_ISSUES = TypeAdapter(list[OpenIssue])


@dataclass(frozen=True, slots=True)
class Issue:
    """What an issue says below its mark, and the hashes of the ids of its cells."""

    title: str
    body: str
    cells: frozenset[str]

    def marked(self, name: str, key: str, others: frozenset[str]) -> str:
        """The text with its mark, which has the hashes of `others` too."""
        cells = self.cells | others
        # Part of the hashes would let the issue be closed for part of its cells.
        hashes = f" {''.join(sorted(cells))}" if len(cells) <= _MOST_HASHES else ""
        return f"<!-- executorch-conformance {name} {key}{hashes} -->\n{self.body}"


@dataclass(frozen=True, slots=True)
class Action:
    """One change of the issues, in words and as a call of `gh`."""

    summary: str
    arguments: tuple[str, ...]
    text: str = ""


def issues(run: RunRecord, name: str, site: str = "") -> Mapping[str, Issue]:
    """By a key that stays the same from run to run, an issue for each cause of unexpected failures.

    Args:
        run: The newest run.
        name: Tells series of runs apart, such as `main` and `release`.
        site: The address of the run's site; may be empty.
    """
    return {cause.anchor: _issue(cause, run, name, site) for cause in unexpected(analyse([run]), ())}


def plan(wanted: Mapping[str, Issue], name: str, existing: Iterable[OpenIssue], run: RunRecord) -> list[Action]:
    """What to change so that the open issues are those wanted.

    An issue is closed only by a complete run in which the checks of all its cells ran to their end. One that does not
    name its cells, as those of earlier versions, stays open; where its cause lasts, the update names them.

    Args:
        wanted: What `issues` gives for `run`.
        name: The same as for `issues`.
        existing: The open issues.
        run: The newest run.
    """
    opened: dict[str, tuple[OpenIssue, frozenset[str]]] = {}
    for each in existing:
        mark = _MARK.match(each.body)
        if mark and mark[1] == name:
            opened[mark[2]] = each, frozenset(re.findall(".{8}", mark[3] or ""))
    new = [key for key in wanted if key not in opened]
    actions = [
        Action(
            f"open: {wanted[key].title}",
            ("issue", "create", "--label", LABEL, "--title", wanted[key].title, "--body-file", "-"),
            wanted[key].marked(name, key, frozenset()),
        )
        for key in new[:MOST_OPENED]
    ]
    judged = frozenset(_hash(cell) for cell in run.cells if cell.verdict in CONCLUSIVE)
    for key, (each, cells) in opened.items():
        number, issue = str(each.number), wanted.get(key)
        if issue is None and run.nothing_missing and cells and cells <= judged:
            comment = f"No unexpected failure any more in run {code(run.run.id)} of {_date(run)}."
            actions.append(Action(f"close #{number}: {each.title}", ("issue", "close", number, "--comment", comment)))
        elif issue is not None:
            text = issue.marked(name, key, cells - judged)
            if (each.body.strip(), each.title) != (text.strip(), issue.title):
                arguments = ("issue", "edit", number, "--title", issue.title, "--body-file", "-")
                actions.append(Action(f"update #{number}: {issue.title}", arguments, text))
    return actions


def open_issues(gh: Gh) -> Sequence[OpenIssue]:
    """The open issues that carry the label.

    Raises:
        ReportError: `gh` printed something else.
    """
    fields = ("--label", LABEL, "--state", "open", "--limit", str(_LISTED), "--json", "number,title,body")
    printed = gh(("issue", "list", *fields), "")
    try:
        return _OPEN_ISSUES.validate_json(printed)
    except ValidationError as error:
        raise ReportError(
            "gh-failed",
            f"gh issue list: expected a JSON list of issues, got {one_line(printed, 100) or 'nothing'}",
        ) from error


def github(arguments: Sequence[str], text: str) -> str:
    """Call GitHub's command line, which has to be installed and signed in.

    Raises:
        ReportError: It is not there, or failed.
    """
    try:
        ended = subprocess.run(
            ["gh", *arguments], input=text, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError as error:
        raise ReportError("missing-package", "gh is not installed: https://cli.github.com") from error
    except OSError as error:
        raise ReportError("gh-failed", f"gh cannot be started: {error.strerror}") from error
    if ended.returncode:
        raise ReportError("gh-failed", f"gh {' '.join(arguments[:2])} failed: {one_line(ended.stderr, 300)}")
    return ended.stdout


def _issue(cause: Cause, run: RunRecord, name: str, site: str) -> Issue:
    cell = cause.first
    message = (cell.message or str(cell.verdict))[:_MESSAGE]
    fence = "~" * max(3, *(len(each) + 1 for each in re.findall("~+", message)), 3)
    versions = ", ".join(f"{package} {version}" for package, version in sorted(run.environment.packages.items()))
    lines = [
        f"**{prose(cause.title)}**",
        "",
        f"- {plural(len(cause.cells), 'cell')} of {first_few([*map(code, cause.architectures)], _NAMED)}",
        f"- on {first_few([code(str(variant)) for variant in cause.variants], _NAMED)}",
        f"- with {prose(versions)}",
        *([f"- [its page in the report]({site}/{cause.page})"] if site else []),
        "",
        "The first of them:",
        "",
        f"{fence}text",
        message,
        fence,
        "",
        "To keep it for now, list it in `known_failures/` with its reason. The next complete run that judges these "
        "cells then closes this issue.",
    ]
    title = one_line(f"{name}: {cause.title}", _TITLE)
    return Issue(title, "\n".join(lines) + "\n", frozenset(map(_hash, cause.cells)))


def _hash(cell: CellRecord) -> str:
    """Ids themselves would be too long for an issue, and may hold the end of a comment."""
    return hashlib.sha256(cell.id.encode()).hexdigest()[:8]


def _date(run: RunRecord) -> str:
    return f"{when(run.run.started):%Y-%m-%d}"
