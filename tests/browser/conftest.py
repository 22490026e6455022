"""A site built from the sample runs, served on this machine, and a real browser that looks at it.

Without Chromium nothing here could be tested, and a skip is never a pass: the whole session fails, with a sentence.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, sync_playwright

from conformance.core.time_scale import scaled
from conformance.core.verdicts import Stage, Verdict
from conformance.records.run import RunRecord, write_run
from report.__main__ import main
from tests.report.sample_runs import RUNS, write_bundles
from tests.report.samples import HOSTILE, cell, run
from tests.support.site_check import site_problems

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Pictures to look at; they are never compared, and never committed."""
    parser.addoption("--screenshots", type=Path, metavar="DIR", help="put pictures of the pages there")


def _chromium() -> str | None:
    chosen = os.environ.get("CHROMIUM")
    return chosen or next(filter(None, map(shutil.which, _NAMES)), None)


def pytest_sessionstart() -> None:
    """Say at once what is missing."""
    if _chromium() is None:
        pytest.exit(
            "no Chromium found: install it, on Debian with `apt-get install chromium`, or name it in CHROMIUM", 3
        )


@dataclass  # without slots: Playwright leaves a mark on the object of a handler
class Watch:
    """What a page did that it should not have done."""

    origin: str
    problems: list[str] = field(default_factory=list)

    def over(self, page: Page) -> None:
        """Keep an eye on `page` from now on."""
        page.on("console", lambda said: self._note(said.type in {"error", "warning"}, f"console: {said.text}"))
        page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        page.on("dialog", self._dismiss)
        # What going on to the next page cuts short, such as the icon, has not failed.
        page.on("requestfailed", lambda request: self._note(request.failure != "net::ERR_ABORTED", request.url))
        page.on("response", lambda response: self._note(response.status >= 400, f"{response.status}: {response.url}"))
        page.on("request", lambda request: self._note(not self._own(request), f"request to {request.url}"))

    def _own(self, request: Request) -> bool:
        return request.url.startswith(self.origin)

    def _dismiss(self, dialog: Dialog) -> None:
        self._note(True, f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, wrong: bool, problem: str) -> None:
        if wrong:
            self.problems.append(problem)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing: the tests say what goes wrong."""


@dataclass(frozen=True, slots=True)
class Site:
    """A built site, on disk and as an address that ends with a slash."""

    directory: Path
    address: str

    @property
    def pages(self) -> list[str]:
        """All its pages."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*.html"))


def _served(directory: Path, records: Sequence[Path], *options: str) -> Iterator[Site]:
    assert main(["build", *map(str, records), "-o", str(directory), "--stale-after", "100000", *options]) == 0
    assert site_problems(directory) == []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(directory, f"http://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site of the sample runs, and of the failure bundles of the newest."""
    started = tmp_path_factory.mktemp("started")
    write_bundles(started)
    yield from _served(tmp_path_factory.mktemp("site"), sorted(RUNS.glob("*.json")), "--bundles", str(started))


@pytest.fixture(scope="session")
def partial_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site of a run that lacked a package."""
    text = "its backend's package is not installed: `pip install other-backend`"
    lost = [
        cell(clause, Verdict.NOT_RUN, architecture=name, backend="other", message=text)
        for name in ("gpt2", "llama")
        for clause in ("LOW-1", "LOW-2", "PAR-1")
    ]
    held = [cell(architecture=name) for name in ("gpt2", "llama")]
    record = run(*held, *lost, complete=False)
    record = dataclasses.replace(record, run=dataclasses.replace(record.run, finished=record.run.started))
    path = tmp_path_factory.mktemp("partial") / "run.json"
    write_run(path, record)
    yield from _served(tmp_path_factory.mktemp("partial-site"), [path])


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of records in which every text tries to be more than text."""
    records = tmp_path_factory.mktemp("records")
    cells = [
        cell(architecture=text, subject=text, verdict=Verdict.FAIL, stage=Stage.LOWER, signature=text, message=text)
        for text in HOSTILE
    ]
    hostile: dict[str, RunRecord] = {
        "base.json": run(*cells[1:], name=HOSTILE[1], started="2026-11-01T10:00:00+00:00"),
        "head.json": run(*cells, name=HOSTILE[0]),
    }
    for name, record in hostile.items():
        write_run(records / name, record)
    yield from _served(tmp_path_factory.mktemp("hostile"), sorted(records.iterdir()))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=_chromium())
        yield made
        made.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A reader who has never been here."""
    made = browser.new_context(viewport={"width": 1440, "height": 900})
    made.set_default_timeout(scaled(5000))
    yield made
    made.close()


@pytest.fixture
def watch(site: Site) -> Watch:
    """What the page must not do; a test that expects a problem takes it out."""
    return Watch(site.address)


@pytest.fixture
def page(context: BrowserContext, watch: Watch) -> Iterator[Page]:
    """A page that may do nothing wrong until the test's end."""
    made = context.new_page()
    watch.over(made)
    yield made
    assert watch.problems == []
