"""The model repository extension: what could be served, and loading and unloading while serving.

Source: Triton `docs/protocol/extension_model_repository.md`. Closed unless the operator sets ADMIN. Every
question has a thread of its own: one whose disk does not answer keeps none of the threads that requests need,
and no other question waits for it. How long a load may take is the runtime's to say.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response

from models.protocol import Models
from service.errors import Forbidden, Invalid, Malformed, NotFound, Overloaded, Unavailable
from service.http.oip.schemas import ERRORS, index_docs, parameters_docs
from service.wire import json_format
from service.wire.names import quoted

LARGEST_BODY = 64 * 1024
MOST_QUESTIONS = 16  # at a time, those that did not come back among them
QUESTION_SECONDS = 40.0  # longer than several processes give each other, who then say more
UNLOAD_PARAMETERS = ("unload_dependents",)  # no ensembles here, so no dependents; Triton's clients send it
# A name is a folder of the repository and nothing else: no separators, no dots in front.
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Told = TypeVar("Told")


def router(runtime: Models, *, admin: bool) -> APIRouter:
    """Return the three routes; without `admin` each answers 403."""
    routes = APIRouter(tags=["model repository"], responses=ERRORS)
    questions = _Questions()

    @routes.post("/v2/repository/index", openapi_extra=index_docs())
    async def repository_index(request: Request) -> Response:
        """Every model folder with its state; `{"ready": true}` leaves out those that are not loaded."""
        _allow(admin=admin)
        body = await _body(request, {"ready"})
        only_ready = body.get("ready", False)
        if not isinstance(only_ready, bool):
            raise Invalid("ready must be true or false")

        def index() -> Response:
            rows = runtime.index()
            return _json([row for row in rows if not only_ready or row["state"] == "READY"])

        return await questions.ask(index, within_seconds=QUESTION_SECONDS)

    @routes.post("/v2/repository/models/{model}/load", openapi_extra=parameters_docs(()))
    async def repository_load(model: str, request: Request) -> Response:
        """Load a model, or load it anew: the old one answers until the new one can."""
        _allow(admin=admin)
        _check_parameters(await _body(request, {"parameters"}), allowed=())
        name = _named(model)
        card = await questions.ask(lambda: runtime.load(name))
        return _json({"name": card.name, "version": card.version, "state": "READY", "reason": ""})

    @routes.post("/v2/repository/models/{model}/unload", openapi_extra=parameters_docs(UNLOAD_PARAMETERS))
    async def repository_unload(model: str, request: Request) -> Response:
        """Stop serving a model; requests that were accepted are answered."""
        _allow(admin=admin)
        _check_parameters(await _body(request, {"parameters"}), allowed=UNLOAD_PARAMETERS)
        name = _named(model)
        await questions.ask(lambda: runtime.unload(name), within_seconds=QUESTION_SECONDS)
        return _json({"name": model, "state": "UNAVAILABLE", "reason": "unloaded"})

    return routes


class _Questions:
    """What is being asked of the runtime, each question on a thread of its own."""

    def __init__(self) -> None:
        self._running = 0

    async def ask(self, question: Callable[[], Told], *, within_seconds: float | None = None) -> Told:
        """Return what it returns, or raise what it raises, Overloaded, or Unavailable when it is late."""
        if self._running >= MOST_QUESTIONS:
            raise Overloaded(
                f"{self._running} questions of administration are being answered, the limit is "
                f"{MOST_QUESTIONS}; try again"
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Told] = loop.create_future()

        def settle(told: Told | None, error: BaseException | None) -> None:
            self._running -= 1
            if answer.done():  # whoever asked has left
                return
            if error is None:
                answer.set_result(told)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)

        def run() -> None:
            told, error = None, None
            try:
                told = question()
            except BaseException as problem:  # noqa: BLE001  whoever asks raises it
                error = problem
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, told, error)

        self._running += 1
        threading.Thread(target=run, name="heed-administration", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, within_seconds)
        except TimeoutError:
            raise Unavailable(
                f"the model repository has not answered within {within_seconds:g} s; its disk may be slow"
            ) from None


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
