"""The tutorial's failure, typed as it stands there, looks as it stands there, and in the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance.core.paths import ROOT
from tests.support.doc_pages import blocks, shell_commands
from tests.support.warm import warm_module

pytestmark = pytest.mark.process

_TUTORIAL = (ROOT / "docs" / "tutorial" / "first-failure.md").read_text(encoding="utf-8")
_README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Lines that begin so depend on neither the machine nor the packages.
_STABLE = ("  observed", "  expected", "  script", "  diverged", "  also", "PAR-1 failed", "✗", "replaying", "STILL")


def _quoted(page: str, mark: str) -> list[str]:
    """The lines of the page's block with `mark` in it that are the same everywhere; cut at `...`."""
    (block,) = [block for block in blocks(page, "text") if mark in block]
    return [line.partition(" ...")[0] for line in block.splitlines() if line.startswith(_STABLE)]


def _typed(words: Sequence[str], folder: Path) -> tuple[int, str]:
    ended = warm_module("conformance", *words, cwd=folder)
    return ended.returncode, ended.stdout + ended.stderr


def test_the_first_failure_is_as_the_tutorial_and_the_readme_quote_it(tmp_path: Path) -> None:
    (run,) = [words for words in shell_commands(_TUTORIAL) if words[:2] == ["tox", "-e"]]
    code, printed = _typed(["run", *run[4:]], tmp_path)
    assert code == 1
    wanted = [*_quoted(_TUTORIAL, "✗ logits differ"), *_quoted(_README, "PAR-1 failed")]
    assert [line for line in wanted if line not in printed] == []

    (bundle,) = (tmp_path / "build" / "conformance" / "failures").glob("*PAR-1*")
    (replay,) = [words for words in shell_commands(_TUTORIAL) if words[:3] == ["conformance", "failure", "replay"]]
    typed = [word.replace("build/conformance/failures/BUNDLE", str(bundle)) for word in replay[1:]]
    code, printed = _typed(typed, tmp_path)
    assert code == 1
    assert [line for line in _quoted(_TUTORIAL, "replaying") if line not in printed] == []
