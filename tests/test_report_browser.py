"""The report in headless Chromium: what it does when clicked, and that it asks nothing of anybody."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_folder import BACKWARDS, EVERYWHERE, HOSTILE, REFERENCE, make

from neurosae.report import write_report
from neurosae.report.page import SECTIONS
from neurosae.report.texts import visible

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE, SMALL = ({"width": width, "height": 900} for width in (1280, 390, 360))
CONTRAST = Path(__file__).with_name("contrast.js")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    runs = {"whole": make(root / "whole"), "hostile": make(root / "hostile", hostile=True)}
    return {name: write_report(run) for name, run in runs.items()} | {
        "reference": write_report(REFERENCE, root / "r.html")
    }


@pytest.fixture
def visit(chromium, pages) -> Iterator[Any]:
    """Opens a page; at the end nothing may have been complained about or asked of a network."""
    contexts, complaints, requests = [], [], []

    def opened(name: str = "whole", viewport: dict[str, int] = DESKTOP, **options: Any) -> Any:
        contexts.append(chromium.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url[:60] for url in requests if not url.startswith(("file:", "data:image/png;base64,"))] == []
    assert {url for url in requests if url.startswith("file:")} <= {page.as_uri() for page in pages.values()}


def _column(page: Any, table: str, title: str) -> list[str]:
    titles = page.locator(f"#{table} thead th").all_inner_texts()
    place = next(i for i, text in enumerate(titles) if text.startswith(title))
    return page.evaluate(
        "([table, place]) => [...document.getElementById(table).tBodies[0].rows]"
        ".filter(row => !row.hidden).map(row => row.cells[place].dataset.sort)",
        [table, place],
    )


@pytest.mark.parametrize("name", ["whole", "hostile", "reference"])
def test_it_opens_from_a_file_and_never_scrolls_sideways(visit, name) -> None:
    page = visit(name)
    for viewport in (DESKTOP, PHONE, SMALL):
        page.set_viewport_size(viewport)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), viewport
    assert page.locator("section:visible").count() == len(SECTIONS)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_section_can_be_pictured(visit, viewport, tmp_path) -> None:
    page = visit(viewport=viewport)
    for section in SECTIONS:
        file = tmp_path / f"{section}.jpg"
        page.locator(f"section#{section}").screenshot(path=file, type="jpeg", quality=60)
        assert file.stat().st_size > 1_000


def test_hostile_texts_stay_texts_wherever_they_come_in(visit) -> None:
    page = visit("hostile")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("window.hacked") is None
    assert page.locator("b, img[src='x']").count() == 0 and page.locator("script").count() == 1
    places = {
        "#answer h1": EVERYWHERE,
        "#answer .definition": EVERYWHERE,
        "#stimuli-table tbody": EVERYWHERE,
        "#confounds-table": EVERYWHERE,
        "#features .card": EVERYWHERE,
        "#rsa": EVERYWHERE,
        "#steering": EVERYWHERE,
        "#written": EVERYWHERE,
        "#provenance": EVERYWHERE,
        "#reproduce": EVERYWHERE,
        "#claims-decoding": EVERYWHERE,
    }
    for place, text in places.items():
        assert text in page.locator(place).first.text_content(), place
    for text, place in itertools.product(HOSTILE, ("#stimuli-table", "#features", "#steering")):
        assert visible(text) in page.locator(place).text_content(), (text[:20], place)
    assert BACKWARDS not in page.content()


def test_a_column_sorts_both_ways_by_mouse_and_by_keyboard(visit) -> None:
    page = visit()
    header = page.locator("#variants-table th", has_text="AUROC").first
    before = [float(value) for value in _column(page, "variants-table", "AUROC")]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert [float(v) for v in _column(page, "variants-table", "AUROC")] == sorted(before, reverse=True)
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert [float(v) for v in _column(page, "variants-table", "AUROC")] == sorted(before)
    page.locator("#variants-table th", has_text="selector").locator("button").click()
    assert _column(page, "variants-table", "selector") == sorted(_column(page, "variants-table", "selector"))
    assert page.locator("#variants-table th[aria-sort=none]").count() == page.locator("#variants-table th").count() - 1


def test_what_is_missing_comes_last_in_either_direction(visit) -> None:
    page = visit()
    for _ in range(2):
        page.locator("#scorecard-table th", has_text="causal shift").locator("button").click()
        values = _column(page, "scorecard-table", "causal shift")
        known = [value for value in values if value]
        assert 0 < len(known) < len(values) and values[: len(known)] == known


def test_words_and_menus_filter_together_and_the_count_says_how_many(visit) -> None:
    page = visit()
    sheet = page.locator("[data-table]", has=page.locator("#variants-table"))
    sheet.locator("[data-filter]").fill("RSA")
    sheet.locator("select").first.select_option("neurons")
    rows = _column(page, "variants-table", "selector")
    assert rows and all(value.startswith("rsa_") for value in rows)
    assert set(_column(page, "variants-table", "features")) == {"raw"}
    assert sheet.locator(".count").inner_text() == f"{len(rows)} of 99 rows"
    sheet.locator("[data-filter]").fill("<no such row>")
    assert _column(page, "variants-table", "selector") == []


def test_cards_open_and_can_be_looked_for(visit) -> None:
    page = visit()
    card = page.locator("details.card[data-search]").nth(1)
    assert not card.locator("svg.chart").is_visible()
    card.locator("summary").first.click()
    assert card.locator("svg.chart").is_visible() and card.locator(".h9").first.is_visible()
    page.get_by_role("button", name="Close all").click()
    assert page.locator("details.card[data-search][open]").count() == 0
    page.locator("#card-filter").fill("latent 8")
    assert page.locator("details.card[data-search]:visible").count() == 1
    assert page.locator("#card-count").inner_text() == "1 of 2 features"


def test_the_theme_follows_the_system_until_one_is_chosen_and_is_remembered(visit) -> None:
    page = visit(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark, button = page.evaluate(paper), page.locator("#theme")
    button.click()
    light = page.evaluate(paper)
    assert button.inner_text() == "Theme: light" and light != dark
    page.reload()
    assert page.evaluate(paper) == light and button.inner_text() == "Theme: light"
    button.click()
    assert page.evaluate(paper) == dark and button.inner_text() == "Theme: dark"


def test_it_works_where_storage_is_forbidden(visit) -> None:
    page = visit()
    forbid = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } })"
    page.add_init_script(forbid)
    page.reload()
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: light"


def test_the_first_tab_stop_leads_to_the_answer_and_the_focus_is_seen(visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("e => e === document.activeElement && e.getBoundingClientRect().left >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#theme").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.locator("#theme").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


def test_pictures_controls_and_landmarks_have_names(visit) -> None:
    page = visit()
    assert page.evaluate("[...document.images].every(i => i.alt.length > 10)") and page.locator("img").count() > 5
    for role in ("button", "searchbox", "combobox", "img", "region", "link", "table"):
        for element in page.get_by_role(role).all():
            named = "e => e.ariaLabel || e.innerText || e.alt || e.labels?.length || e.caption?.innerText"
            assert element.evaluate(named), element.evaluate("e => e.outerHTML.slice(0, 200)")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(visit, theme) -> None:
    page = visit(color_scheme=theme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = page.evaluate(CONTRAST.read_text(encoding="utf-8"))
    assert len(found) > 500
    assert [each for each in found if each["contrast"] < 4.5][:5] == []


def test_on_paper_everything_is_open_and_light(visit) -> None:
    page = visit(color_scheme="dark")
    closed = page.locator("details:not([open])").count()
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert closed > 0 and page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == closed


def test_without_scripts_everything_is_there_to_read(visit) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator("section:visible").count() == len(SECTIONS)
    assert not page.locator("#theme").is_visible()
    assert page.locator("#variants-table tbody tr:visible").count() == 99
