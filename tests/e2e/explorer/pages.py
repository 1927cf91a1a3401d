"""What the tests of the Explorer share: a server on a fake runtime, and ways to a page's parts."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Browser, Locator, Page, expect
from starlette.types import ASGIApp

from models.protocol import Runtime
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeRuntime
from tests.real_server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-sync",
)
BANK = "She sat on the bank of the river."
FIELDS = (
    "fields => fields.map((field) => [field.id, field.type === 'checkbox' ? field.checked : field.value])"
)
PRESSED = "all => all.map((one) => one.getAttribute('aria-label') ?? one.textContent)"
PAINTED = "all => all.map((one) => one.toDataURL())"
PIXELS = "map => [...map.getContext('2d').getImageData(0, 0, map.width, map.height).data]"

with_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium found; deploy/install-test-tools.sh installs it"
)


@contextmanager
def faking(
    runtime: FakeRuntime, *, before: Callable[[ASGIApp], ASGIApp] = lambda app: app, **settings: object
) -> Iterator[str]:
    """The wired application on a fake runtime and a real socket; `before` puts a proxy in front of it."""
    with running(runtime, before=before, **settings) as url:
        try:
            yield url
        finally:
            runtime.gate.set()


@contextmanager
def running(
    runtime: Runtime, *, before: Callable[[ASGIApp], ASGIApp] = lambda app: app, **settings: object
) -> Iterator[str]:
    """The wired application on any runtime and a real socket."""
    with listening(before(create_app(Settings(**settings), runtime))) as url:
        yield url


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Any application on a real socket."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # a caller that comes early waits
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def opened(page: Page, url: str, place: str = "") -> Page:
    page.goto(f"{url}/{place}")
    expect(page.locator("#result")).to_be_visible()
    return page


def attend(server: Server, *sentences: str, **options: object) -> list[dict[str, np.ndarray]]:
    reply = server.post({"inputs": [{"text": sentence} for sentence in sentences], **options})
    assert reply.status_code == 200, reply.text
    return [{name: np.array(value) for name, value in output.items()} for output in reply.json()["outputs"]]


def cell(page: Page, layer: int, head: int | str) -> Locator:
    return page.locator(f'.cell[data-layer="{layer}"][data-head="{head}"]')


def percent(weight: float) -> str:
    """Return a weight as the page writes it beside a token."""
    return "<1%" if 0 < weight < 0.005 else f"{int(100 * weight + 0.5)}%"


@contextmanager
def elsewhere(browser: Browser, page: Page) -> Iterator[Page]:
    """Open what `page` shows in a browser that has never seen it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator("#result")).to_be_visible()
    yield other
    context.close()


def everything(page: Page) -> dict[str, object]:
    """Return all that can be seen of what was chosen, and what was drawn of it."""
    page.mouse.move(0, 0)
    return {
        "fields": page.locator("main :is(input, select, textarea)").evaluate_all(FIELDS),
        "pressed": page.locator("main [aria-pressed=true]").evaluate_all(PRESSED),
        "matrix": page.locator("#matrix-title").inner_text() + page.locator("#readout").inner_text(),
        "painted": page.locator("#grid canvas").evaluate_all(PAINTED),
        "kept": page.locator("#kept").inner_text(),
        "edits": page.locator("#edits li").all_inner_texts(),
        "next": page.locator("#next-list li").all_inner_texts(),
        "pair": page.locator("#pair-sum").inner_text(),
        "words": page.locator("#distance").inner_text(),
    }
