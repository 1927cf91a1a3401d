"""All heads stand in the order of one column of their profile, as the server has it."""

import numpy as np
from playwright.sync_api import Browser, Page, expect

from tests.e2e.explorer.pages import BANK, attend, cell, elsewhere, everything, faking, opened, with_chromium
from tests.fakes import FakeRuntime, fake_card
from tests.real_server import Server

COLUMNS = ["self", "previous", "entropy", "distance", "variance", "induction"]
PLACES = "all => all.map((one) => [Number(one.dataset.layer), Number(one.dataset.head)])"

pytestmark = with_chromium


def profile(server: Server) -> np.ndarray:
    """Return [6 layers, 12 heads, 6 numbers] of BANK."""
    return attend(server, BANK, layers="all", outputs=["head_profile"])[0]["head_profile"]


def test_heads_stand_in_the_order_of_each_column(page: Page, server: Server) -> None:
    opened(page, server.url)
    numbers = profile(server)
    for column, name in enumerate(COLUMNS):
        page.select_option("#sort", name)
        highest = f"{numbers[..., column].max():.3g}"
        expect(page.locator(".grid.sorted .value").first).to_contain_text(highest[:3])
        places = page.locator(".cell").evaluate_all(PLACES)
        order = [numbers[layer, head, column] for layer, head in places]
        assert sorted(map(tuple, places)) == [(layer, head) for layer in range(6) for head in range(12)]
        assert order == sorted(order, reverse=True)


def test_the_smallest_may_come_first_and_the_layers_come_back(page: Page, server: Server) -> None:
    opened(page, server.url, "#sort=entropy&layer=1&head=4")
    expect(cell(page, 1, 4)).to_have_attribute("aria-pressed", "true")
    page.check("#ascending")
    entropy = profile(server)[..., COLUMNS.index("entropy")]
    first = np.unravel_index(entropy.argmin(), entropy.shape)
    assert page.locator(".cell").evaluate_all(PLACES)[0] == [int(place) for place in first]
    page.select_option("#sort", "")
    expect(page.locator(".cell")).to_have_count(6 * 13)


def test_heads_in_an_order_are_chosen_and_silenced_alike(page: Page, server: Server) -> None:
    opened(page, server.url, "#sort=previous")
    first = page.locator(".cell").first
    first.focus()
    for key in ("ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".cell").nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator(".cell").nth(1).press("s")
    expect(page.locator("#edits li")).to_have_count(1)


def test_a_model_without_a_profile_says_so(page: Page) -> None:
    card = fake_card(outputs=("weights",), not_offered={"head_profile": "it is made elsewhere"})
    with faking(FakeRuntime(card)) as url:
        opened(page, url)
        expect(page.locator("#sort-refused")).to_contain_text("it is made elsewhere")
        expect(page.locator("#sort")).to_be_hidden()


def test_rows_of_embeddings_have_no_order_and_the_page_says_why(page: Page) -> None:
    with faking(FakeRuntime(fake_card(inputs=("embeddings",), vocabulary=None))) as url:
        opened(page, url)
        page.select_option("#sort", "self")
        expect(page.locator("#sort-refused")).to_contain_text("have no tokens")
        expect(page.locator(".cell")).to_have_count(2 * 3)
        page.select_option("#sort", "")
        expect(page.locator("#sort-refused")).to_be_hidden()


def test_edits_and_the_order_of_heads_are_restored(page: Page, browser: Browser, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=4&pair=5,8&difference=1")
    cell(page, 0, 3).click(modifiers=["Alt"])
    expect(page.locator("#edits li")).to_have_count(1)
    page.click("#keep")
    page.select_option("#reach", "head")
    page.click("#block")
    expect(page.locator("#edits li")).to_have_count(2)
    page.select_option("#sort", "entropy")
    page.check("#ascending")
    expect(page.locator(".grid.sorted")).to_be_visible()
    expect(page.locator("#pair-sum")).to_contain_text("blocked")
    before = everything(page)
    assert "1 edit" in str(before["kept"])
    with elsewhere(browser, page) as other:
        expect(other.locator("#pair-sum")).to_contain_text("blocked")
        assert everything(other) == before
        assert other.url == page.url
