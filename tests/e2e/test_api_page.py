"""`/docs` in a real browser: under its content policy it still lists the routes and tries them."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.explorer.pages import CHROMIUM, QUIET, faking, with_chromium
from tests.fakes import FakeRuntime

pytestmark = with_chromium


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        made = browser.new_page(viewport={"width": 1280, "height": 900})
        made.set_default_timeout(20_000)
        complaints: list[str] = []
        made.on("pageerror", lambda error: complaints.append(str(error)))
        made.on(
            "console",
            lambda said: complaints.append(said.text) if said.type == "error" else None,
        )
        yield made
        assert complaints == []
        browser.close()


def test_routes_are_listed_and_tried_from_the_page_alone(page: Page) -> None:
    with faking(FakeRuntime(), api_keys="sesame") as url:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/docs")
        route = page.locator(".opblock", has_text="/v1/models").filter(has_text="GET").first
        expect(route).to_be_visible()
        page.get_by_role("button", name="Authorize").first.click()
        page.locator(".auth-container input").first.fill("sesame")
        page.locator(".auth-container .authorize").first.click()
        page.locator(".close-modal").click()
        route.click()
        route.get_by_role("button", name="Try it out").click()
        route.get_by_role("button", name="Execute").click()
        expect(route.locator(".live-responses-table tbody .response-col_status").first).to_have_text("200")
        assert {one for one in asked if not one.startswith((url, "data:", "blob:"))} == set()


def test_no_other_page_may_frame_it_and_nothing_foreign_may_run_in_it(page: Page) -> None:
    with faking(FakeRuntime()) as url:
        reply = page.goto(f"{url}/docs")
        assert reply is not None
        policy = dict(
            part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";")
        )
        assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
        assert "unsafe-inline" not in policy["script-src"]
        assert "http" not in reply.headers["content-security-policy"]
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["x-content-type-options"] == "nosniff"
        expect(page.locator(".opblock").first).to_be_visible()
