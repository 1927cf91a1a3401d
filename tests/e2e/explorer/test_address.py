"""The address holds all that the page shows: another browser that opens it shows the same."""

from playwright.sync_api import Browser, Page, expect

from tests.e2e.explorer.pages import cell, elsewhere, everything, faking, opened, with_chromium
from tests.fakes import FakeRuntime, fake_card
from tests.real_server import Server

pytestmark = with_chromium


def test_hidden_and_stretched_and_held_and_the_two_sentences_are_restored(
    page: Page, browser: Browser, server: Server
) -> None:
    opened(page, server.url)
    page.select_option("#layers", "3")
    expect(page.locator(".cell")).to_have_count(13)
    page.check("#hide")
    page.check("#stretch")
    cell(page, 0, 9).click()
    page.click("#keep")
    page.fill("#sentence", "She sat on the bank of the road.")
    expect(page.locator("#queries .token").nth(7)).to_have_text("road")
    page.locator("#matrix").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#pair-of")).to_contain_text("layer 3, head 9")
    page.fill("#second", "A river has a bank on either side.")
    page.select_option("#vectors", "hidden")
    expect(page.locator("#second-tokens .token").nth(8)).to_have_text("side")
    page.locator("#second-tokens .token").nth(2).click()
    page.locator("#bars button").nth(4).click()
    expect(page.locator("#distance")).to_contain_text("layer 4 between “river”")
    before = everything(page)
    with elsewhere(browser, page) as other:
        other.locator("#compare").scroll_into_view_if_needed()
        expect(other.locator("#compare-result")).to_be_visible()
        expect(other.locator("#pair-of")).to_be_visible()
        assert everything(other) == before
        assert other.url == page.url


def test_rows_are_restored_from_their_seed_or_as_they_were_edited(page: Page, browser: Browser) -> None:
    with faking(FakeRuntime(fake_card("bare", inputs=("embeddings",), vocabulary=None))) as url:
        opened(page, url)
        page.fill("#rows-seed", "7")
        page.fill("#rows-tokens", "3")
        page.click("#rows-make")
        expect(page.locator("#queries .token")).to_have_count(3)
        with elsewhere(browser, page) as other:
            assert other.input_value("#rows") == page.input_value("#rows")
        page.fill("#rows", "[[1, 2, 3, 4], [5, 6, 7, 8]]")
        expect(page.locator("#queries .token")).to_have_count(2)
        with elsewhere(browser, page) as other:
            assert other.input_value("#rows") == "[[1, 2, 3, 4], [5, 6, 7, 8]]"


def test_a_text_cut_to_fit_is_cut_there_too(page: Page, browser: Browser) -> None:
    with faking(FakeRuntime()) as url:
        opened(page, url)
        page.fill("#sentence", " ".join(["word"] * 20))
        page.locator("#notice").get_by_role("button", name="Cut it to fit").click()
        expect(page.locator("#queries .token")).to_have_count(16)
        with elsewhere(browser, page) as other:
            expect(other.locator("#queries .token")).to_have_count(16)


def test_another_address_pasted_into_the_same_page_is_shown(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=2")
    page.goto(f"{server.url}/#layer=4&head=5&stretch=1")
    expect(page.locator("#matrix-title")).to_have_text("Layer 4, head 5")
    expect(page.locator("#stretch")).to_be_checked()


def test_a_link_to_a_part_of_the_page_leaves_the_address_as_it_was(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=2")
    page.fill("#sentence", "Birds sing")
    expect(page.locator("#queries .token")).to_have_count(4)
    address = page.url
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#heads")).to_be_focused()
    expect(page).to_have_url(address)
    expect(page.locator("#sentence")).to_have_value("Birds sing")


def test_an_address_that_makes_no_sense_shows_what_there_is(page: Page, server: Server) -> None:
    for place in (
        "#layer=99&head=-1&pair=7&layers=x&sort=no&reach=no&vectors=no",
        "#edits=[1]&kept=[]&pair=900,2&words=1,900&bar=99",
        "#edits={&kept={&layer=1e3&head=mean&layers=5&mode=rows&rows=",
        '#kept={"edits":7}&%%%&seeded=,',
    ):
        page.goto("about:blank")
        opened(page, server.url, place)
        expect(page.locator("#notice")).to_be_hidden()
