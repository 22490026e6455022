"""Messages of errors: tests name the code of an error, and `tests/messages.txt` has the sentences.

    with refused("invalid-shard"):
        read_shard("3/2")

A line of the file has a code and what to do about it; its sentences are indented below. With
CONFORMANCE_WRITE_MESSAGES=1 in the environment, tests add the sentences that the file lacks. Remove those that have
changed first. `python -m tests.support.messages` then writes the documentation's page.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from conformance.core.errors import code_of
from conformance.core.files import atomic_write
from conformance.core.paths import ROOT
from conformance.core.text import one_line

MESSAGES = ROOT / "tests/messages.txt"
PAGE = ROOT / "docs/reference/errors.md"
WRITE = "CONFORMANCE_WRITE_MESSAGES"
#: How commands, pytest and `failure replay` print an error with its code.
_PRINTED = re.compile(
    r"^(?:[\w. -]+: )?(?:error|error: argument [^:]+:|ERROR:|CANNOT RUN) \[([a-z-]+)\]:? (.*)$", re.MULTILINE
)
#: What makes an error that has a code. A verdict's exceptions have signatures instead.
_RAISED = re.compile(
    r"cls|_fail|usage_error|super\(\)\.__init__|"
    r"(?!ClauseViolation|Driver|DeviceFile|Stage|CellFailed|WorkerDied|ChildDied)\w+Error"
)
#: What varies from machine to machine, and what stands for it in the file.
_VOLATILE = (
    (re.compile(r"/[^\s'\":;,()\[\]=]*/pytest-of-[^/]+/pytest-\d+(/popen-gw\d+)?/[^/\s'\":;,()\[\]`]+"), "DIR"),
    (re.compile(re.escape(sys.prefix)), "ENV"),
    (re.compile(r"(uv )?pip install --python \S+|[^\s`]*python\S* -m pip install"), "pip install"),
    (re.compile(r"[^\s`]*python\S* -m (conformance|report)\b"), r"\1"),
    (re.compile(re.escape(str(ROOT))), "ROOT"),
    (re.compile(r"/tmp/[^/\s'\":;,()\[\]`]+"), "DIR"),
    (re.compile(r"\b([0-9a-f]{12}|[0-9a-f]{40})\b"), "COMMIT"),
    (re.compile(r"127\.0\.0\.1:\d+"), "HOST:PORT"),
    (re.compile(r"\b\d+\.\d+\.\d+(\.?(dev|rc|a|b)\d+)?(\+\w+)?"), "N.N.N"),
    (re.compile(r"\b([Kk]nown: )[^.;]*"), r"\1…"),
    (re.compile(r"line \d+ column \d+( \(char \d+\))?"), "line N column N"),
    (re.compile(r"(.)\1{30,}"), r"\1…"),
)
_PAGE_TOP = """# Errors

Each error about your input has a code, which stays when the message is reworded. It precedes the message:
`error [invalid-shard]: ...`. These are the codes, each with one of its messages. `DIR` stands for a folder, `N.N.N` for
a version, `…` for a list of names.

"""


@contextmanager
def refused(code: str) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """What is inside raises an error with this code, whose sentence is in the file."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the code says which
        yield caught
    if isinstance(caught.value, pytest.UsageError):
        printed(f"ERROR: {caught.value}", code)
        return
    if code_of(caught.value) != code:
        raise AssertionError(f"expected [{code}], got [{code_of(caught.value)}]") from caught.value
    _check(code, str(caught.value))


def printed(output: str, code: str) -> str:
    """The sentence of the error with this code in the output of a command, if it is in the file."""
    found = _PRINTED.findall(output)
    assert [each for each, _ in found] == [code], f"expected one error [{code}] in: {output}"
    _check(code, found[0][1])
    sentence: str = found[0][1]
    return sentence


def _check(code: str, sentence: str) -> None:
    for pattern, name in _VOLATILE:
        sentence = pattern.sub(name, sentence)
    sentence = one_line(sentence, max_chars=600)
    known = messages()
    if code in known and sentence in known[code].sentences:
        return
    assert os.environ.get(WRITE), f"tests/messages.txt lacks this sentence of {code}; {WRITE}=1 adds it: {sentence}"
    with FileLock(Path(tempfile.gettempdir()) / "messages.lock"):  # of xdist's workers
        messages.cache_clear()
        entry = messages().setdefault(code, Entry(""))
        entry.sentences[:] = sorted({*entry.sentences, sentence})
        atomic_write(MESSAGES, _dumped(messages()).encode())
        messages.cache_clear()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the file has of a code.

    Args:
        step: What to do about the error.
        sentences: The messages that tests have seen.
    """

    step: str
    sentences: list[str] = field(default_factory=list)


def _dumped(known: dict[str, Entry]) -> str:
    return "".join(
        f"{code}: {known[code].step}\n" + "".join(f"  {sentence}\n" for sentence in known[code].sentences)
        for code in sorted(known)
    )


@functools.cache
def messages() -> dict[str, Entry]:
    """The file, by code."""
    known: dict[str, Entry] = {}
    code = ""
    for line in MESSAGES.read_text("utf-8").splitlines():
        if line.startswith("  "):
            known[code].sentences.append(line[2:])
        else:
            code, _, step = line.partition(":")
            known[code] = Entry(step.strip())
    return known


def raised_codes() -> set[str]:
    """The codes in the suite and its report: the first argument of an error that a user can meet."""
    return {code for folder in ("conformance", "report") for code in _codes(folder, _RAISED)}


def codes_in_tests() -> set[str]:
    """The codes that tests name."""
    return {value for path in (ROOT / "tests").rglob("*.py") for value in _texts(ast.parse(path.read_text("utf-8")))}


def _codes(folder: str, callees: re.Pattern[str]) -> Iterator[str]:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and callees.fullmatch(ast.unparse(node.func)):
                yield from (text for arg in node.args[:1] for text in _texts(arg) if "-" in text and " " not in text)


def _texts(tree: ast.AST) -> Iterator[str]:
    return (
        str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def errors_page() -> str:
    """`docs/reference/errors.md`."""
    rows = "".join(
        f"| `{code}` | {_cell(known.sentences[0])} | {known.step} |\n" for code, known in sorted(messages().items())
    )
    return f"{_PAGE_TOP}| code | for example | what to do |\n| --- | --- | --- |\n{rows}"


def _cell(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(errors_page(), encoding="utf-8")
