"""The station that answers calls of gRPC, behind all others: limits, keys and quotas have been kept by then.

Pure ASGI. A call comes in as a request that `service.grpc.asgi` has made: its path is that of gRPC, its body
one message, and so is the body of its reply. No request of a socket is such a one.
"""

import orjson
from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import ModelError
from service.errors import HeedError, Malformed
from service.grpc.infer import InferCall
from service.grpc.questions import GrpcQuestion, OipRequest, questions
from service.http.context import Context
from service.http.errors import send_error
from service.http.exchange import exchange

GRPC_CALL = "heed.grpc_call"  # in the scope: the call's Route
INFER = "ModelInfer"
LARGEST_QUESTION = 64 * 1024  # bytes of any other message


class GrpcRoute:
    """What a call is to: `path` is its label in metrics and log. `seconds`: what its deadline leaves."""

    __slots__ = ("method", "path", "seconds")

    def __init__(self, path: str, *, seconds: float | None) -> None:
        self.path = path
        self.method = path.rpartition("/")[2]
        self.seconds = seconds


class GrpcCalls:
    """Answers calls, and passes on every other request."""

    def __init__(self, app: ASGIApp, *, context: Context, max_result_bytes: int) -> None:
        self.app = app
        self._context = context
        self._max_result_bytes = max_result_bytes
        self._questions = questions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call, refusals included."""
        route: GrpcRoute | None = scope.get(GRPC_CALL)
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = route, {}
        request = Request(scope, receive, send)
        try:
            response = await self._answer(request, route)
        except (HeedError, ModelError) as refusal:
            await send_error(scope, send, refusal)
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request, route: GrpcRoute) -> Response:
        if route.method != INFER:
            return await self._told(request, self._questions[route.method])
        codec = InferCall(request, self._context, self._max_result_bytes, seconds=route.seconds)
        return await exchange(request, self._context, codec)

    async def _told(self, request: Request, question: GrpcQuestion) -> Response:
        """Ask the route of `/v2` that says it; what it refuses is refused in its words."""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_QUESTION:
                raise Malformed(f"the message is over {LARGEST_QUESTION} bytes, which no such question is")
        status, reply, code, headers = await self._ask(request.scope, question.asked(body))
        if status != 200 and status not in question.refusals:
            request.scope["heed.code"] = code
            response = Response(reply, status)
            response.raw_headers = headers
            return response
        return Response(question.answered(status, orjson.loads(reply)))

    async def _ask(
        self, scope: Scope, asked: OipRequest
    ) -> tuple[int, bytes, str, list[tuple[bytes, bytes]]]:
        """Return status, body, the contract's code and headers of what a route of `/v2` answers."""
        body = b"" if asked.body is None else orjson.dumps(asked.body)
        inner = {
            name: value for name, value in scope.items() if name not in (GRPC_CALL, "route", "path_params")
        }
        inner |= {
            "method": "GET" if asked.body is None else "POST",
            "path": asked.path,
            "raw_path": asked.path.encode("utf-8", "replace"),
            "headers": [],
        }
        status, headers, pieces = 0, [], []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            else:
                pieces.append(bytes(message.get("body", b"")))

        await self.app(inner, receive, send)
        scope["path_params"] = inner.get("path_params", {})
        return status, b"".join(pieces), inner.get("heed.code", ""), headers
