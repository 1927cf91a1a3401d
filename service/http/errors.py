"""From an exception to a status code and a body: the only place that knows both.

The last station of a request that is refused. A body is at most 8 KiB, is written for the caller and never
repeats what they sent; the traceback of what nobody expected goes to the log.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from models import errors as below
from service import errors as above
from service.errors import HeedError

STATUS: dict[str, int] = {
    "malformed": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "unknown_route": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "request_timeout": 408,
    "body_too_large": 413,
    "result_too_large": 413,
    "sequence_too_long": 413,
    "unsupported_media_type": 415,
    "invalid": 422,
    "not_finite": 422,
    "overloaded": 429,
    "internal": 500,
    "not_ready": 503,
    "draining": 503,
    "device_failed": 503,
    "out_of_memory": 503,
    "too_many_connections": 503,
    "deadline_exceeded": 504,
}
REJECTIONS = frozenset({"overloaded", "body_too_large", "result_too_large", "sequence_too_long"})
RETRY_SECONDS = {
    "overloaded": 1.0,
    "draining": 5.0,
    "not_ready": 5.0,
    "out_of_memory": 1.0,
    "too_many_connections": 1.0,
}

BELOW: dict[type[below.ModelError], str] = {
    below.UnknownModel: "unknown_model",
    below.SpecError: "invalid",
    below.TextError: "invalid",
    below.TooLong: "sequence_too_long",
    below.OutOfMemory: "out_of_memory",
    below.DeviceFailed: "device_failed",
}
# What text-embeddings-inference serves, and how it says what is wrong (router/src/http/server.rs).
TEI_ROUTES = frozenset(
    {
        *("/info", "/embed", "/embed_all", "/embed_sparse", "/similarity", "/tokenize", "/decode"),
        *("/predict", "/rerank"),
    }
)
TEI_KINDS: dict[type[Exception], tuple[int, str]] = {
    above.Empty: (400, "Empty"),
    above.Unable: (424, "Backend"),
    above.Unreadable: (422, "Tokenizer"),
    below.TextError: (422, "Tokenizer"),
}
TEI_CODES = {
    "sequence_too_long": (422, "Validation"),
    "not_finite": (424, "Backend"),
    "overloaded": (429, "Overloaded"),
    "out_of_memory": (503, "Overloaded"),
    "too_many_connections": (503, "Overloaded"),
}
NO_MEMORY = "the server has no memory for this request now; try again in a moment, or send or ask for less"
MOST_PROBLEMS = 10
MOST_CHARACTERS = 1900  # four UTF-8 bytes each and the envelope stay under 8 KiB
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong; `request_id` finds it in the log."""

    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """The body of every `/v1` error, for the API's description."""

    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """What goes back: an HTTP status, the contract's code, headers and a JSON body of at most 8 KiB."""

    status: int
    code: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


def error_reply(error: BaseException, *, path: str, request_id: str, method: str = "") -> ErrorReply:
    """Return the contract's reply to `error`: `/v2` paths get the Open Inference Protocol's body.

    Those of text-embeddings-inference get its bodies, and its statuses where it has others. What is not on
    purpose becomes `internal`, and its traceback is logged here; so is that of a MemoryError, which may come
    from any line and is `out_of_memory`.
    """
    code, message, retry_after = _explain(error)
    if isinstance(error, MemoryError):
        log.error("out of memory", exc_info=error, extra={"fields": {"id": request_id}})
    status = STATUS.get(code, 500)
    if status == 500:
        log.error("a request failed unexpectedly", exc_info=error, extra={"fields": {"id": request_id}})
        code, message = "internal", "the server failed; its log has the reason under this request_id"
    message = CONTROL.sub("?", message)[:MOST_CHARACTERS]
    if path == "/v2" or path.startswith("/v2/"):
        body = orjson.dumps({"error": message})
    elif path in TEI_ROUTES or (path == "/" and method == "POST"):
        status, kind = _as_tei(error, code, status)
        body = orjson.dumps({"error": message, "error_type": kind})
    else:
        body = orjson.dumps({"error": {"code": code, "message": message, "request_id": request_id}})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode("latin-1")),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(max(1, ceil(retry_after))).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, HTTPException) and status == 405:
        allow = (error.headers or {}).get("Allow", "")
        headers.append((b"allow", allow.encode("latin-1")))
    return ErrorReply(status, code, headers, body)


async def send_error(scope: Scope, send: Send, error: BaseException) -> None:
    """Answer with the contract's reply to `error`; `scope["heed.code"]` tells the observer which it was."""
    reply = _reply_in(scope, error)
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


def install(app: FastAPI, methods: Mapping[str, Iterable[str]] | None = None) -> None:
    """Answer what routes raise on purpose, and what the framework raises, in the contract's words.

    `methods` of each path: where several routes share one, the framework knows those of the first.
    """

    async def handle(request: Request, error: BaseException) -> Response:
        reply = _reply_in(request.scope, error)
        allowed = (methods or {}).get(request.scope["path"])
        if reply.status == 405 and allowed:
            fields = [field for field in reply.headers if field[0] != b"allow"]
            reply = replace(reply, headers=[*fields, (b"allow", ", ".join(sorted(allowed)).encode())])
        response = Response(reply.body, reply.status)
        response.raw_headers = reply.headers
        return response

    for kind in (HeedError, below.ModelError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)


def _reply_in(scope: Scope, error: BaseException) -> ErrorReply:
    request_id = scope.get("heed.request_id", "")
    reply = error_reply(error, path=scope["path"], request_id=request_id, method=scope.get("method", ""))
    scope["heed.code"] = reply.code
    return reply


def _as_tei(error: BaseException, code: str, status: int) -> tuple[int, str]:
    """Return status and `error_type` as text-embeddings-inference has them; its own statuses are few."""
    for kind, said in TEI_KINDS.items():
        if isinstance(error, kind):
            return said
    if code in TEI_CODES:
        return TEI_CODES[code]
    return status, "Unhealthy" if status == 503 else "Backend" if status >= 500 else "Validation"


def _explain(error: BaseException) -> tuple[str, str, float | None]:
    """Return code, message and the seconds after which trying again makes sense (None: it does not)."""
    if isinstance(error, HeedError):
        return error.code, error.message, error.retry_after_seconds or RETRY_SECONDS.get(error.code)
    for kind, code in BELOW.items():
        if isinstance(error, kind):
            return code, str(error), RETRY_SECONDS.get(code)
    if isinstance(error, MemoryError):
        return "out_of_memory", NO_MEMORY, RETRY_SECONDS["out_of_memory"]
    if isinstance(error, RequestValidationError):
        return "invalid", _problems(error), None
    if isinstance(error, HTTPException):
        return _framework(error.status_code)
    return "internal", "", None


def _framework(status: int) -> tuple[str, str, None]:
    if status == 404:
        return "unknown_route", "no such route; /docs lists them", None
    if status == 405:
        return "method_not_allowed", "this route does not take this method; see the Allow header", None
    if 400 <= status < 500:
        return "malformed", "the request could not be read", None
    return "internal", "", None


def _problems(error: RequestValidationError) -> str:
    """Say what is wrong where, at most ten problems, without the values that were sent."""
    problems = error.errors()
    said = [
        f"{'.'.join(str(part)[:64] for part in problem['loc'])}: {problem['msg']}"
        for problem in problems[:MOST_PROBLEMS]
    ]
    if len(problems) > MOST_PROBLEMS:
        said.append(f"and {len(problems) - MOST_PROBLEMS} more")
    return "; ".join(said)
