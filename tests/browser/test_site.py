"""The site as its readers meet it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import Site, Watch

pytestmark = pytest.mark.process

_WIDTHS = (390, 820, 1440)


def _shown(page: Page) -> list[str]:
    """The architectures that the grid shows, from top to bottom."""
    return page.locator("#grid tbody tr:visible th a").all_inner_texts()


def _chosen(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).fragment)


def test_every_page_opens_without_a_problem(page: Page, site: Site) -> None:
    assert len(site.pages) > 15
    for name in site.pages:
        page.goto(site.address + name)
        expect(page.locator("h1")).to_have_count(1)
        expect(page).to_have_title(re.compile(r"\S · ExecuTorch conformance$"))


def test_what_leaves_the_page_would_be_noticed(page: Page, site: Site, watch: Watch) -> None:
    page.goto(site.address)
    page.evaluate("fetch('https://example.org/').catch(() => {})")
    page.evaluate("console.error('a problem')")
    page.wait_for_timeout(200)
    message = " ".join(watch.problems)
    assert "a problem" in message
    assert "example.org" in message
    assert "Content Security Policy" in message
    watch.problems.clear()


def test_no_text_of_a_record_runs(page: Page, hostile_site: Site, watch: Watch) -> None:
    watch.origin = hostile_site.address
    for name in hostile_site.pages:
        page.goto(hostile_site.address + name.replace("%", "%25"))
        expect(page.locator("h1")).to_have_count(1)
    page.goto(hostile_site.address)
    expect(page.locator("#grid")).to_contain_text("<script>alert(1)</script>")


def test_problems_stand_first_and_columns_sort(page: Page, site: Site) -> None:
    page.goto(site.address)
    at_first = _shown(page)
    assert (at_first[:3], at_first[-1]) == (["mixtral", "phi", "gemma2"], "bamba")
    head = page.locator("#grid thead th").first
    head.get_by_role("button").click()
    assert _shown(page) == sorted(at_first)
    expect(head).to_have_attribute("aria-sort", "ascending")
    head.get_by_role("button").click()
    assert _shown(page) == sorted(at_first, reverse=True)
    expect(head).to_have_attribute("aria-sort", "descending")
    assert _chosen(page) == {"sort": ["-architecture"]}


def test_filters_narrow_the_grid_and_say_how_far(page: Page, site: Site) -> None:
    page.goto(site.address)
    every = len(_shown(page))
    page.get_by_label("Find").fill("MA")
    assert sorted(_shown(page)) == ["gemma2", "llama", "mamba"]
    expect(page.locator(".shown")).to_have_text(f"3 of {every}")
    page.get_by_label("State").select_option("wrong result")
    assert _shown(page) == ["gemma2"]
    page.get_by_label("Variant").select_option("portable decode")
    assert _shown(page) == []
    page.get_by_label("Variant").select_option("xnnpack decode")
    assert _shown(page) == ["gemma2"]
    page.get_by_label("Find").fill("nobody")
    expect(page.locator(".nothing")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    assert len(_shown(page)) == every
    assert _chosen(page) == {}
    page.get_by_label("Changed since").select_option(index=2)
    assert set(_shown(page)) == {"gemma2", "mamba", "mixtral", "phi"}


def _stages(site: Site, variant: str) -> str:
    return site.address + next(name for name in site.pages if name.startswith(f"grid/reference-{variant}"))


def test_an_address_shows_what_it_was_copied_from(page: Page, context: BrowserContext, site: Site) -> None:
    page.goto(_stages(site, "xnnpack-decode"))
    page.get_by_label("Find").fill("m")
    page.get_by_label("Trouble at stage").select_option("execute")
    page.locator("#grid thead th").first.get_by_role("button").click()
    before = _shown(page)
    assert before
    other = context.new_page()
    other.goto(page.url)
    assert _shown(other) == before
    expect(other.get_by_label("Find")).to_have_value("m")
    expect(other.get_by_label("Trouble at stage")).to_have_value("execute")
    page.reload()
    assert _shown(page) == before


def test_the_choice_is_kept_on_the_way_to_a_variant_and_back(page: Page, site: Site) -> None:
    page.goto(site.address + "#q=ll")
    assert _shown(page) == ["llama"]
    page.get_by_role("link", name="Stage by stage").click()
    page.locator("nav.tabs a:not([aria-current])").first.click()
    assert page.url.startswith(site.address + "grid/")
    assert _shown(page) == ["llama"]
    page.locator("#grid tbody th a:visible").first.click()
    expect(page.locator("h1")).to_contain_text("llama")
    page.locator(".crumbs a").click()
    assert "/grid/" in page.url
    assert _shown(page) == ["llama"]


def test_back_leads_to_where_the_reader_came_from(page: Page, site: Site) -> None:
    page.goto(site.address + "architectures/mixtral.html")
    expect(page.locator(".crumbs a")).to_have_text("Overview")
    page.goto(site.address + "#state=broken")
    page.locator("#grid tbody th a:visible").first.click()
    page.locator(".failure h3 a").first.click()
    page.locator("table.affected a").first.click()
    page.locator(".crumbs a").click()
    expect(page.locator("h1")).to_contain_text("Missing out variants")
    page.locator(".crumbs a").click()
    expect(page.locator("h1")).to_have_text("Failures")


def test_a_failing_state_leads_to_its_failure(page: Page, site: Site) -> None:
    page.goto(site.address)
    row = page.locator("#grid tbody tr", has=page.get_by_role("link", name="mixtral", exact=True))
    row.locator(".v-unexpected a").first.click()
    expect(page.locator(".failure:target")).to_contain_text("Missing out variants")
    page.locator("table.clauses .v-fail a").first.click()
    expect(page.locator(".failure:target")).to_be_in_viewport()
    page.goto(_stages(site, "xnnpack-dynamic"))
    page.locator(".place.v-fail a").first.click()
    expect(page.locator(".failure:target")).to_be_visible()


def test_a_count_leads_to_what_it_counts(page: Page, site: Site) -> None:
    page.goto(site.address)
    for link in page.locator(".sentence a").all():
        page.goto(site.address)
        number = int(re.findall(r"\d+", link.inner_text())[0])
        link.click()
        assert len(_shown(page)) == number
    page.goto(site.address)
    page.locator(".share").first.click()
    assert len(_shown(page)) == 5
    page.locator(".run-header summary").click()
    page.locator(".counts .v-fail a").click()
    expect(page.locator("h1")).to_have_text("Failures")
    expect(page.get_by_label("Verdict")).to_have_value("fail")
    expect(page.locator("#grid tbody tr:visible")).to_have_count(1)


def test_a_clause_leads_to_who_violates_it(page: Page, site: Site) -> None:
    page.goto(site.address + "clauses/index.html")
    page.get_by_role("row", name=re.compile("^PAR-6")).get_by_role("link", name="PAR-6").click()
    assert page.url.endswith("/clauses/PAR-6.html")
    expect(page.locator("table.affected")).to_have_count(3)
    page.locator("table.affected").get_by_role("link", name="phi").click()
    expect(page.locator(".failure:target")).to_contain_text("SIGSEGV")


def test_what_is_folded_opens_for_who_is_sent_there(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.get_by_role("link", name="How to read this page").click()
    expect(page.locator("#legend")).to_be_in_viewport()


def test_a_theme_is_chosen_and_kept(page: Page, site: Site) -> None:
    page.goto(site.address)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate(ground) != before
    page.goto(site.address + "versions.html")
    assert page.evaluate(ground) != before


def test_enter_in_the_search_opens_the_first_match(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.get_by_label("Find").fill("qwen")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("qwen3")


def test_the_command_to_replay_is_copied(page: Page, context: BrowserContext, site: Site) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.address)
    page.goto(site.address + "architectures/mixtral.html")
    button = page.locator(".failure button").first
    button.click()
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("conformance run --arch mixtral ")


def test_the_failure_bundle_is_downloaded(page: Page, site: Site, tmp_path: Path) -> None:
    page.goto(site.address + "architectures/mixtral.html")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download the failure bundle").click()
    downloading.value.save_as(tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as packed:
        assert {name.partition("/")[2] for name in packed.namelist()} == {"bundle.json", "weights.pt"}


def test_compiled_only_differs_from_decoding(page: Page, site: Site) -> None:
    page.goto(_stages(site, "vulkan-decode"))
    every = len(_shown(page))
    page.get_by_label("State").select_option("compiled only")
    assert len(_shown(page)) == every - 1  # bamba cannot decode at all
    expect(page.locator("#grid tbody tr:visible .state").first).to_contain_text("compiled only")
    expect(page.get_by_label("State").locator("option", has_text="anything unexpected")).to_have_count(0)


def test_operators_that_are_folded_away_can_be_seen(page: Page, site: Site) -> None:
    page.goto(site.address + "architectures/qwen3.html")
    figure = page.locator("figure.delegation").first
    expect(figure.get_by_role("row", name="aten.mean.dim 0 16")).to_be_visible()
    hidden = figure.get_by_role("row", name="aten.sigmoid.default")
    expect(hidden).to_be_hidden()
    figure.locator("summary").click()
    expect(hidden).to_be_visible()


def test_a_run_that_lacked_a_package_shows_what_to_install(page: Page, partial_site: Site, watch: Watch) -> None:
    watch.origin = partial_site.address
    page.goto(partial_site.address)
    expect(page.get_by_role("alert")).to_contain_text("6 cells: its backend's package is not installed: pip install")
    page.locator("#grid").get_by_role("link", name="llama").click()
    expect(page.locator("#not-run + article")).to_contain_text("LOW-1, LOW-2, PAR-1")


def test_heads_stay_in_sight(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 1000, "height": 300})
    page.goto(_stages(site, "xnnpack-decode"))
    fifth = page.locator("#grid tbody tr").nth(4)
    fifth.evaluate("row => row.scrollIntoView({ block: 'start', behavior: 'instant' })")
    assert page.evaluate("document.querySelector('#grid thead th').getBoundingClientRect().top") == 0
    page.goto(site.address)
    fifth = page.locator("#grid tbody tr").nth(4)
    fifth.evaluate("row => row.scrollIntoView({ block: 'start', behavior: 'instant' })")
    assert page.evaluate("document.querySelector('#grid thead th').getBoundingClientRect().top") == 0
    page.goto(site.address + "architectures/mixtral.html")
    last = page.locator("details[open] table.clauses tbody tr").nth(8)
    last.evaluate("row => row.scrollIntoView({ block: 'start', behavior: 'instant' })")
    top = "each => each.closest('table').tHead.rows[0].cells[1].getBoundingClientRect().top"
    assert last.evaluate(top) == 0


def test_all_of_it_by_keyboard(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "mixtral"
    page.keyboard.press("/")
    expect(page.get_by_label("Find")).to_be_focused()
    page.keyboard.type("phi")
    assert _shown(page) == ["phi"]
    button = page.locator("#grid thead th").first.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#grid thead th").first).to_have_attribute("aria-sort", "ascending")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "phi":
            break
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("phi")


def test_it_reads_without_javascript(browser: Browser, site: Site) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.address)
    assert len(page.locator("#grid tbody tr").all()) == 8
    expect(page.locator("form.filters")).to_be_hidden()
    expect(page.locator("#grid thead button")).to_have_count(0)
    page.locator("#grid").get_by_role("link", name="mixtral").click()
    expect(page.locator(".failure pre").first).to_contain_text("LOW-1 failed at stage emit")
    expect(page.locator(".failure button").first).to_be_hidden()
    context.close()


def test_it_opens_from_disk(context: BrowserContext, site: Site) -> None:
    page, watch = context.new_page(), Watch(site.directory.as_uri())
    watch.over(page)
    page.goto((site.directory / "index.html").as_uri())
    page.get_by_label("Find").fill("phi")
    assert _shown(page) == ["phi"]
    page.locator("#grid").get_by_role("link", name="phi").click()
    expect(page.locator("h1")).to_contain_text("phi")
    assert watch.problems == []


@pytest.mark.parametrize("width", _WIDTHS)
def test_no_page_is_wider_than_its_window(page: Page, site: Site, hostile_site: Site, watch: Watch, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for each in (site, hostile_site):
        watch.origin = each.address
        for name in each.pages:
            page.goto(each.address + name.replace("%", "%25"))
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} wide"


def test_what_matters_is_in_sight_on_a_phone(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(site.address)
    row = page.locator("#grid tbody tr", has=page.get_by_role("link", name="mixtral", exact=True))
    for cell in row.locator(".place").all():
        expect(cell).to_be_visible()
        box = cell.bounding_box()
        assert box
        assert box["x"] + box["width"] <= 390
    page.goto(_stages(site, "xnnpack-dynamic"))
    table = page.locator("#grid").bounding_box()
    first = page.locator("#grid thead").bounding_box()
    assert table
    assert first
    assert first["y"] - table["y"] < 5
    page.goto(site.address + "architectures/gemma2.html")
    expect(page.locator("details[open] table.clauses .text").first).to_be_visible()
    hidden = """() => [...document.querySelectorAll(".log .off, .clauses .place:not(.v-blank), .history td")]
        .filter(each => !each.closest("details:not([open])"))
        .filter(each => each.getBoundingClientRect().right > innerWidth || !each.checkVisibility())
        .map(each => each.outerHTML)"""
    assert page.locator(".log path.off").count() > 5
    assert page.evaluate(hidden) == []


_KINDS = (
    "index.html",
    "grid/reference-xnnpack-dynamic",
    "architectures/mixtral.html",
    "architectures/gemma2.html",
    "architectures/qwen3.html",
    "architectures/bamba.html",
    "causes/index.html",
    "causes/crash",
    "clauses/index.html",
    "clauses/PAR-6.html",
    "compare.html",
    "versions.html",
)
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def _violations(page: Page) -> list[str]:
    """What axe-core finds, with all that is folded open."""
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    options = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": _TAGS}}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize(("width", "media"), [*((width, "screen") for width in _WIDTHS), (1440, "print")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_keeps_anybody_out(
    browser: Browser, site: Site, partial_site: Site, width: int, media: str, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.emulate_media(media=media, color_scheme=scheme)  # type: ignore[arg-type]
    kinds = [site.address + next(name for name in site.pages if name.startswith(kind)) for kind in _KINDS]
    kinds += [partial_site.address + name for name in ("index.html", "architectures/llama.html", "causes/index.html")]
    found = {}
    for address in kinds:
        page.goto(address)
        if violations := _violations(page):
            found[address] = violations
    context.close()
    assert found == {}


def test_what_keeps_somebody_out_would_be_noticed(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.evaluate("document.querySelector('h1').style.color = '#ccc'")
    assert any(each.startswith("color-contrast") for each in _violations(page))


def test_on_paper_all_is_open_and_nothing_is_cut_off(page: Page, site: Site) -> None:
    paper = {"width": 718, "height": 1000}  # A4, less the margins
    page.set_viewport_size(paper)  # type: ignore[arg-type]
    page.emulate_media(media="print")
    page.goto(site.address)
    expect(page.locator("form.filters")).to_be_hidden()
    expect(page.locator("#grid")).to_be_visible()
    expect(page.locator("footer")).to_have_text(
        re.compile(r"^\s*Run sample-2026-11 of 2026-11-15 04:00 UTC\s*$"), use_inner_text=True
    )
    for name in site.pages:
        page.goto(site.address + name)
        assert page.evaluate("document.documentElement.scrollWidth") <= paper["width"], name
        folded = """() => [...document.querySelectorAll("details:not([open]) > :not(summary)")]
            .filter(each => !each.getBoundingClientRect().height && each.textContent.trim() && !each.matches(".sr"))
            .map(each => each.outerHTML.slice(0, 200))"""
        assert page.evaluate(folded) == [], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", _WIDTHS)
def test_pictures_to_look_at(
    browser: Browser, site: Site, partial_site: Site, request: pytest.FixtureRequest, width: int, scheme: str
) -> None:
    """That each page can be painted; whether it is nice, a person has to say."""
    directory: Path | None = request.config.getoption("--screenshots")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    pages = {
        name: f"{site.address}{name}.html"
        for name in (
            "index",
            "architectures/mixtral",
            "architectures/gemma2",
            "architectures/qwen3",
            "causes/index",
            "clauses/index",
            "clauses/PAR-6",
            "compare",
            "versions",
        )
    }
    pages["crash"] = site.address + next(name for name in site.pages if name.startswith("causes/crash"))
    pages["lowered"] = _stages(site, "vulkan-decode")
    pages["partial"], pages["partial-llama"] = (
        partial_site.address + name for name in ("index.html", "architectures/llama.html")
    )
    for name, address in pages.items():
        page.goto(address)
        painted = page.screenshot(full_page=True)
        assert painted.startswith(b"\x89PNG")
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{width}-{scheme}-{name.replace('/', '-')}.png").write_bytes(painted)
    context.close()
