"""A run is kept, something is changed, and the page shows what that does to every weight."""

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.explorer.pages import BANK, PIXELS, attend, cell, faking, opened, with_chromium
from tests.fakes import FakeRuntime
from tests.real_server import Server

ROAD = "She sat on the bank of the road."

pytestmark = with_chromium


def kept_and_changed(page: Page, server: Server, place: str = "#layer=0&head=4") -> np.ndarray:
    """Keep BANK, write ROAD over it; return how much more weight each cell has, of all layers."""
    opened(page, server.url, place)
    page.click("#keep")
    page.fill("#sentence", ROAD)
    expect(page.locator("#queries .token").nth(8)).to_have_text("road")
    before, after = (output["weights"] for output in attend(server, BANK, ROAD, layers="all"))
    return after - before


def test_the_matrix_reads_both_weights_and_their_difference(page: Page, server: Server) -> None:
    more = kept_and_changed(page, server)
    before = attend(server, BANK, layers=0, heads=[4], outputs=["weights"])[0]["weights"][0]
    page.locator("#matrix").focus()
    for key in ["ArrowRight", *["ArrowDown"] * 5, *["ArrowRight"] * 8]:
        page.keyboard.press(key)
    change = more[0, 4, 5, 8]
    sign = "−" if change < 0 else "+"
    kept = before[5, 8]
    expect(page.locator("#readout")).to_have_text(
        f"“bank” attends to “road”: {kept + change:.4f}, kept {kept:.4f}, {sign}{abs(change):.4f}"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_less_is_blue_and_more_is_orange(page: Page, server: Server, scheme) -> None:
    page.emulate_media(color_scheme=scheme)
    more = kept_and_changed(page, server)[0, 4]
    pixels = cell(page, 0, 4).locator("canvas").evaluate(PIXELS)
    red, _, blue = np.moveaxis(np.array(pixels).reshape(*more.shape, 4)[..., :3], -1, 0)
    seen = np.abs(more) > 0.02
    assert seen.sum() > 15
    assert (red > blue)[seen].tolist() == (more > 0)[seen].tolist()


def test_the_same_run_again_differs_in_nothing(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=4")
    page.click("#keep")
    with page.expect_response("**/attend"):
        page.click("#attend")
    expect(page.locator("#difference")).to_be_enabled()
    pixels = np.array(cell(page, 0, 4).locator("canvas").evaluate(PIXELS)).reshape(-1, 4)
    assert len(np.unique(pixels, axis=0)) == 1


def test_the_head_that_is_enlarged_stays_though_nobody_chose_it(page: Page, server: Server) -> None:
    kept_and_changed(page, server, "")
    expect(page.locator("#matrix-title")).to_have_text("Layer 0, head 4")
    page.click("#forget")
    page.fill("#sentence", "Birds sing of the river")
    expect(page.locator("#queries .token").nth(5)).to_have_text("river")
    expect(page.locator("#matrix-title")).to_have_text("Layer 0, head 4")


def test_the_weights_themselves_are_one_click_away(page: Page, server: Server) -> None:
    kept_and_changed(page, server)
    (output,) = attend(server, ROAD, layers=0, heads=[4], outputs=["weights"])
    page.uncheck("#difference")
    page.locator("#queries .token").nth(5).click()
    said = page.locator("#keys .token small").all_inner_texts()
    assert said[8] == f"{int(100 * output['weights'][0, 5, 8] + 0.5)}%"


def test_runs_of_other_lengths_are_not_compared_cell_by_cell_and_the_page_says_why(page: Page) -> None:
    with faking(FakeRuntime()) as url:
        opened(page, url)
        page.click("#keep")
        page.fill("#sentence", "one two three")
        expect(page.locator("#kept")).to_contain_text("it has 8 tokens, this run 3")
        expect(page.locator("#difference")).to_be_disabled()
        page.click("#forget")
        expect(page.locator("#kept")).to_have_text("Keep it, change something, and see the difference.")
        expect(page.locator("#difference")).to_be_hidden()
