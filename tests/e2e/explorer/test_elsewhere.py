"""A real browser: pages of other origins that ask, and ours behind a proxy's path and in a frame."""

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.e2e.explorer.pages import faking, listening, with_chromium
from tests.fakes import FakeRuntime

pytestmark = with_chromium

PREFIX = "/heed"
FETCHED = """async ([url, options]) => {
    try {
        const reply = await fetch(url, options);
        const headers = ["x-request-id", "server-timing"].filter((one) => reply.headers.get(one));
        return {status: reply.status, headers, body: await reply.json()};
    } catch (error) {
        return {failed: error.name};
    }
}"""
FRAMING = """<!doctype html><title>elsewhere</title><iframe width="1200" height="800"></iframe><script>
    const frame = document.querySelector("iframe");
    if (location.search) frame.sandbox = decodeURIComponent(location.search.slice(1));
    if (location.hash) frame.src = location.hash.slice(1);
</script>"""
BODY = json.dumps({"inputs": [{"text": "ein Satz"}], "outputs": ["z"]})


def page_of(html: str) -> ASGIApp:
    """Return a server of one page, of an origin of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": html.encode()})

    return app


def proxy(*, takes_it_away: bool) -> Callable[[ASGIApp], ASGIApp]:
    """Return what has a server under PREFIX and knows nothing else; it takes the prefix away, or does not."""

    def before(app: ASGIApp) -> ASGIApp:
        async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                if not f"{scope['path']}/".startswith(f"{PREFIX}/"):
                    await send({"type": "http.response.start", "status": 418, "headers": []})
                    await send({"type": "http.response.body", "body": b"not of this server"})
                    return
                if takes_it_away:
                    scope = {**scope, "path": scope["path"].removeprefix(PREFIX) or "/"}
            await app(scope, receive, send)

        return passed_on

    return before


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with listening(page_of(FRAMING)) as url:
        yield url


def asked(page: Page, url: str, **headers: str) -> dict[str, object]:
    options = {"method": "POST", "body": BODY, "headers": {"content-type": "application/json", **headers}}
    found: dict[str, object] = page.evaluate(FETCHED, [f"{url}/v1/models/fake/attend", options])
    return found


def test_a_page_of_a_named_origin_attends_and_reads_refusals(page: Page, elsewhere: str) -> None:
    with faking(FakeRuntime(), cors_origins=elsewhere, api_keys="sesame") as url:
        page.goto(elsewhere)
        found = asked(page, url, authorization="Bearer sesame")
        assert (found["status"], found["headers"]) == (200, ["x-request-id", "server-timing"])
        assert found["body"]["usage"] == {"sequences": 1, "tokens": 2}  # type: ignore[index]
        refused = asked(page, url)
        assert (refused["status"], refused["headers"]) == (401, ["x-request-id"])
        assert refused["body"]["error"]["code"] == "unauthorized"  # type: ignore[index]


def test_a_page_of_any_other_origin_reads_nothing(page: Page, elsewhere: str) -> None:
    runtime = FakeRuntime()
    with faking(runtime, cors_origins="https://app.example.com") as url:
        page.goto(elsewhere)
        assert asked(page, url) == {"failed": "TypeError"}
        assert runtime.batches == []  # the browser asked first, and then not at all


@pytest.mark.parametrize("takes_it_away", [True, False])
@pytest.mark.parametrize("end", ["", "/"])
def test_the_explorer_works_behind_a_path(page: Page, takes_it_away: bool, end: str) -> None:
    with faking(FakeRuntime(), before=proxy(takes_it_away=takes_it_away), root_path=PREFIX) as url:
        page.goto(f"{url}{PREFIX}{end}")
        page.locator("#result").wait_for()
        expect(page.locator("#curl")).to_contain_text(f"{url}{PREFIX}/v1/models/fake/attend")
        page.get_by_role("link", name="API", exact=True).click()
        page.locator(".opblock").first.wait_for()


def test_the_explorer_works_behind_a_path_that_nobody_named(page: Page) -> None:
    with faking(FakeRuntime(), before=proxy(takes_it_away=True)) as url:
        page.goto(f"{url}{PREFIX}/")
        page.locator("#result").wait_for()


@pytest.mark.parametrize("takes_it_away", [True, False])
def test_routes_are_tried_from_the_api_page_behind_a_path(page: Page, takes_it_away: bool) -> None:
    with faking(FakeRuntime(), before=proxy(takes_it_away=takes_it_away), root_path=PREFIX) as url:
        page.goto(f"{url}{PREFIX}/docs")
        route = page.locator(".opblock", has_text="/v1/models").filter(has_text="GET").first
        route.click()
        route.get_by_role("button", name="Try it out").click()
        route.get_by_role("button", name="Execute").click()
        expect(route.locator(".live-responses-table tbody .response-col_status").first).to_have_text(
            "200", timeout=20_000
        )


@pytest.mark.parametrize("sandbox", ["allow-scripts allow-forms allow-same-origin", ""])
def test_the_explorer_works_in_a_frame_of_a_named_origin(page: Page, elsewhere: str, sandbox: str) -> None:
    other_site = elsewhere.replace("127.0.0.1", "localhost")
    with faking(FakeRuntime(), frame_ancestors=other_site, api_keys="sesame") as url:
        page.goto(f"{other_site}/?{sandbox}#{url}/")
        frame = page.frame_locator("iframe")
        expect(frame.locator("#notice")).to_contain_text("key", timeout=20_000)
        frame.locator("#key summary").click()
        frame.locator("#key-field").fill("sesame")
        frame.get_by_role("button", name="Use it", exact=True).click()
        frame.locator("#result").wait_for()


def test_the_explorer_works_in_a_frame_that_has_no_origin(page: Page, elsewhere: str) -> None:
    with faking(FakeRuntime(), frame_ancestors="*", cors_origins="*", api_keys="sesame") as url:
        page.goto(f"{elsewhere}/?allow-scripts allow-forms#{url}/")
        frame = page.frame_locator("iframe")
        frame.locator("#key summary").click()
        frame.locator("#key-field").fill("sesame")  # which the browser keeps nowhere
        frame.get_by_role("button", name="Use it", exact=True).click()
        frame.locator("#result").wait_for()


@pytest.mark.parametrize("ancestors", ["", "self", "https://huggingface.co"])
def test_no_other_page_may_frame_it(page: Page, elsewhere: str, ancestors: str) -> None:
    with faking(FakeRuntime(), frame_ancestors=ancestors) as url:
        with page.expect_console_message(lambda said: "frame-ancestors" in said.text):
            page.goto(f"{elsewhere}/#{url}/")
        expect(page.frame_locator("iframe").locator("#ask")).to_have_count(0)
        page.errors.clear()  # type: ignore[attr-defined]
