"""Long texts of a request: off the event loop, in turns, and no more of them than somebody waits for."""

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from models.protocol import ModelCard, Text
from service.app import create_app, service_of
from service.http.around.host import DEPARTURE, Departure
from service.settings import Settings
from tests.fakes import FakeRuntime, fake_card

LONG = "a " * 7 + " " * 20_000  # 20 ms by the card, 7 tokens
JSON = {"content-type": "application/json"}


class Reader(FakeRuntime):
    """Remembers which texts were read on which thread; a text with `hold` waits to be let go."""

    def __init__(self, *cards: ModelCard) -> None:
        super().__init__(*cards)
        self.read: list[str] = []
        self.threads: set[int] = set()
        self.holding, self.go = threading.Event(), threading.Event()

    def tokenize(self, card: ModelCard, text: str, *arguments: Any, **options: Any) -> Text:
        self.read.append(text)
        self.threads.add(threading.get_ident())
        if "hold" in text:
            self.holding.set()
            assert self.go.wait(30)
        return super().tokenize(card, text, *arguments, **options)


Post = Callable[[str, Any], Coroutine[Any, Any, httpx.Response]]


def serve(
    runtime: Reader, main: Callable[[Post], Any], *, departure: Departure | None = None, **settings: Any
) -> Any:
    """Run `main` with a function that posts to a server of its own."""
    app = create_app(Settings(**settings), runtime)

    async def departing(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, DEPARTURE: departure or Departure()}, receive, send)

    async def run() -> Any:
        transport = httpx.ASGITransport(departing)
        async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:

            async def post(path: str, body: Any) -> httpx.Response:
                given = {"content": body} if isinstance(body, bytes) else {"json": body}
                return await client.post(path, **given)

            return await main(post)

    engine = service_of(app).engine
    engine.start()
    try:
        return asyncio.run(run())
    finally:
        runtime.go.set()
        engine.stop(5)


def oip(texts: list[str]) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]}


ROUTES: dict[str, tuple[str, Callable[[list[str]], Any]]] = {
    "attend": ("/v1/models/fake/attend", lambda texts: {"inputs": [{"text": text} for text in texts]}),
    "pairs": (
        "/v1/models/fake/attend",
        lambda texts: {"inputs": [{"text": text, "pair": "b"} for text in texts]},
    ),
    "embeddings": ("/v1/embeddings", lambda texts: {"model": "fake", "input": texts}),
    "infer": ("/v2/models/fake/infer", oip),
}


@pytest.mark.parametrize("route", ROUTES)
def test_long_texts_are_read_on_another_thread_than_the_event_loop(route):
    path, body = ROUTES[route]
    for texts, inside in ((["a b", "c"], True), ([LONG, "a"], False)):
        runtime = Reader()

        async def main(post: Post, texts: list[str] = texts) -> int:
            assert (await post(path, body(texts))).status_code == 200
            return threading.get_ident()

        loop = serve(runtime, main)
        assert (loop in runtime.threads) == inside
        assert runtime.read == texts


def test_what_is_long_goes_by_how_fast_a_tokenizer_is():
    for text_ms, inside in ((0.1, True), (1e6, False)):
        runtime = Reader(fake_card(text_ms=text_ms))

        async def main(post: Post, text: str = LONG if inside else "a") -> int:
            assert (await post(*attend(text))).status_code == 200
            return threading.get_ident()

        assert (serve(runtime, main) in runtime.threads) == inside


def attend(*texts: str, **options: Any) -> tuple[str, Any]:
    return "/v1/models/fake/attend", {"inputs": [{"text": text} for text in texts], **options}


def test_long_texts_have_the_answers_of_short_ones():
    async def main(post: Post) -> list[Any]:
        return [(await post(*attend(text, "b c", outputs=["z"]))).json() for text in (LONG, LONG.strip())]

    long, short = serve(Reader(), main)
    assert long == short


def test_nothing_is_read_after_the_deadline():
    runtime = Reader()

    async def main(post: Post) -> httpx.Response:
        reply = await post(*attend(LONG + "hold", LONG, LONG, deadline_ms=50))
        runtime.go.set()
        return reply

    reply = serve(runtime, main)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "texts were tokenized" in reply.json()["error"]["message"]
    assert runtime.read == [LONG + "hold"]


def test_nothing_is_read_for_a_caller_who_has_left():
    runtime, departure = Reader(), Departure()

    async def main(post: Post) -> None:
        asked = asyncio.ensure_future(post(*attend(LONG + "hold", LONG, LONG)))
        assert await asyncio.to_thread(runtime.holding.wait, 30)
        departure.happened()
        runtime.go.set()
        with pytest.raises(AssertionError):  # httpx: no reply was ever begun
            await asked

    serve(runtime, main, departure=departure)
    assert runtime.read == [LONG + "hold"]


def test_requests_with_long_texts_take_turns():
    """A request of many texts does not keep one of few waiting until its last."""
    runtime = Reader(fake_card(), fake_card("other"))

    async def main(post: Post) -> int:
        many = asyncio.ensure_future(post(*attend(LONG + "hold", *[LONG] * 400)))
        assert await asyncio.to_thread(runtime.holding.wait, 30)
        few = asyncio.ensure_future(post("/v1/models/other/attend", {"inputs": [{"text": LONG + "few"}]}))
        assert (await few).status_code == 200
        runtime.go.set()
        assert (await many).status_code == 200
        return 0

    serve(runtime, main)
    assert runtime.read.index(LONG + "few") == 1


@pytest.mark.parametrize("route", ROUTES)
def test_no_more_is_read_than_one_request_may_have(route):
    runtime = Reader()
    path, body = ROUTES[route]

    async def main(post: Post) -> httpx.Response:
        return await post(path, body([LONG] * 200))

    reply = serve(
        runtime, main, max_queued_tokens=64, max_batch_tokens=64, max_sequence_tokens=64, max_body_bytes=2**23
    )
    assert reply.status_code == 413
    assert "the limit is" in reply.text or "the limit for all texts" in reply.text
    assert runtime.read == []  # by its bytes already

    def unlimited(self: object) -> None:
        return None

    runtime = Reader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.http.context.RequestLimits.text_bytes", property(unlimited))
        reply = serve(
            runtime,
            main,
            max_queued_tokens=64,
            max_batch_tokens=64,
            max_sequence_tokens=64,
            max_body_bytes=2**23,
        )
    assert reply.status_code == 413
    assert "tokens together, the limit is 64" in reply.text
    assert 0 < len(runtime.read) <= 20


def test_binary_texts_are_counted_too():
    texts = [LONG.encode()] * 10
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    header = (
        b'{"inputs":[{"name":"text","shape":[10],"datatype":"BYTES","parameters":{"binary_data_size":%d}}]}'
        % len(data)
    )
    runtime = Reader()
    app = create_app(Settings(max_queued_tokens=64, max_batch_tokens=64, max_sequence_tokens=64), runtime)

    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:
            length = {"Inference-Header-Content-Length": str(len(header))}
            return await client.post("/v2/models/fake/infer", content=header + data, headers=length)

    reply = asyncio.run(main())
    assert reply.status_code == 413
    assert "characters of text together, the limit is 4096" in reply.text
    assert runtime.read == []


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("text", ["a " * 10, LONG + "a " * 3])
def test_a_text_over_the_servers_own_limit_is_refused_with_it(route, text):
    path, body = ROUTES[route]

    async def main(post: Post) -> httpx.Response:
        return await post(path, body([text]))

    reply = serve(Reader(), main, max_sequence_tokens=8)
    assert reply.status_code == 413
    assert f"{'input' if route == 'embeddings' else 'inputs'}[0]: the text has 1" in reply.text
    assert "the server's limit is 8" in reply.text


@pytest.mark.parametrize("wrong", [{"outputs": ["nothing"]}, {"layers": 99}])
def test_what_is_wrong_anyway_is_said_before_a_text_is_read(wrong):
    runtime = Reader()

    async def main(post: Post) -> httpx.Response:
        return await post(*attend(LONG, LONG, **wrong))

    assert serve(runtime, main).status_code == 422
    assert runtime.read == []


def test_a_bad_text_among_long_ones_is_named_by_its_place():
    async def main(post: Post) -> httpx.Response:
        return await post(*attend(LONG, "b " * 20, LONG))

    reply = serve(Reader(), main)
    assert reply.status_code == 413
    assert reply.json()["error"]["message"].startswith("inputs[1]: the text has 20 tokens")
