"""Memory may run out in any line of a request: that is 503 `out_of_memory`, and the next is answered."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from models.protocol import Item, Text
from service.app import create_app, service_of
from service.http import attend, exchange
from service.settings import Settings
from tests.fakes import FakeRuntime

JSON = {"content-type": "application/json", "x-request-id": "r-1"}


def no_memory(*_: object, **__: object) -> Any:
    """Fail as numpy does."""
    np.empty(1 << 62, dtype=np.uint8)


class Starved(FakeRuntime):
    """Has no memory for the text `starve`, and none for a batch with one sequence of 13 tokens."""

    def tokenize(self, *arguments: Any, **options: Any) -> Text:
        if arguments[1].startswith("starve"):
            no_memory()
        return super().tokenize(*arguments, **options)

    def begin(self, batch: Sequence[Item], slots: int) -> None:
        if any(item.input.queries == 13 for item in batch):
            no_memory()
        super().begin(batch, slots)


def replies(*bodies: dict[str, object], before: Callable[[], None] = lambda: None) -> list[httpx.Response]:
    """Ask one after another, of a server of its own."""
    app = create_app(Settings(), Starved())

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:
            return [await client.post("/v1/models/fake/attend", json=body, headers=JSON) for body in bodies]

    engine = service_of(app).engine
    engine.start()
    try:
        before()
        return asyncio.run(main())
    finally:
        engine.stop(5)


def check(starved: httpx.Response) -> None:
    assert starved.status_code == 503
    assert starved.json()["error"]["code"] == "out_of_memory"
    assert starved.json()["error"]["request_id"] == starved.headers["x-request-id"] == "r-1"
    assert starved.headers["retry-after"] == "1"


FINE = {"inputs": [{"text": "a b"}], "outputs": ["z"]}


@pytest.mark.parametrize(
    "starving",
    [
        {"inputs": [{"text": "starve"}]},  # on the event loop
        {"inputs": [{"text": "starve " * 2000}]},  # on a thread
        {"inputs": [{"token_ids": [1] * 13}]},  # on the device's
    ],
    ids=["loop", "thread", "device"],
)
def test_what_has_no_memory_is_refused_and_the_next_is_answered(starving: dict[str, object]) -> None:
    starved, fine = replies(starving, FINE)
    check(starved)
    assert fine.status_code == 200


def test_a_reply_that_cannot_be_written_is_refused_and_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as starving, caplog.at_level(logging.ERROR):
        starved, again = replies(FINE, FINE, before=lambda: starving.setattr(attend, "Reply", no_memory))
    check(starved)
    check(again)
    logged = [record for record in caplog.records if record.message == "out of memory"]
    assert [record.fields for record in logged] == [{"id": "r-1"}] * 2  # type: ignore[attr-defined]


def test_so_is_one_whose_last_line_before_the_reply_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as starving:
        (starved,) = replies(FINE, before=lambda: starving.setattr(exchange, "server_timing", no_memory))
    check(starved)
