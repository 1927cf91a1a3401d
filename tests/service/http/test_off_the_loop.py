"""What many small things take is done off the event loop, in every route and format; few are done on it."""

import json
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request as StarletteRequest
from starlette.testclient import TestClient

from models.protocol import Item
from service.app import create_app, service_of
from service.batching.engine import Draft, Engine
from service.http import resolve
from service.http.oip import outputs as inference_outputs
from service.http.pages import catalog
from service.settings import Settings
from service.wire import json_format, tensor_bodies
from tests.fakes import FakeRuntime, fake_card

FEW, MANY, MOST_TO_EMBED = 2, 4000, 2000
ATTEND, ATTENTION, EMBEDDINGS, INFER = (
    "/v1/models/fake/attend",
    "/v1/attention",
    "/v1/embeddings",
    "/v2/models/fake/infer",
)
SAFETENSORS = "application/x-safetensors"
Request = tuple[str, bytes, dict[str, str]]


def listed(path: str, body: dict[str, Any], **headers: str) -> Request:
    return path, json.dumps(body).encode(), {"content-type": "application/json", **headers}


def ids(count: int) -> Request:
    return listed(ATTEND, {"inputs": [{"token_ids": [1]}] * count, "outputs": ["entropy"]})


def texts(count: int) -> Request:
    return listed(ATTEND, {"inputs": [{"text": "a"}] * count, "outputs": ["entropy"]})


def problems(count: int) -> Request:
    one = {"query": [[1.0]], "key": [[1.0]], "value": [[1.0]]}
    return listed(ATTENTION, {"inputs": [one] * count, "outputs": ["entropy"]})


def lists_to_embed(count: int) -> Request:
    return listed(EMBEDDINGS, {"model": "fake", "input": [[1]] * count})


def base64_of(count: int) -> Request:
    return listed(EMBEDDINGS, {"model": "fake", "input": ["a"] * count, "encoding_format": "base64"})


def tensors(count: int) -> Request:
    header = {
        f"{at}.token_ids": {"dtype": "I64", "shape": [1], "data_offsets": [8 * at, 8 * at + 8]}
        for at in range(count)
    }
    text = json.dumps(header).encode()
    body = struct.pack("<Q", len(text)) + text + np.ones(count, np.int64).tobytes()
    headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
    return f"{ATTEND}?outputs=entropy", body, headers


def batch(count: int) -> Request:
    data = np.ones((count, 1), np.int64).tobytes()
    one = {"name": "token_ids", "shape": [count, 1], "datatype": "INT64"}
    text = json.dumps(
        {"inputs": [one | {"parameters": {"binary_data_size": len(data)}}], "outputs": [{"name": "entropy"}]}
    ).encode()
    return INFER, text + data, {"inference-header-content-length": str(len(text))}


def words(count: int) -> Request:
    one = {"name": "text", "shape": [count], "datatype": "BYTES", "data": ["a"] * count}
    return listed(INFER, {"inputs": [one], "outputs": [{"name": "entropy"}, {"name": "tokens"}]})


class Watched:
    """A server whose stations note whether they ended on the event loop's thread."""

    def __init__(self, client: TestClient, runtime: FakeRuntime) -> None:
        self.client, self.runtime = client, runtime
        self.loop: int | None = None
        self.ended: dict[str, set[int]] = {}

    def ask(self, request: Request) -> dict[str, bool]:
        """Return of each station that had to do with a request whether it ended on the loop."""
        self.ended.clear()
        path, body, headers = request
        reply = self.client.post(path, content=body, headers=headers)
        assert reply.status_code == 200, reply.text
        assert self.loop is not None
        return {name: self.loop in threads for name, threads in self.ended.items()}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    def watch(owner: Any, name: str) -> None:
        work = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            made = work(*arguments, **options)  # TooMuch goes through, and is not noted
            served.ended.setdefault(name, set()).add(threading.get_ident())
            return made

        monkeypatch.setattr(owner, name, noted)

    for owner, name in (
        (json_format._Reader, "envelope"),
        (tensor_bodies.safetensors_format, "decode"),
        (resolve.AttendRequest, "model_validate"),
        (Engine, "draft"),
        (json_format, "in_json"),
        (tensor_bodies.safetensors_format, "encode"),
        (inference_outputs, "_padded"),
    ):
        watch(owner, name)
    admit = Engine.admit

    def on_the_loop(engine: Engine, draft: Draft, **options: Any) -> Any:
        served.loop = threading.get_ident()
        return admit(engine, draft, **options)

    monkeypatch.setattr(Engine, "admit", on_the_loop)
    runtime = FakeRuntime()
    app = create_app(Settings(), runtime)
    with TestClient(app) as client:
        served = Watched(client, runtime)
        yield served


@pytest.mark.parametrize(
    "make",
    [ids, texts, problems, lists_to_embed, base64_of, tensors, batch, words],
    ids=lambda make: make.__name__,
)
def test_many_are_read_checked_counted_and_written_off_the_loop_and_few_on_it(
    watched: Watched, make: Callable[[int], Request]
) -> None:
    few = watched.ask(make(FEW))
    assert set(few.values()) == {True}
    many = watched.ask(make(MOST_TO_EMBED if make in (lists_to_embed, base64_of) else MANY))
    assert many.keys() == few.keys() >= {"draft"}
    if make is batch:  # its JSON is as short as ever
        assert many.pop("envelope")
    assert set(many.values()) == {False}


def test_items_of_many_inputs_are_those_of_one_by_one(watched: Watched) -> None:
    watched.ask(ids(MANY))
    ran: list[Item] = [item for batch in watched.runtime.batches for item in batch]
    assert len(ran) == MANY


def test_list_of_many_models_is_written_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    write = catalog._json

    def noted(body: dict[str, Any]) -> Any:
        threads.append(threading.get_ident())
        return write(body)

    monkeypatch.setattr(catalog, "_json", noted)
    cards = [fake_card(f"m{at}") for at in range(catalog.FEW_MODELS + 1)]
    for count in (1, len(cards)):
        app = create_app(Settings(), FakeRuntime(*cards[:count]))
        with TestClient(app) as client:
            loop: list[int] = []
            monkeypatch.setattr(
                service_of(app).metrics, "note", lambda loop=loop: loop.append(threading.get_ident())
            )
            threads.clear()
            assert len(client.get("/v1/models").json()["data"]) == count
            while not loop:
                client.get("/health")
            assert (threads[0] in loop) == (count == 1)


def test_query_of_thousands_of_names_is_refused_before_it_is_taken_apart(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        StarletteRequest, "query_params", property(lambda _: pytest.fail("it was taken apart"))
    )
    query = "&".join(f"x{at}=1" for at in range(4000))
    reply = watched.client.post(f"{ATTEND}?{query}", content=b"", headers={"content-type": SAFETENSORS})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "malformed")


def test_description_of_the_api_is_made_off_the_loop_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(), FakeRuntime())
    describe, threads, loop = app.openapi, [], []

    def noted() -> dict[str, Any]:
        threads.append(threading.get_ident())
        return describe()

    monkeypatch.setattr(app, "openapi", noted)
    monkeypatch.setattr(service_of(app).metrics, "request", lambda **_: loop.append(threading.get_ident()))
    with TestClient(app) as client:
        pages = [client.get("/openapi.json").json() for _ in range(2)]
    assert pages[0] == pages[1] == describe()
    assert len(threads) == 1
    assert threads[0] not in loop
