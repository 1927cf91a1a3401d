"""Heads are silenced and cells blocked by hand: the page shows what the server says came of it."""

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from models.heads.sets import HeadSet
from tests.e2e.explorer.pages import BANK, PIXELS, cell, faking, opened, percent, with_chromium
from tests.fakes import FakeRuntime, fake_card
from tests.real_server import Server

SILENT = {"edit": "scale", "heads": [[1, 4]], "value": 0}
TO_RIVER = "“bank” cannot see “river” in every layer"
CELL = 24  # px, less than a cell of BANK's matrix is wide

pytestmark = with_chromium


def edited(server: Server, *edits: dict[str, object], **options: object) -> np.ndarray:
    """Return the weights of BANK after these edits."""
    inputs = [{"text": BANK, "edits": list(edits)}] if edits else [{"text": BANK}]
    reply = server.post({"inputs": inputs, "layers": "all", "outputs": ["weights"], **options})
    assert reply.status_code == 200, reply.text
    return np.array(reply.json()["outputs"][0]["weights"])


def painted(page: Page, layer: int, head: int) -> list[int]:
    return cell(page, layer, head).locator("canvas").evaluate(PIXELS)


def by_alt_click(page: Page) -> None:
    cell(page, 1, 4).click(modifiers=["Alt"])


def by_key(page: Page) -> None:
    cell(page, 1, 4).press("s")


def by_button(page: Page) -> None:
    cell(page, 1, 4).click()
    page.locator("#silence").click()


def test_a_silent_head_changes_the_layers_after_it(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=5&head=0")
    by_alt_click(page)
    expect(page.locator("#edits li span")).to_have_text(["layer 1 head 4 silenced"])
    expect(cell(page, 1, 4)).to_have_attribute("aria-label", "layer 1, head 4, silenced")
    page.locator("#queries .token").nth(5).click()
    said = page.locator("#keys .token small").all_inner_texts()
    assert said == [percent(weight) for weight in edited(server, SILENT)[5, 0, 5]]


def test_a_silent_head_speaks_again_the_way_it_was_silenced(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=5&head=0")
    before = painted(page, 5, 0)
    for silence in (by_alt_click, by_key, by_button):
        for silent in (1, 0):
            silence(page)
            expect(page.locator(".silenced")).to_have_count(silent)
        assert painted(page, 5, 0) == before


def test_edits_are_taken_back_one_by_one_and_all_at_once(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=5&head=0")
    before = painted(page, 5, 0)
    for head in (3, 4, 5):
        cell(page, 1, head).click(modifiers=["Alt"])
        expect(page.locator("#edits li")).to_have_count(head - 2)
    page.get_by_role("button", name="Remove: layer 1 head 4 silenced").click()
    lines = ["layer 1 head 3 silenced", "layer 1 head 5 silenced"]
    expect(page.locator("#edits li span")).to_have_text(lines)
    expect(page.locator("#edits button").nth(1)).to_be_focused()
    page.get_by_role("button", name="Remove all edits").click()
    expect(page.locator("#edits")).to_be_hidden()
    expect(page.locator(".silenced")).to_have_count(0)
    assert painted(page, 5, 0) == before


def spot(page: Page, row: str, key: str) -> tuple[float, float]:
    """Return where on the matrix the pointer reads this cell."""
    box = page.locator("#matrix").bounding_box()
    assert box is not None

    def reads(x: float, y: float, words: str) -> bool:
        page.mouse.move(box["x"] + x, box["y"] + y)
        said = page.inner_text("#readout")
        return words in said and not said.startswith("Strongest")  # which it says beside the cells

    across, down = 0.6 * box["width"], 0.6 * box["height"]
    y = next(y for y in range(CELL, int(box["height"]), CELL) if reads(across, y, f"{row} attends"))
    x = next(x for x in range(CELL, int(box["width"]), CELL) if reads(x, down, f"to {key}"))
    return box["x"] + x, box["y"] + y


def test_dragging_over_cells_blocks_them_in_every_layer(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=4")
    page.locator("#matrix").scroll_into_view_if_needed()
    start, end = spot(page, "“bank”", "“river”"), spot(page, "“of”", "“.”")
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=3)
    expect(page.locator("#readout")).to_contain_text("Let go to block")
    page.mouse.up()
    expect(page.locator("#edits li span")).to_have_text(
        ["“bank” … “of” (2 tokens) cannot see “river” … “.” (2 tokens) in every layer"]
    )
    after = edited(server, {"edit": "block", "layers": "all", "queries": [5, 6], "keys": [8, 9]})
    cell(page, 3, 2).click()
    page.locator("#queries .token").nth(5).click()
    said = page.locator("#keys .token small").all_inner_texts()
    assert said == [percent(weight) for weight in after[3, 2, 5]]
    assert said[8] == said[9] == "0%"


@pytest.mark.parametrize(
    ("reach", "edit"),
    [
        ("layer", {"edit": "block", "layers": [1], "queries": [5], "keys": [8]}),
        ("head", {"edit": "block", "heads": [[1, 4]], "queries": [5], "keys": [8]}),
    ],
)
def test_a_held_pair_is_blocked_as_far_as_is_chosen(
    page: Page, server: Server, reach: str, edit: dict[str, object]
) -> None:
    opened(page, server.url, "#layer=1&head=4&pair=5,8")
    expect(page.locator("#pair-of")).to_be_visible()
    page.select_option("#reach", reach)
    with page.expect_response("**/attend") as answered:
        page.get_by_role("button", name="Block “bank” → “river”").click()
    assert answered.value.request.post_data_json["inputs"][0]["edits"] == [edit]
    shown = answered.value.json()["outputs"][0]["weights"]
    np.testing.assert_allclose(shown, edited(server, edit), atol=1e-6)
    expect(page.locator("#readout")).to_have_text("“bank” attends to “river”: 0.0000")
    expect(page.locator("#pair-sum")).to_contain_text("masked or blocked")


def test_keys_block_what_they_have_taken_in(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=4")
    page.locator("#matrix").focus()
    page.keyboard.press("ArrowRight")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "b"):
        page.keyboard.press(key)
    expect(page.locator("#edits li span")).to_have_text(
        ["“[CLS]” … “she” (2 tokens) cannot see “[CLS]” … “she” (2 tokens) in every layer"]
    )
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Escape")
    expect(page.locator("#readout")).not_to_contain_text("Let go")


def test_a_finger_on_a_small_screen_silences_and_blocks(browser: Browser, server: Server) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    page = opened(context.new_page(), server.url)
    cell(page, 1, 4).tap()
    page.get_by_role("button", name="Silence this head").tap()
    expect(page.locator("#edits li")).to_have_count(1)
    page.click("#keep")
    page.locator("#matrix").tap()
    page.locator("#block").tap()
    expect(page.locator("#edits li")).to_have_count(2)
    expect(page.locator("#difference")).to_be_enabled()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    context.close()


def test_another_sentence_leaves_heads_silent_and_blocks_nothing(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=4&pair=5,8")
    by_alt_click(page)
    page.locator("#block").click()
    expect(page.locator("#edits li span")).to_have_text(["layer 1 head 4 silenced", TO_RIVER])
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#edits li span")).to_have_text(["layer 1 head 4 silenced"])


def test_an_edit_that_no_longer_fits_can_be_taken_back(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=4&pair=5,8")
    page.locator("#block").click()
    expect(page.locator("#edits li")).to_have_count(1)
    page.fill("#sentence", "Birds sing")
    page.locator("#notice").get_by_role("button", name="Remove all edits").click()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#queries .token")).to_have_count(4)


def test_edits_of_an_address_that_the_server_refuses_can_be_taken_back(page: Page, server: Server) -> None:
    page.goto(f'{server.url}/#edits=[{{"edit":"scale"}}]&kept={{"edits":[{{"edit":"no"}}]}}')
    for remedy in ("Remove all edits", "Forget the kept run"):
        page.locator("#notice").get_by_role("button", name=remedy).click()
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()


def test_the_curl_command_carries_the_edits(page: Page, server: Server) -> None:
    opened(page, server.url)
    by_alt_click(page)
    expect(page.locator("#curl")).to_contain_text('"edits":[{"edit":"scale","heads":[[1,4]],"value":0}]')


def test_a_head_set_of_the_model_is_silenced_by_its_name(page: Page) -> None:
    sets = {"qr": HeadSet(pairs=((0, 1), (1, 0)))}
    runtime = FakeRuntime(fake_card(edits=("scale", "block"), head_sets=sets))
    with faking(runtime) as url:
        opened(page, url)
        page.get_by_role("button", name="Silence it").click()
        expect(page.locator("#edits li span")).to_have_text(["head set qr silenced"])
    (edit,) = runtime.batches[-1][0].edits
    assert (edit.verb, edit.at, edit.value) == ("scale", sets["qr"].pairs, 0)


def test_a_model_that_takes_no_edits_says_why_and_which_does(page: Page) -> None:
    bare = fake_card("bare", edits=(), not_offered={"edits.scale": "it computes on its own"})
    able = fake_card("capable", edits=("scale", "block"))
    with faking(FakeRuntime(bare, able)) as url:
        opened(page, url, "#model=bare")
        expect(page.locator("#edits-refused")).to_contain_text("it computes on its own")
        expect(page.locator("#silence")).to_be_hidden()
        expect(page.locator("#block")).to_be_hidden()
        cell(page, 0, 1).click(modifiers=["Alt"])
        expect(page.locator("#edits")).to_be_hidden()
        page.locator("#edits-refused").get_by_role("button", name="capable").click()
        expect(page.locator("#edits-refused")).to_be_hidden()
        expect(page.locator("#silence")).to_be_visible()
