"""The application under a server that is not ours: ASGI's own types, whatever the size of a reply."""

import asyncio
import io
import json
import pickle
import socket
from collections.abc import Iterator
from threading import Thread

import httpx
import numpy as np
import pytest
import safetensors.numpy
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from service.app import create_app, service_of
from service.http.around.host import BUFFERS
from service.settings import Settings
from service.socket.server import Server, bind
from tests.fakes import FakeRuntime, fake_card

WIDTH = 512
X = np.random.default_rng(0).standard_normal((1000, WIDTH), dtype=np.float32)  # z is 2 MB
JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def binary_infer() -> tuple[bytes, str]:
    head = {
        "inputs": [
            {
                "name": "embeddings",
                "shape": list(X.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": X.nbytes},
            }
        ],
        "outputs": [{"name": "z", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    return text + X.tobytes(), str(len(text))


ATTEND = "/v1/models/fake/attend"
INFER = binary_infer()
LARGE: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "npy": (f"{ATTEND}?outputs=z", npy(X), {"content-type": NPY, "accept": NPY}),
    "safetensors": (
        f"{ATTEND}?outputs=z,hidden",
        safetensors.numpy.save({"0.embeddings": X}),
        {"content-type": SAFETENSORS, "accept": SAFETENSORS},
    ),
    "json": (f"{ATTEND}?outputs=z", npy(X), {"content-type": NPY, "accept": JSON}),
    "gzip": (f"{ATTEND}?outputs=z", npy(X), {"content-type": NPY, "accept": JSON, "accept-encoding": "gzip"}),
    "oip": (
        "/v2/models/fake/infer",
        INFER[0],
        {"content-type": "application/octet-stream", "inference-header-content-length": INFER[1]},
    ),
    "unknown": ("/v1/models/none/attend", npy(X), {"content-type": NPY}),
    "page": ("/v1/models/fake", b"", {}),
}


class Recorded:
    """An application in front of ours that keeps every message; as `ours` it passes for our own server."""

    def __init__(self, *, ours: bool = False) -> None:
        self.app = create_app(Settings(), FakeRuntime(fake_card(d_model=WIDTH, max_tokens=None)))
        self.messages: list[Message] = []
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def kept(message: Message) -> None:
            self.messages.append(dict(message))
            await send(message)

        if self._ours:
            scope = {**scope, "extensions": {BUFFERS: {}}}
        await self.app(scope, receive, kept)


def asked(app: Recorded, name: str) -> httpx.Response:
    path, body, headers = LARGE[name]

    async def ask() -> httpx.Response:
        async with app.app.router.lifespan_context(app.app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:
                if not body:
                    return await client.get(path)
                headers.setdefault("accept-encoding", "identity")
                return await client.post(path, content=body, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("name", LARGE)
def test_every_message_to_a_strange_server_is_of_asgi_s_own_types(name: str) -> None:
    app = Recorded()
    asked(app, name)
    assert pickle.loads(pickle.dumps(app.messages)) == app.messages
    for message in app.messages:
        assert all(type(one) is bytes for pair in message.get("headers", ()) for one in pair)
        assert type(message.get("body", b"")) is bytes


@pytest.mark.parametrize("name", ["npy", "safetensors", "oip"])
def test_our_own_server_is_given_tensors_as_they_lie(name: str) -> None:
    app = Recorded(ours=True)
    reply = asked(app, name)
    kinds = {type(message["body"]) for message in app.messages if len(message.get("body", b"")) > 2**20}
    assert kinds == {memoryview}
    assert reply.content == asked(Recorded(), name).content


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The application on a thread, by uvicorn as anyone starts it."""
    app = create_app(Settings(), FakeRuntime(fake_card(d_model=WIDTH, max_tokens=None)))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("name", ["npy", "safetensors", "oip"])
def test_tensors_are_right_under_plain_uvicorn(address: str, name: str) -> None:
    path, body, headers = LARGE[name]
    reply = httpx.post(address + path, content=body, headers=headers)
    assert reply.status_code == 200, reply.text
    if name == "npy":
        found = np.load(io.BytesIO(reply.content))
    elif name == "safetensors":
        found = safetensors.numpy.load(reply.content)["0.z"]
    else:
        start = int(reply.headers["inference-header-content-length"])
        found = np.frombuffer(reply.content[start:], np.float32).reshape(X.shape)
    np.testing.assert_array_equal(found, 2 * X)


def test_everything_else_is_served_under_plain_uvicorn(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        assert client.get("/health").json()["status"] == "ready"
        assert client.get("/metrics").status_code == client.get("/").status_code == 200
        reply = client.post(ATTEND, json={"inputs": [{"text": "a b"}]}, headers={"accept-encoding": "gzip"})
        assert reply.json()["outputs"][0]["tokens"] == ["a", "b"]
        assert client.post(ATTEND, content=b"{").status_code == 400
        assert client.post(ATTEND, json={"inputs": []}).status_code == 422


def test_our_own_connection_says_that_it_takes_buffers() -> None:
    app = Recorded()
    seen: list[object] = []

    async def looked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(scope["extensions"])
        await app(scope, receive, send)

    service = service_of(app.app)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]

    async def ask() -> bytes:
        listening = asyncio.Event()
        server = Server(
            looked,
            lifecycle=service.lifecycle,
            drain_seconds=0,
            max_body_bytes=2**24,
            listening=listening.set,
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await listening.wait()
        path, body, headers = LARGE["npy"]
        async with httpx.AsyncClient() as client:
            reply = await client.post(f"http://127.0.0.1:{port}{path}", content=body, headers=headers)
        service.lifecycle.drain()
        server.should_exit = True
        await task
        return reply.content

    content = asyncio.run(ask())
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), 2 * X)
    assert seen == [{BUFFERS: {}}]
    assert memoryview in {type(message.get("body")) for message in app.messages}
