"""The routes that carry the load, over a fake runtime and the real engine; no sockets, no middleware."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

from models.protocol import Runtime
from service.batching.engine import Engine
from service.batching.limits import Limits
from service.http import attend, embeddings
from service.http.around.lifecycle import Lifecycle
from service.http.context import Context, RequestLimits
from service.http.errors import install
from service.http.oip import routes as inference
from service.http.pages.health import Health
from service.http.tei import routes as tei
from service.http.tokens import routes as tokens
from tests.fakes import FakeRuntime


@dataclass
class Recorder:
    """Metrics that remember which formats were timed."""

    formats: list[tuple[str, str]] = field(default_factory=list)

    def decoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        assert seconds >= 0
        self.formats.append(("decoded", wire_format))

    def encoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        assert seconds >= 0
        self.formats.append(("encoded", wire_format))


@dataclass
class Served:
    """One running service; `post` sends one request and waits for its reply."""

    app: FastAPI
    engine: Engine
    metrics: Recorder
    runner: asyncio.Runner

    def post(
        self,
        path: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:
                return await client.post(path, content=content, headers=sent, params=params)

        return self.runner.run(one())

    def attend(self, body: Any, *, model: str = "fake", **options: Any) -> httpx.Response:
        return self.post(f"/v1/models/{model}/attend", body, **options)

    def attention(self, body: Any, **options: Any) -> httpx.Response:
        return self.post("/v1/attention", body, **options)


def refused(response: httpx.Response, status: int, code: str) -> str:
    """Return the message of a refusal after checking its status and code."""
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), error
    return str(error["message"])


@contextmanager
def served(
    runtime: Runtime | None = None,
    *,
    limits: Limits | None = None,
    deadline_ms: int = 10_000,
    truncate: bool = False,
    default_model: str | None = None,
    max_queued_tokens: int | None = None,
) -> Iterator[Served]:
    """Run the routes; a FakeRuntime of its own unless one is given."""
    runtime = runtime or FakeRuntime()
    metrics = Recorder()
    app = FastAPI()
    with asyncio.Runner() as runner:
        engine = Engine(runtime, limits or Limits())
        context = Context(
            runtime=runtime,
            engine=engine,
            metrics=metrics,
            limits=RequestLimits(
                deadline_ms=deadline_ms, truncate=truncate, max_queued_tokens=max_queued_tokens
            ),
            default_model=default_model,
        )
        app.include_router(attend.router(context))
        app.include_router(embeddings.router(context))
        health = Health(lifecycle=Lifecycle(), engine=engine)
        most = (limits or Limits()).max_result_bytes
        app.include_router(
            inference.router(context, health=health, version="1", max_result_bytes=most, tallies=dict)
        )
        app.include_router(tei.router(context))
        app.include_router(tokens.router(context))
        install(app)
        engine.start()
        try:
            yield Served(app, engine, metrics, runner)
        finally:
            assert engine.stop(10)
