"""The site as its readers meet it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
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
    told = " ".join(watch.problems)
    assert "a problem" in told
    assert "example.org" in told
    assert "Content Security Policy" in told
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
    assert (at_first[:2], at_first[-1]) == (["phi", "gemma2"], "bamba")
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
    page.get_by_label("Find").fill("nobody")
    expect(page.locator(".nothing")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    assert len(_shown(page)) == every
    assert _chosen(page) == {}
    page.get_by_label("Changed since").select_option(index=2)
    assert set(_shown(page)) < {"gemma2", "mamba", "mixtral", "phi"}


def test_an_address_shows_what_it_was_copied_from(page: Page, context: BrowserContext, site: Site) -> None:
    page.goto(site.address)
    page.get_by_label("Find").fill("m")
    page.get_by_label("Stage").select_option("execute")
    page.locator("#grid thead th").first.get_by_role("button").click()
    before = _shown(page)
    assert before
    other = context.new_page()
    other.goto(page.url)
    assert _shown(other) == before
    expect(other.get_by_label("Find")).to_have_value("m")
    expect(other.get_by_label("Stage")).to_have_value("execute")
    page.reload()
    assert _shown(page) == before


def test_the_choice_is_kept_on_the_way_to_another_variant_and_back(page: Page, site: Site) -> None:
    page.goto(site.address + "#q=ll")
    assert _shown(page) == ["llama"]
    page.locator("nav.tabs a:not([aria-current])").first.click()
    assert page.url.startswith(site.address + "grid/")
    assert _shown(page) == ["llama"]
    page.locator("#grid tbody a:visible").first.click()
    expect(page.locator("h1")).to_contain_text("llama")
    page.go_back()
    assert _shown(page) == ["llama"]


def test_from_the_grid_to_a_cause_and_to_who_else_has_it(page: Page, site: Site) -> None:
    page.goto(site.address + "#q=mixtral")
    page.get_by_role("link", name="mixtral").click()
    expect(page.locator("h1")).to_contain_text("blocked at emit")
    expect(page.locator(".failure pre").first).to_contain_text("LOW-1 failed at stage emit")
    page.locator(".failure h3 a").first.click()
    expect(page.locator("h1")).to_contain_text("Missing out variants")
    page.locator("table.affected a").first.click()
    assert page.url.endswith("/architectures/mixtral.html")


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


def test_what_only_lowers_is_told_from_what_decodes(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.locator("nav.tabs a", has_text="vulkan decode").click()
    every = len(_shown(page))
    page.get_by_label("State").select_option("compiled only")
    assert len(_shown(page)) == every - 1  # bamba cannot decode at all
    expect(page.locator("#grid tbody tr:visible .state").first).to_have_text("◇ compiled only")
    page.get_by_label("State").select_option("unexpected")
    assert _shown(page) == []


def test_the_chosen_variant_is_in_sight_on_a_phone(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(site.address + next(name for name in site.pages if "vulkan-decode" in name))
    expect(page.locator(".tabs [aria-current]")).to_be_in_viewport(ratio=1)


def test_operators_that_are_folded_away_can_be_seen(page: Page, site: Site) -> None:
    page.goto(site.address + "architectures/qwen3.html")
    figure = page.locator("figure.delegation").first
    expect(figure.get_by_role("row", name="aten.mean.dim 0 16")).to_be_visible()
    hidden = figure.get_by_role("row", name="aten.sigmoid.default")
    expect(hidden).to_be_hidden()
    figure.locator("summary").click()
    expect(hidden).to_be_visible()


def test_a_run_that_lacked_a_package_says_what_to_install(page: Page, partial_site: Site, watch: Watch) -> None:
    watch.origin = partial_site.address
    page.goto(partial_site.address)
    expect(page.get_by_role("alert")).to_contain_text("6 cells: its backend's package is not installed: pip install")
    page.locator("#grid").get_by_role("link", name="llama").click()
    expect(page.locator("#not-run + article")).to_contain_text("LOW-1, LOW-2, PAR-1")


def test_heads_stay_in_sight(page: Page, site: Site) -> None:
    page.set_viewport_size({"width": 1000, "height": 300})
    page.goto(site.address)
    fifth = page.locator("#grid tbody tr").nth(4)
    fifth.evaluate("row => row.scrollIntoView({ block: 'start', behavior: 'instant' })")
    assert page.evaluate("document.querySelector('#grid thead th').getBoundingClientRect().top") == 0
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(site.address + "architectures/mixtral.html")
    page.locator("table.clauses").evaluate("table => { table.parentElement.scrollLeft = 200; }")
    lefts = "each => each.getBoundingClientRect().left - each.closest('.scroll').getBoundingClientRect().left"
    assert page.locator("table.clauses tbody th").first.evaluate(lefts) < 3


def test_all_of_it_by_keyboard(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Find")).to_be_focused()
    page.keyboard.type("phi")
    assert _shown(page) == ["phi"]
    button = page.locator("#grid thead th").first.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#grid thead th").first).to_have_attribute("aria-sort", "ascending")
    for _ in range(12):
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
    page.get_by_role("link", name="phi").click()
    expect(page.locator("h1")).to_contain_text("phi")
    assert watch.problems == []


@pytest.mark.parametrize("width", _WIDTHS)
def test_no_page_is_wider_than_its_window(page: Page, site: Site, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for name in site.pages:
        page.goto(site.address + name)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide"


def test_every_control_has_a_name(page: Page, site: Site) -> None:
    unnamed = """() => [...document.querySelectorAll("a, button, input, select, [role=img], [role=region]")]
        .filter(each => each.checkVisibility())
        .filter(each => !(each.textContent.trim() || each.getAttribute("aria-label") || each.labels?.length))
        .map(each => each.outerHTML)"""
    for name in site.pages:
        page.goto(site.address + name)
        assert page.evaluate(unnamed) == [], name


def test_it_prints_without_what_only_a_screen_needs(page: Page, site: Site) -> None:
    page.goto(site.address)
    page.emulate_media(media="print")
    expect(page.locator("form.filters")).to_be_hidden()
    expect(page.locator("#grid")).to_be_visible()


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
            "compare",
            "versions",
        )
    }
    pages["crash"] = site.address + next(name for name in site.pages if name.startswith("causes/crash"))
    pages["lowered"] = site.address + next(name for name in site.pages if "vulkan-decode" in name)
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
