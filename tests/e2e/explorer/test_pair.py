"""Why a weight is what it is: the page multiplies the query by the key as the model does."""

import numpy as np
from playwright.sync_api import Locator, Page, expect

from tests.e2e.explorer.pages import BANK, attend, faking, opened, with_chromium
from tests.fakes import FakeRuntime, fake_card
from tests.real_server import Server

pytestmark = with_chromium


HEIGHT = "parseFloat(bar.style.getPropertyValue('--share'))"
SIGNED = f"all => all.map((bar) => (bar.className === 'less' ? -1 : 1) * {HEIGHT} / 50)"


def heights(bars: Locator) -> np.ndarray:
    """Return the bars of a vector, signed, the largest 1 in size."""
    return np.array(bars.evaluate_all(SIGNED))


def test_a_held_pair_shows_its_query_its_key_and_the_way_to_the_weight(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=4&pair=5,8")
    names = ["queries", "keys", "scores", "lse", "weights"]
    (output,) = attend(server, BANK, layers=0, heads=[4], outputs=names)
    query, key = output["queries"][0, 5], output["keys"][0, 8]
    expect(page.locator("#pair-of")).to_have_text("“bank” → “river”, layer 0, head 4")
    for name, vector in [("query", query), ("key", key), ("product", query * key)]:
        seen = heights(page.locator(f"#pair-{name} i"))
        np.testing.assert_allclose(seen, vector / np.abs(vector).max(), atol=1e-3)
    numbers = page.locator("#pair-sum dd").all_inner_texts()
    score, lse = output["scores"][0, 5, 8], output["lse"][0, 5]
    assert [float(number.replace("−", "-")) for number in numbers] == [
        round(float(query @ key), 3),
        round(float(score), 3),
        round(-float(lse), 3),
        round(float(output["weights"][0, 5, 8]), 4),
    ]
    largest = np.abs(query * key).argmax()
    expect(page.locator("#pair-most")).to_contain_text(f"dimensions {largest} ({(query * key)[largest]:.3f})")


def test_a_pair_is_pointed_at_and_another_of_its_row_needs_no_request(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=4")
    page.locator("#matrix").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("#pair-of")).to_contain_text("“sat” → “[CLS]”")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pair-of")).to_contain_text("“sat” → “she”")
    assert asked == []


def test_a_mean_over_heads_has_no_pair(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=mean&pair=5,8")
    expect(page.locator("#pair-note")).to_contain_text("choose one head")
    expect(page.locator("#pair-result")).to_be_hidden()


def test_a_model_without_queries_says_so(page: Page) -> None:
    card = fake_card(outputs=("weights",), not_offered={"queries": "this model keeps its queries to itself"})
    with faking(FakeRuntime(card)) as url:
        opened(page, url)
        expect(page.locator("#pair-refused")).to_contain_text("keeps its queries to itself")
