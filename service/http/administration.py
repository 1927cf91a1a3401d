"""The model repository extension: what could be served, and loading and unloading while serving.

Source: Triton `docs/protocol/extension_model_repository.md`. Closed unless the operator sets ADMIN. Loading
takes seconds and runs off the event loop, one at a time.
"""

import asyncio
import re
from collections.abc import Collection
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from models.protocol import Models
from service.errors import Forbidden, Invalid, Malformed, NotFound
from service.http.inference_schemas import ERRORS, index_docs, parameters_docs
from service.wire import json_format
from service.wire.names import quoted

__all__ = ["router"]

LARGEST_BODY = 64 * 1024
UNLOAD_PARAMETERS = ("unload_dependents",)  # no ensembles here, so no dependents; Triton's clients send it
# A name is a folder of the repository and nothing else: no separators, no dots in front.
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def router(runtime: Models, *, admin: bool) -> APIRouter:
    """Return the three routes; without `admin` each answers 403."""
    routes = APIRouter(tags=["model repository"], responses=ERRORS)
    one_at_a_time = asyncio.Lock()

    @routes.post("/v2/repository/index", openapi_extra=index_docs())
    async def repository_index(request: Request) -> Response:
        """Every model folder with its state; `{"ready": true}` leaves out those that are not loaded."""
        _allow(admin=admin)
        body = await _body(request, {"ready"})
        only_ready = body.get("ready", False)
        if not isinstance(only_ready, bool):
            raise Invalid("ready must be true or false")
        index = await asyncio.to_thread(runtime.index)
        return _json([entry for entry in index if not only_ready or entry["state"] == "READY"])

    @routes.post("/v2/repository/models/{model}/load", openapi_extra=parameters_docs(()))
    async def repository_load(model: str, request: Request) -> Response:
        """Load a model, or load it anew: the old one answers until the new one can."""
        _allow(admin=admin)
        _check_parameters(await _body(request, {"parameters"}), allowed=())
        async with one_at_a_time:
            card = await asyncio.to_thread(runtime.load, _named(model))
        return _json({"name": card.name, "version": card.version, "state": "READY", "reason": ""})

    @routes.post("/v2/repository/models/{model}/unload", openapi_extra=parameters_docs(UNLOAD_PARAMETERS))
    async def repository_unload(model: str, request: Request) -> Response:
        """Stop serving a model; requests that were accepted are answered."""
        _allow(admin=admin)
        _check_parameters(await _body(request, {"parameters"}), allowed=UNLOAD_PARAMETERS)
        async with one_at_a_time:
            await asyncio.to_thread(runtime.unload, _named(model))
        return _json({"name": model, "state": "UNAVAILABLE", "reason": "unloaded"})

    return routes


def _allow(*, admin: bool) -> None:
    if not admin:
        raise Forbidden("the model repository is closed; the operator opens it with ADMIN")


def _named(model: str) -> str:
    if not MODEL.fullmatch(model):
        raise NotFound(f"{quoted(model)} is no name of a model", code="unknown_model")
    return model


async def _body(request: Request, known: set[str]) -> dict[str, Any]:
    """Return a small JSON object, empty where there is no body; raises Malformed, Invalid."""
    pieces: list[bytes] = []
    async for piece in request.stream():
        pieces.append(piece)
        if sum(map(len, pieces)) > LARGEST_BODY:
            raise Malformed(f"the body is over {LARGEST_BODY} bytes, which no such request is")
    text = b"".join(pieces)
    body = json_format.decode_value(text) if text else {}
    if not isinstance(body, dict):
        raise Malformed("the body must be a JSON object, or empty")
    if body.keys() - known:
        raise Invalid(f"the body may hold {', '.join(known)} and nothing else")
    return {name: value for name, value in body.items() if value is not None}  # null is absent


def _check_parameters(body: dict[str, Any], *, allowed: Collection[str]) -> None:
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Malformed("parameters must be an object")
    for name, value in parameters.items():
        if name not in allowed:
            raise Invalid("a model is loaded as its folder says; parameters cannot change it")
        if not isinstance(value, bool | None):
            raise Invalid(f"parameters.{name} must be true or false")


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
