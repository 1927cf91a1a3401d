"""The Explorer in a real browser: what it shows is what the server says, and it says so when it cannot."""

import functools
import json
import re
import subprocess
import threading

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.explorer.pages import BANK, PIXELS, attend, cell, faking, opened, percent, with_chromium
from tests.fakes import FakeRuntime, fake_card
from tests.real_server import Server

LOAN = "The bank gave me a loan."
READING = re.compile(
    r"^“(?P<row>\S+?)”(?: \(\d+\))? attends to “(?P<key>\S+?)”(?: \(\d+\))?: (?P<weight>[\d.]+)$"
)

pytestmark = with_chromium


def tokens(page: Page, side: str) -> list[str]:
    return page.locator(f"#{side} .token span").all_inner_texts()


def shares(page: Page) -> list[str]:
    return page.locator("#keys .token small").all_inner_texts()


def test_a_stranger_sees_every_head_of_the_default_sentence(page: Page, server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    opened(page, server.url)
    expect(page.locator(".cell")).to_have_count(6 * (12 + 1))
    expect(page.locator("#sentence")).to_have_value(BANK)
    expect(page.locator("#readout")).to_contain_text("“bank” attends to “river”")
    assert tokens(page, "queries") == attend(server, BANK)[0]["tokens"].tolist()
    assert {url for url in asked if not url.startswith(server.url)} == set()


def test_the_matrix_reads_the_weights_of_the_reply(page: Page, server: Server) -> None:
    opened(page, server.url)
    weights = attend(server, BANK, layers="all", outputs=["weights"])[0]["weights"]
    cell(page, 3, 7).click()
    expect(page.locator("#matrix-title")).to_have_text("Layer 3, head 7")
    page.locator("#matrix").focus()
    for key in ["ArrowRight", *["ArrowDown"] * 5, *["ArrowRight"] * 8]:
        page.keyboard.press(key)
    expect(page.locator("#readout")).to_have_text(f"“bank” attends to “river”: {weights[3, 7, 5, 8]:.4f}")


def test_the_pointer_reads_every_row_of_the_matrix_in_order(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=4")
    (output,) = attend(server, BANK, layers=0, heads=[4], outputs=["weights"])
    box = page.locator("#matrix").bounding_box()
    assert box is not None
    said: dict[str, re.Match[str]] = {}
    for y in range(0, int(box["height"]), 9):
        page.locator("#matrix").hover(position={"x": 0.6 * box["width"], "y": y})
        if read := READING.match(text := page.inner_text("#readout")):
            said.setdefault(text, read)
    words = output["tokens"].tolist()
    column = words.index(next(iter(said.values()))["key"])
    assert [(read["row"], read["weight"]) for read in said.values()] == [
        (word, f"{weight:.4f}") for word, weight in zip(words, output["weights"][0, :, column], strict=True)
    ]


def test_the_darkest_pixel_of_a_small_map_is_the_largest_weight(page: Page, server: Server) -> None:
    opened(page, server.url)
    (output,) = attend(server, BANK, layers=0, heads=[4], outputs=["weights"])
    size = len(output["tokens"])
    pixels = cell(page, 0, 4).locator("canvas").evaluate(PIXELS)
    light = np.array(pixels).reshape(size, size, 4)[..., :3].sum(-1)
    assert light.argmin(-1).tolist() == output["weights"][0].argmax(-1).tolist()


def test_heads_are_reached_and_chosen_with_the_keyboard(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=2&head=3")
    cell(page, 2, 3).focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#matrix-title")).to_have_text("Layer 3, head 4")
    expect(cell(page, 3, 4)).to_have_attribute("aria-pressed", "true")
    assert page.locator('.cell[tabindex="0"]').count() == 1


def test_mean_over_heads_is_the_servers_own_mean(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=5&head=0")
    page.check("#mean")
    expect(page.locator("#matrix-title")).to_have_text("Layer 5, mean over heads")
    (output,) = attend(server, BANK, layers=5, outputs=["weights_mean"])
    page.locator("#queries .token").nth(5).click()
    assert shares(page) == [percent(weight) for weight in output["weights_mean"][5]]


def test_hidden_special_tokens_leave_their_mass_in_sight(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=1&head=4")
    page.check("#hide")
    assert tokens(page, "keys") == ["she", "sat", "on", "the", "bank", "of", "the", "river", "."]
    page.locator("#queries .token").nth(4).click()
    row = attend(server, BANK, layers=1, heads=[4], rows=[5], outputs=["weights"])[0]["weights"][0, 0]
    assert shares(page) == [percent(weight) for weight in row[1:-1]]
    expect(page.locator(".rest")).to_have_text(f"left out {percent(row[0] + row[-1])}")


def test_a_key_shows_who_attends_to_it(page: Page, server: Server) -> None:
    opened(page, server.url, "#layer=0&head=4")
    column = attend(server, BANK, layers=0, heads=[4], outputs=["weights"])[0]["weights"][0, :, 8]
    page.locator("#keys .token").nth(8).hover()
    said = page.locator("#queries .token small").all_inner_texts()
    assert said == [percent(weight) for weight in column]
    expect(page.locator("#readout")).to_contain_text("“river” is attended to most by “bank”")


def test_the_distance_of_a_word_in_two_sentences_is_that_of_its_z(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.locator("#compare").scroll_into_view_if_needed()
    expect(page.locator("#compare-result")).to_be_visible()
    river, loan = (output["z"] for output in attend(server, BANK, LOAN, layers="all", outputs=["z"]))
    for layer in (5, 1):
        a, b = river[layer, 5], loan[layer, 2]
        distance = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        page.locator("#bars button").nth(layer).click()
        expect(page.locator("#distance b")).to_have_text(f"{distance:.3f}")
    expect(page.locator("#neighbours")).to_contain_text("river")


@pytest.mark.parametrize("which", ["all", "one"])
def test_the_curl_command_gives_the_weights_on_the_page(page: Page, server: Server, which: str) -> None:
    sentence = "It's the bank's \"river\" & $HOME \\ bank."
    opened(page, server.url)
    page.fill("#sentence", sentence)
    with page.expect_response("**/attend") as answered:
        page.click("#attend")
    shown = answered.value.json()["outputs"][0]["weights"]
    cell(page, 4, 2).click()
    page.click(f"#curl-{which}")
    command = page.locator("#curl").inner_text()
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=True)
    got = json.loads(done.stdout)["outputs"][0]["weights"]
    np.testing.assert_allclose(got, shown if which == "all" else [shown[4][2]], atol=1e-5)


def test_sizes_and_times_are_those_of_the_reply(page: Page, server: Server) -> None:
    with page.expect_response("**/attend") as answered:
        opened(page, server.url)
    reply = answered.value
    facts = page.locator("#reply").inner_text()
    assert f"{len(reply.body()) / 1000:.1f} kB of JSON" in facts
    assert reply.headers["x-request-id"] in facts
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
    said = page.locator("#timing").inner_text()
    assert set(stages) == {"decode", "queue", "batch", "compute", "encode"}
    for stage, milliseconds in stages.items():
        assert f"{stage} {float(milliseconds):.2f} ms" in said


def test_typing_asks_anew_without_the_button(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#sentence", "Birds sing")
    expect(page.locator("#queries .token")).to_have_text(["[CLS]", "birds", "sing", "[SEP]"])


def test_a_models_own_examples_are_offered_and_make_way_for_no_sentence_of_ones_own(page: Page) -> None:
    own = fake_card("own", examples=("mine first", "mine second"))
    with faking(FakeRuntime(fake_card("another"), own)) as url:
        opened(page, url, "#model=another")
        usual = page.locator("#examples button").all_text_contents()
        assert len(usual) == 3
        expect(page.locator("#sentence")).to_have_value(usual[0])
        page.select_option("#model", "own")
        expect(page.locator("#examples button")).to_have_text(["mine first", "mine second"])
        expect(page.locator("#sentence")).to_have_value("mine first")
        expect(page.locator("#second")).to_have_value("mine second")
        page.fill("#sentence", "typed by hand")
        page.select_option("#model", "another")
        expect(page.locator("#examples button")).to_have_text(usual)
        expect(page.locator("#sentence")).to_have_value("typed by hand")


def test_the_address_brings_back_what_was_shown(page: Page, server: Server) -> None:
    opened(page, server.url)
    page.fill("#sentence", "Birds sing")
    expect(page.locator("#queries .token")).to_have_count(4)
    cell(page, 2, 9).click()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(page.locator("#matrix-title")).to_have_text("Layer 2, head 9")
    assert tokens(page, "queries") == ["[CLS]", "birds", "sing", "[SEP]"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_a_narrow_screen(browser: Browser, server: Server, scheme) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    opened(page, server.url)
    page.locator("#compare").scroll_into_view_if_needed()
    expect(page.locator("#compare-result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    page.close()


def test_a_model_without_text_takes_seeded_rows(page: Page) -> None:
    card = fake_card("bare", layers=1, heads=3, inputs=("embeddings",), vocabulary=None)
    with faking(FakeRuntime(card)) as url:
        opened(page, url)
        expect(page.locator("#queries .token")).to_have_count(8)
        first = page.input_value("#rows")
        page.fill("#rows-seed", "2")
        page.click("#rows-make")
        assert page.input_value("#rows") != first
        page.fill("#rows-seed", "1")
        page.click("#rows-make")
        assert page.input_value("#rows") == first
        page.fill("#rows", "[[1, 2, 3, 4], [5, 6, 7, 8]]")
        expect(page.locator("#queries .token")).to_have_count(2)
        page.fill("#rows", "[[1, 2,")
        expect(page.locator("#notice")).to_contain_text("not JSON")
        expect(page.locator("#compare")).to_be_hidden()


def test_a_result_too_large_is_offered_a_layer_at_a_time(page: Page) -> None:
    with faking(FakeRuntime(), max_result_bytes=2000) as url:
        opened(page, url)
        page.fill("#sentence", "one two three four five six seven eight nine ten eleven twelve")
        notice = page.locator("#notice")
        expect(notice).to_contain_text("413 result_too_large")
        expect(notice).to_contain_text("2000")
        expect(notice).to_contain_text("2304")
        expect(page.locator("#result")).to_have_class(re.compile("stale"))
        notice.get_by_role("button", name="Ask for one layer").click()
        expect(notice).to_be_hidden()
        expect(page.locator("#queries .token")).to_have_count(12)
        expect(page.locator(".cell")).to_have_count(3)


def test_a_sentence_too_long_is_cut_only_when_asked(page: Page) -> None:
    with faking(FakeRuntime()) as url:
        opened(page, url)
        page.fill("#sentence", " ".join(["word"] * 20))
        page.locator("#notice").get_by_role("button", name="Cut it to fit").click()
        expect(page.locator("#remarks")).to_contain_text("4 tokens were cut off")
        expect(page.locator("#queries .token")).to_have_count(16)


def test_a_busy_server_says_when_to_come_back(page: Page) -> None:
    busy, entered, release = threading.Event(), threading.Event(), threading.Event()

    def hold(_: object) -> None:
        if busy.is_set():
            entered.set()
            release.wait(timeout=30)

    with faking(FakeRuntime(fake_card(outputs=("weights",)), before_run=hold), max_queued_requests=1) as url:
        opened(page, url)
        busy.set()
        body = {"inputs": [{"text": "held"}], "outputs": ["weights"]}
        post = functools.partial(httpx.post, f"{url}/v1/models/fake/attend", json=body, timeout=60)
        held = threading.Thread(target=post)
        held.start()
        try:
            assert entered.wait(timeout=30)
            page.click("#attend")
            again = page.locator("#notice").get_by_role("button")
            expect(again).to_be_disabled()
            expect(again).to_have_text(re.compile(r"Try again in \d+ s"))
        finally:
            busy.clear()
            release.set()
            held.join(timeout=30)
        expect(again).to_be_enabled()
        again.click()
        expect(page.locator("#notice")).to_be_hidden()


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(page: Page) -> None:
    with faking(FakeRuntime(), api_keys="sesame") as url:
        page.goto(url)
        page.get_by_role("button", name="Enter a key").click()
        page.keyboard.type("sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#result")).to_be_visible()
        assert page.evaluate("localStorage.length") == 0
        assert "sesame" not in page.content() + page.url
        assert '-H "authorization: Bearer $HEED_API_KEY"' in page.locator("#curl").inner_text()
