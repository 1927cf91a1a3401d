"""A real browser for the tests of the Explorer; a page that had an error fails its test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from models.runtime import TorchRuntime
from tests.e2e.explorer.pages import CHROMIUM, QUIET, running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as tools:
        made = tools.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    made = browser.new_page(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(20_000)
    made.errors = []
    made.on("pageerror", lambda error: made.errors.append(str(error)))
    made.on("console", lambda said: made.errors.append(said.text) if "Security Policy" in said.text else None)
    yield made
    assert made.errors == []
    made.close()


@pytest.fixture(scope="module")
def demo(repository: Path) -> Iterator[str]:
    """The demo model that learned to predict words, served."""
    runtime = TorchRuntime(repository, models=("demo-attention",), device="cpu", dtype="float32")
    with running(runtime) as url:
        yield url
