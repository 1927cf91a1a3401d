"""What the tests of the Explorer share: a server on a fake runtime, and ways to a page's parts."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Locator, Page, expect

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
PIXELS = "map => [...map.getContext('2d').getImageData(0, 0, map.width, map.height).data]"

with_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium found; deploy/install-test-tools.sh installs it"
)


@contextmanager
def faking(runtime: FakeRuntime, **settings: object) -> Iterator[str]:
    """The wired application on a fake runtime and a real socket."""
    with running(runtime, **settings) as url:
        try:
            yield url
        finally:
            runtime.gate.set()


@contextmanager
def running(runtime: Runtime, **settings: object) -> Iterator[str]:
    """The wired application on any runtime and a real socket."""
    app = create_app(Settings(**settings), runtime)
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
