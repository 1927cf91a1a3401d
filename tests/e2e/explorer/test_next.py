"""What the model would write after the last row, for a [MASK], at a row held; and what edits do to it."""

from dataclasses import replace

import httpx
import numpy as np
from playwright.sync_api import Browser, Page, expect

from models.pooling_spec import PredictionCard
from tests.e2e.explorer.pages import cell, elsewhere, everything, faking, opened, with_chromium
from tests.fakes import FakeRuntime, fake_card

TOLD = "Mary met Tom. She told him about"
SILENT = {"edit": "scale", "heads": [[0, 2]], "value": 0}  # the head that reads who it is about

NEXT_WORDS = PredictionCard(words=100, of="next", table="own", tokens=1.0)
OWN_WORDS = replace(NEXT_WORDS, of="own")

pytestmark = with_chromium


def predicted(url: str, *edits: dict[str, object], row: int = 7) -> dict[str, float]:
    """Return the probability of each word of the vocabulary that may follow a row of TOLD."""
    entry = {"text": TOLD, "edits": list(edits)} if edits else {"text": TOLD}
    body = {"inputs": [entry], "layers": -1, "rows": [row], "outputs": ["next"], "top_k": 148}
    reply = httpx.post(f"{url}/v1/models/demo-attention/attend", json=body)
    assert reply.status_code == 200, reply.text
    (output,) = reply.json()["outputs"]
    return dict(zip(output["next_tokens"][0], np.exp(output["next_logprobs"][0]), strict=True))


def words(page: Page) -> list[str]:
    return page.locator("#next-list b").all_inner_texts()


def shares(page: Page) -> list[float]:
    return [float(text.rstrip("%")) for text in page.locator("#next-list span").all_inner_texts()]


def test_the_likeliest_words_stand_under_the_last_row(page: Page, demo: str) -> None:
    opened(page, demo, f"#text={TOLD}")
    expect(page.locator("#next-of")).to_have_text("After “about”:")
    expect(page.locator("#next-list li")).to_have_count(6)
    after = predicted(demo)
    assert words(page) == list(after)[:6]
    np.testing.assert_allclose(shares(page), [100 * after[word] for word in words(page)], atol=0.051)


def test_a_row_that_is_held_says_what_follows_it(page: Page, demo: str) -> None:
    opened(page, demo, f"#text={TOLD}")
    page.locator("#queries .token").nth(4).click()
    expect(page.locator("#next-of")).to_have_text("After “she”:")
    expect(page.locator("#next-list b").first).to_have_text(next(iter(predicted(demo, row=4))))


def test_a_silenced_head_changes_the_prediction_in_plain_sight(page: Page, demo: str) -> None:
    opened(page, demo, f"#text={TOLD}")
    expect(page.locator("#next-list b").first).to_have_text("herself")
    page.click("#keep")
    cell(page, 0, 2).click(modifiers=["Alt"])
    expect(page.locator("#next-list b").first).to_have_text("himself")
    before, after = predicted(demo), predicted(demo, SILENT)
    assert set(words(page)) == {*list(before)[:6], *list(after)[:6]}
    assert words(page) == sorted(words(page), key=lambda word: -after[word])
    np.testing.assert_allclose(shares(page), [100 * after[word] for word in words(page)], atol=0.051)
    changes = [100 * (after[word] - before[word]) for word in words(page)]
    said = page.locator("#next-list em").all_inner_texts()
    written = [float(text.replace("−", "-").replace("same", "0")) for text in said]
    np.testing.assert_allclose(written, changes, atol=0.051)


def test_a_mask_is_what_is_asked_about_where_there_is_one(page: Page) -> None:
    runtime = FakeRuntime(fake_card("masked", predictions=OWN_WORDS))
    with faking(runtime) as url:
        opened(page, url, "#text=one two three")
        expect(page.locator("#next-of")).to_contain_text("write one into the sentence")
        page.fill("#sentence", "one [MASK] three four")
        expect(page.locator("#next-of")).to_have_text("In place of “[MASK]”:")
        page.locator("#queries .token").nth(2).click()
        expect(page.locator("#next-of")).to_have_text("In place of “three”:")
    ran = [item.selection for batch in runtime.batches for item in batch]
    assert [selection.rows for selection in ran if "next_ids" in selection] == [(1,), (2,)]


def test_a_model_without_predictions_says_so_and_leads_to_one_that_has_them(page: Page) -> None:
    mute = fake_card("mute", outputs=("weights",), not_offered={"next_ids": "its folder has no table"})
    with faking(FakeRuntime(mute, fake_card("eloquent", predictions=NEXT_WORDS))) as url:
        opened(page, url, "#model=mute")
        expect(page.locator("#next-refused")).to_contain_text("its folder has no table")
        page.locator("#next-refused").get_by_role("button", name="eloquent").click()
        expect(page.locator("#next-refused")).to_be_hidden()
        expect(page.locator("#next-list li").first).to_be_visible()


def test_predictions_beside_the_kept_run_are_restored(page: Page, browser: Browser, demo: str) -> None:
    opened(page, demo, "#text=Mary met Tom. She told him about")
    page.click("#keep")
    cell(page, 0, 2).click(modifiers=["Alt"])
    expect(page.locator("#next-list b").first).to_have_text("himself")
    before = everything(page)
    with elsewhere(browser, page) as other:
        expect(other.locator("#next-list b").first).to_have_text("himself")
        assert everything(other) == before
