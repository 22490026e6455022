"""Issues on GitHub for unexpected failures: one for each cause, updated while it lasts and closed when it is fixed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from conformance.core.text import first_few, one_line, plural
from conformance.records.run import RunRecord

from .analysis import analyse
from .analysis.causes import Cause
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
#: The first line of an issue's text: the series of runs, and the cause.
_MARK = re.compile(r"<!-- executorch-conformance (\S+) (\S+) -->")
_LISTED = 1000

#: Calls `gh` with arguments and a text on standard input, and gives what it printed.
Gh = Callable[[Sequence[str], str], str]


@dataclass(frozen=True, slots=True)
class Issue:
    """What an issue says."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Action:
    """One change of the issues, in words and as a call of `gh`."""

    summary: str
    arguments: tuple[str, ...]
    text: str = ""


def issues(run: RunRecord, name: str, site: str | None = None) -> Mapping[str, Issue]:
    """By a key that stays the same from run to run, an issue for each cause of unexpected failures.

    Args:
        run: The newest run.
        name: Tells series of runs apart, such as `main` and `release`.
        site: The address of the run's site, if it has one.
    """
    return {cause.anchor: _issue(cause, run, name, site) for cause in unexpected(analyse([run]), ())}


def plan(
    wanted: Mapping[str, Issue], name: str, existing: Iterable[Mapping[str, object]], run: RunRecord
) -> list[Action]:
    """What to change so that the open issues are those wanted.

    Nothing is closed after a run that is not complete: what fails may not have been judged.

    Args:
        wanted: What `issues` gives for `run`.
        name: The same as for `issues`.
        existing: The open issues: `number`, `title` and `body` of each.
        run: The newest run.
    """
    opened: dict[str, Mapping[str, object]] = {}
    for each in existing:
        mark = _MARK.match(str(each["body"]))
        if mark and mark[1] == name:
            opened[mark[2]] = each
    new = [key for key in wanted if key not in opened]
    actions = [
        Action(
            f"open: {wanted[key].title}",
            ("issue", "create", "--label", LABEL, "--title", wanted[key].title, "--body-file", "-"),
            wanted[key].body,
        )
        for key in new[:MOST_OPENED]
    ]
    for key, each in opened.items():
        number, issue = str(each["number"]), wanted.get(key)
        if issue is None and run.nothing_missing:
            comment = f"No unexpected failure any more in run {code(run.run.id)} of {_date(run)}."
            actions.append(
                Action(f"close #{number}: {each['title']}", ("issue", "close", number, "--comment", comment))
            )
        elif issue is not None and (str(each["body"]).strip(), each["title"]) != (issue.body.strip(), issue.title):
            arguments = ("issue", "edit", number, "--title", issue.title, "--body-file", "-")
            actions.append(Action(f"update #{number}: {issue.title}", arguments, issue.body))
    return actions


def open_issues(gh: Gh) -> list[Mapping[str, object]]:
    """The open issues that carry the label."""
    fields = ("--label", LABEL, "--state", "open", "--limit", str(_LISTED), "--json", "number,title,body")
    listed: list[Mapping[str, object]] = json.loads(gh(("issue", "list", *fields), ""))
    return listed


def github(arguments: Sequence[str], text: str) -> str:
    """Call GitHub's command line, which has to be installed and signed in.

    Raises:
        ReportError: It is not there, or failed.
    """
    try:
        ended = subprocess.run(["gh", *arguments], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ReportError("missing-package", "gh is not installed: https://cli.github.com") from error
    if ended.returncode:
        raise ReportError("gh-failed", f"gh {' '.join(arguments[:2])} failed: {one_line(ended.stderr, 300)}")
    return ended.stdout


def _issue(cause: Cause, run: RunRecord, name: str, site: str | None) -> Issue:
    cell = cause.first
    message = (cell.message or str(cell.verdict))[:_MESSAGE]
    fence = "~" * max(3, *(len(each) + 1 for each in re.findall("~+", message)), 3)
    versions = ", ".join(f"{package} {version}" for package, version in sorted(run.environment.packages.items()))
    lines = [
        f"<!-- executorch-conformance {name} {cause.anchor} -->",
        f"**{prose(cause.title)}**",
        "",
        f"- {plural(len(cause.cells), 'cell')} of {first_few([*map(code, cause.architectures)], _NAMED)}",
        f"- on {first_few([code(str(variant)) for variant in cause.variants], _NAMED)}",
        f"- with {prose(versions)}",
        *([f"- [its page in the report]({site.rstrip('/')}/{cause.page})"] if site else []),
        "",
        "The first of them:",
        "",
        f"{fence}text",
        message,
        fence,
        "",
        "To keep it for now, list it in `known_failures/` with its reason. The next run then closes this issue.",
    ]
    title = one_line(f"{name}: {cause.title}", _TITLE)
    return Issue(title, "\n".join(lines) + "\n")


def _date(run: RunRecord) -> str:
    return f"{when(run.run.started):%Y-%m-%d}"
