"""The documentation's pages, and what is in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from conformance.core.paths import ROOT

#: But errors.md, which quotes what tests have typed.
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "docs/reference/errors.md"})

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
#: What is neither prose nor a command: redirections, and variables in front of a command.
_REDIRECTED = re.compile(r" >>? .*$")
_VARIABLE = re.compile(r"^\w+=\S* ")


def page_id(page: Path) -> str:
    """The page's name in ids of tests."""
    return str(page.relative_to(ROOT))


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The fenced blocks in one of these languages."""
    for _, language, block in _FENCED.findall(text):
        if language in languages:
            yield block


def without_code(text: str) -> str:
    """The page without fenced blocks and code between backticks."""
    return re.sub(r"`[^`]*`", "", _FENCED.sub("", text))


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a block of shell, without variables, redirections and comments."""
    for block in blocks(text, "sh", "bash", "console"):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = _REDIRECTED.sub("", line.strip().removeprefix("$ "))
            while variable := _VARIABLE.match(command):
                command = command[variable.end() :]
            if words := shlex.split(command, comments=True):
                yield words


def inline_commands(text: str) -> Iterator[list[str]]:
    """The words of each `conformance ...` or `tox -e ...` between backticks; `...` stands for anything."""
    for command in re.findall(r"(?<!`)`((?:conformance|tox -e) [^`]*)`", _FENCED.sub("", text)):
        yield shlex.split(re.sub(r"\.\.\.|…", "", command), comments=True)


def anchors(text: str) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().casefold()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found
