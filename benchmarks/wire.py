"""What the wire costs: JSON against the usual way, binary bodies against a bare ASGI echo, in one run.

python -m benchmarks.wire [--seconds 5] [--connections 1 8 32]

One sequence of T = 128, d_model = 768, H = 12, float32. The whole server runs with the model replaced by the
identity, so that all its time is spent on bytes; the echo runs under the same uvicorn, with the same options.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import orjson
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.load import Load, closed_loop
from benchmarks.report import save
from benchmarks.workload import D_MODEL, HEADS, bodies
from models.halves import widened
from models.protocol import Answer, BatchResult, Item, Tokens
from service.app import create_app, service_of
from service.http.around.lifecycle import Lifecycle
from service.http.envelope import read_envelope
from service.http.schemas import AttendRequest
from service.settings import Settings
from service.socket.server import Server, bind
from service.wire import json_format
from service.wire.reply import Reply
from tests.fakes import FakeRuntime, fake_card

T = 128
ROUNDS = 15
TARGETS = {"decode": 3.0, "encode": 10.0, "binary": 0.60}


class TypicalInput(BaseModel):
    """A sequence as most services declare it."""

    embeddings: list[list[float]]


class TypicalRequest(BaseModel):
    """A request as most services declare it."""

    inputs: list[TypicalInput]
    outputs: list[str]


class Identity(FakeRuntime):
    """A model whose z is its input: nothing is computed, nothing is copied."""

    def run(self, batch: Sequence[Item], **_: object) -> BatchResult:
        """Return every sequence's embeddings as its z."""
        answers = []
        for item in batch:
            assert isinstance(item.input, Tokens)
            assert item.input.embeddings is not None
            answers.append(Answer(tensors={"z": widened(item.input.embeddings)}))
        return BatchResult(answers=answers, computed_tokens=sum(item.input.queries for item in batch))


def median_ms(work: Callable[[], object]) -> float:
    """Return the median time of a few runs, after one that warms up."""
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def decoding(body: bytes) -> dict[str, float]:
    """Compare reading one JSON request into an array: ours, and pydantic's lists made an array."""

    def ours() -> object:
        return read_envelope(AttendRequest, json_format.decode(body)).inputs[0].embeddings

    def typical() -> object:
        lists = TypicalRequest.model_validate_json(body).inputs[0].embeddings
        return np.array(lists, dtype=np.float32)

    assert np.array_equal(np.asarray(ours()), np.asarray(typical()))
    return {"ours_ms": median_ms(ours), "pydantic_ms": median_ms(typical)}


def encoding(array: np.ndarray) -> dict[str, float]:
    """Compare writing one array as JSON: ours, FastAPI's default, and orjson on a list."""
    reply = Reply(answers=[Answer(tensors={"z": array})], texts=[None], tokens=T)

    def typical() -> bytes:
        content = jsonable_encoder({"outputs": [{"z": array.tolist()}]})
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    back = np.array(json.loads(bytes(json_format.encode(reply)))["outputs"][0]["z"], dtype=np.float32)
    assert back.tobytes() == array.tobytes()
    return {
        "ours_ms": median_ms(lambda: json_format.encode(reply)),
        "fastapi_ms": median_ms(typical),
        "orjson_list_ms": median_ms(lambda: orjson.dumps({"outputs": [{"z": array.tolist()}]})),
    }


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body, in one piece: the least that any server does."""
    if scope["type"] == "lifespan":
        await Starlette()(scope, receive, send)
        return
    pieces = []
    more = True
    while more:
        message = await receive()
        pieces.append(message["body"])
        more = message["more_body"]
    body = b"".join(pieces)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(which: str) -> None:
    """Run the echo or the whole server on a free port; prints it on the first line."""
    settings = Settings(port=0, log_level="warning")
    app: ASGIApp
    if which == "echo":
        app, lifecycle = echo, Lifecycle()
    else:
        card = fake_card("identity", d_model=D_MODEL, heads=HEADS, max_tokens=None)
        app = wired = create_app(settings, Identity(card))
        lifecycle = service_of(wired).lifecycle
    listener = bind(settings.host, 0)
    server = Server(
        app,
        lifecycle=lifecycle,
        drain_seconds=1,
        max_body_bytes=settings.max_body_bytes,
        listening=lambda: print(listener.getsockname()[1], flush=True),
    )
    server.run(sockets=[listener])
    os._exit(0)


def measured(which: str, kind: str, *, connections: int, seconds: int) -> Load:
    """Start a server of its own, and return what a closed loop gets from it."""
    command = [sys.executable, "-m", "benchmarks.wire", "--serve", which]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        sequence = np.random.default_rng(0).standard_normal((T, D_MODEL), dtype=np.float32)
        path = "/v2/models/identity/infer"
        sent = bodies(kind, [sequence])
        if kind == "safetensors":
            path = "/v1/models/identity/attend?outputs=z"
            accept = (("Accept", "application/x-safetensors"),)
            sent = [type(body)(body.content_type, body.content, accept) for body in sent]
        load = closed_loop(url, path, sent, connections=connections, seconds=seconds)
        assert not load.errors, load
        return load
    finally:
        process.kill()
        process.wait(timeout=30)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--serve", choices=["echo", "identity"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    chance = np.random.default_rng(0)
    z = chance.standard_normal((T, D_MODEL), dtype=np.float32)
    # Shortest float32 digits, as this server and every careful client write them.
    body = orjson.dumps({"inputs": [{"embeddings": z}], "outputs": ["z"]}, option=orjson.OPT_SERIALIZE_NUMPY)
    codecs = {"decode": decoding(body), "encode": encoding(z)}
    decode_ratio = codecs["decode"]["pydantic_ms"] / codecs["decode"]["ours_ms"]
    encode_ratio = codecs["encode"]["fastapi_ms"] / codecs["encode"]["ours_ms"]
    print(f"T={T}, d={D_MODEL}, float32, {z.nbytes / 1e3:.0f} KB, JSON {len(body) / 1e6:.2f} MB")
    print(f"decode JSON  {codecs['decode']}  pydantic/ours {decode_ratio:.1f} (target {TARGETS['decode']})")
    print(f"encode JSON  {codecs['encode']}  FastAPI/ours {encode_ratio:.1f} (target {TARGETS['encode']})")
    rows = []
    for connections in arguments.connections:
        for kind in ("safetensors", "oip"):
            bare = measured("echo", kind, connections=connections, seconds=arguments.seconds)
            whole = measured("identity", kind, connections=connections, seconds=arguments.seconds)
            ratio = whole.bytes_per_second / bare.bytes_per_second
            rows.append({"kind": kind, "echo": bare, "server": whole, "ratio": ratio})
            print(
                f"{kind:<12} {connections:>3} connections: echo {bare.bytes_per_second / 1e6:7.0f} MB/s, "
                f"server {whole.bytes_per_second / 1e6:7.0f} MB/s, ratio {ratio:.2f} "
                f"(target {TARGETS['binary']})"
            )
    file = save("wire", {"codecs": codecs, "round_trips": rows, "targets": TARGETS})
    print(f"kept in {file}")


if __name__ == "__main__":
    main()
