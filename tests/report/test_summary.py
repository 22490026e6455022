"""Markdown and annotations: regressions first, ten rows, and no text of a record becomes markup or a command."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import CellRecord, ExpectedFailure
from report.analysis.compare import compare
from report.annotations import annotate
from report.markdown import code
from report.summary import summary
from tests.report.harness import Report
from tests.report.samples import HOSTILE, cell, partition, run
from tests.support.markdown import shape

pytestmark = pytest.mark.unit


def _fails(name: str, clause: str = "PAR-1") -> CellRecord:
    signature = "execute:logits-differ"
    return cell(clause, Verdict.FAIL, Stage.EXECUTE, architecture=name, signature=signature, message="it differs")


def test_regressions_come_before_what_else_is_wrong_and_what_was_fixed() -> None:
    base = run(cell(), _fails("gpt2"), _fails("phi"), name="base")
    head = run(_fails("llama"), _fails("gpt2"), cell(architecture="phi"))
    message = summary(head, compare(base, head))
    places = [message.index(title) for title in ("### Regressions", "### Other unexpected failures", "### Fixed")]
    assert places == sorted(places)
    assert message.startswith("## ✗ ExecuTorch conformance: 1 regression\n")
    assert "To reproduce the first: `conformance run --arch llama" in message


@pytest.mark.parametrize(("failing", "more"), [(10, None), (11, "… and 1 more."), (25, "… and 15 more.")])
def test_ten_rows_and_then_how_many_more(failing: int, more: str | None) -> None:
    names = [f"model{number}" for number in range(failing)]
    base = run(*(cell(architecture=name) for name in names), name="base")
    message = summary(run(*map(_fails, names)), compare(base, run(*map(_fails, names))))
    regressions = message.partition("### Regressions")[2].partition("###")[0]
    assert regressions.count("| newly failing |") == 10
    assert ("… and" in regressions) == bool(more)
    assert more is None or more in regressions
    assert f"Regressions: {failing} cells" in message


def test_a_run_is_good_only_if_it_is_whole_and_judged_something() -> None:
    assert summary(run(cell())).startswith("## ✓ ")
    assert summary(run(cell(), complete=False)).startswith("## ✗ ")
    assert "> [!WARNING]" in summary(run(cell(), complete=False))
    assert summary(run()).startswith("## ✗ ExecuTorch conformance: nothing was judged")
    assert summary(run(cell(verdict=Verdict.NOT_APPLICABLE))).startswith("## ✗ ")
    assert summary(run(_fails("llama"))).startswith("## ✗ ExecuTorch conformance: 1 unexpected result")


def test_differing_versions_are_marked() -> None:
    base = run(cell(), name="base", torch="2.12.0")
    message = summary(run(cell()), compare(base, run(cell())))
    assert "| `torch` | **`2.12.0`** | **`2.13.0`** |" in message
    assert "| `transformers` | `5.23.0` | `5.23.0` |" in message


_SITE = "https://example.org/site"
_MARKDOWN = (
    *HOSTILE,
    "a | b",
    r"a \| b \\| c",
    "`a` ``b`` **c** _d_ ~~e~~",
    "[a](https://example.org) ![b](x) https://example.org www.example.org @somebody #12 $x$",
    "a\n\n# heading\n| x |\n",
    "\x1b[31mred\x1b[0m",
    "##[error]no",
)


@pytest.mark.parametrize("text", _MARKDOWN)
def test_no_text_of_a_record_becomes_markdown(text: str) -> None:
    failing = cell(
        architecture=text, subject=text, backend=text, clause=text, verdict=Verdict.FAIL, signature=text, message=text
    )
    output = summary(run(failing, name=text), compare(run(cell(), name=text), run(failing, name=text)), site=_SITE)
    assert not text.strip() or shape(output) == shape(_tame(failing))
    assert all(char.isprintable() or char == "\n" for char in output)
    assert "##[" not in output
    assert all(line[:1] in {"", "#", "|", ">", "T", "…", "["} for line in output.splitlines())


def _tame(failing: CellRecord) -> str:
    """The same summary with text that is only text."""
    texts: dict[str, Any] = dict.fromkeys(("architecture", "subject", "backend", "clause", "signature", "message"), "x")
    tame = dataclasses.replace(failing, **texts)
    return summary(run(tame, name="x"), compare(run(cell(), name="x"), run(tame, name="x")), site=_SITE)


def _unescaped(text: str) -> str:
    for sign, escape in ((":", "%3A"), (",", "%2C"), ("\r", "%0D"), ("\n", "%0A"), ("%", "%25")):
        text = text.replace(escape, sign)
    return text


def test_annotations_are_escaped_as_the_runner_reads_them() -> None:
    message = "100% wrong:\r\n::set-env name=X::y\n##[error]no"
    failing = cell(architecture="a:b,c%", verdict=Verdict.FAIL, message=message)
    lines = annotate(run(failing)).splitlines()
    assert len(lines) == 2
    for line in lines:
        found = re.fullmatch(r"::(error|warning|notice) title=([^:,\n]*)::([^\r\n]*)", line)
        assert found, line
        assert not re.search(r"%(?!25|0A|0D|3A|2C)", line)
    title, text = lines[1].removeprefix("::error title=").split("::", 1)
    assert _unescaped(title).startswith("a:b,c%: ")
    assert "100% wrong:" in _unescaped(text)
    assert "%0A::set-env" in text


@pytest.mark.parametrize("text", _MARKDOWN)
def test_any_text_makes_only_whole_annotations(text: str) -> None:
    failing = cell(architecture=text, subject=text, verdict=Verdict.FAIL, signature=text, message=text)
    base = run(cell(), cell("LOW-1", partition=partition({"a": 8, "b": 2}, {})))
    head = run(failing, cell("LOW-1", partition=partition({"a": 8}, {text: 2})), name=text)
    output = annotate(head, compare(base, head))
    assert re.search("^::warning title=.*less delegated", output, re.MULTILINE)
    assert all(re.match("::(error|warning|notice) title=", line) for line in output.split("\n")[:-1])
    assert all(char.isprintable() or char == "\n" for char in output)
    assert "##[" not in output


def test_more_annotations_than_github_shows_are_counted() -> None:
    message = annotate(run(*(_fails(f"model{number}") for number in range(25)))).splitlines()
    assert sum(line.startswith("::error") for line in message) == 10
    assert message[-1].endswith("::and 16 more; see the job summary")


def test_a_result_is_an_error_unless_it_is_good() -> None:
    for bad in (run(), run(cell(verdict=Verdict.NOT_APPLICABLE)), run(cell(), complete=False), run(_fails("llama"))):
        assert annotate(bad).startswith("::error title=ExecuTorch conformance::✗ ")
    assert annotate(run(cell())).startswith("::notice title=ExecuTorch conformance::✓ ")


def test_the_command_prints_either(report: Report) -> None:
    base, head = report.record(run(cell(), name="base")), report.record(run(_fails("llama")))
    assert report("summary", head, "--base", base).out.startswith("## ✗ ExecuTorch conformance: 1 regression")
    assert report("summary", head, "--format", "github").out.startswith("::error title=")
    assert "… and" not in report("summary", head, "--rows", "1").out
    assert report("summary", head, "--rows", "0").code == 2
    report.refused("file-error", "summary", head, "--base", report.directory / "none.json")


def test_cells_that_were_not_run_have_their_reason() -> None:
    text = "it needs a package: `pip install other`"
    names = [f"model{number}" for number in range(30)]
    lost = [cell(architecture=name, backend="other", verdict=Verdict.NOT_RUN, message=text) for name in names]
    markdown = summary(run(*lost, _fails("llama"), complete=False))
    section = markdown.partition("### Not run: 30 cells")[2]
    assert f"| {code(text)} | 30 | 30 | `reference · other · decode` |" in section
    assert "pip install" not in markdown.partition("### Not run")[0]
    told_lines = annotate(run(*lost, complete=False)).splitlines()
    assert len(told_lines) == 2
    assert told_lines[1].startswith(
        "::error title=30 cells not run::it needs a package: `pip install other`%0Areplay: conformance run"
    )


def test_a_failure_without_a_signature_shows_its_message() -> None:
    crash = cell(verdict=Verdict.CRASH, message="the process died of SIGSEGV\nmore")
    assert "| the process died of SIGSEGV | ✱ crash | 1 |" in summary(run(crash))


def test_commit_is_shown_short_where_a_run_has_one() -> None:
    base = run(cell(), name="base", commit="c" * 40)
    message = summary(run(cell()), compare(base, run(cell())))
    assert f"| commit | `{'c' * 12}` | `–` |" in message
    assert "commit" not in summary(run(cell()))


def test_cells_newly_not_run_are_not_a_regression_and_not_good() -> None:
    names = [f"model{number}" for number in range(3)]
    base = run(*(cell(architecture=name) for name in names), name="base")
    lost = [cell(verdict=Verdict.NOT_RUN, architecture=name) for name in names[1:]]
    head = run(_fails(names[0]), *lost, complete=False)
    message = summary(head, compare(base, head))
    assert message.startswith(
        "## ✗ ExecuTorch conformance: 1 regression, 2 cells newly not run; the run is not complete\n"
    )
    only = run(cell(architecture=names[0]), *lost)
    assert summary(only, compare(base, only)).startswith("## ✗ ExecuTorch conformance: 2 cells newly not run\n")


def test_known_failures_are_counted_in_a_good_result() -> None:
    expected = ExpectedFailure("It is known.")
    known = cell("PAR-1", Verdict.EXPECTED_FAILURE, Stage.EXECUTE, signature="execute:a", expected=expected)
    message = summary(run(cell("PAR-2"), known))
    assert message.startswith("## ✓ ExecuTorch conformance: no unexpected results (1 known failure)\n")


def test_clauses_in_a_row_are_named_as_one() -> None:
    failing = run(*(_fails("llama", f"PAR-{number}") for number in (1, 2, 3, 5)))
    assert "| `PAR-1…3`, `PAR-5` |" in summary(failing)
    assert "clauses: PAR-1…3, PAR-5%0A" in annotate(failing)


def test_architectures_and_failures_lead_to_the_site(report: Report, tmp_path: Path) -> None:
    base = run(cell(), cell(architecture="gone"), _fails("phi"), name="base")
    head = run(_fails("llama"), _fails("phi"))
    message = summary(head, compare(base, head), site="https://example.org/site")
    assert "[All results](https://example.org/site/index.html)" in message
    assert "| `gone` | `reference · xnnpack · decode` | vanished |" in message
    linked = re.findall(r"\]\(https://example\.org/site/([^)#]+)#?([^)]*)\)", message)
    assert [page.partition("/")[0] for page, _ in linked] == ["index.html", "architectures", "causes"]
    built = tmp_path / "site"
    assert report("build", report.record(head), "-o", built).code == 0
    for page, anchor in linked:
        assert (built / page).exists()
        assert not anchor or f'id="{anchor}"' in (built / page).read_text()
    notes = annotate(head, compare(base, head), site="https://example.org/site")
    assert notes.splitlines()[0].endswith("%0Ahttps://example.org/site/index.html")
    assert "%0Ahttps://example.org/site/architectures/llama.html#" in notes


def test_a_site_is_a_web_address(report: Report) -> None:
    head = report.record(run(_fails("llama")))
    assert "(https://example.org/a/index.html)" in report("summary", head, "--site", "https://example.org/a/").out
    for wrong in ("example.org", "javascript:alert(1)", "https://example.org/a b", 'https://example.org/"'):
        assert report("summary", head, "--site", wrong).code == 2
        assert report("build", head, "-o", "x", "--repository", wrong).code == 2
