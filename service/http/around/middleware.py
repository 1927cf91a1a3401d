"""Around every request: its id, its line in the log, its numbers, and the last handler.

Pure ASGI, the first and the last station of the request line, outermost.
"""

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Container

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Unavailable
from service.http.around.host import BUFFERS
from service.http.around.lifecycle import Lifecycle
from service.http.around.stages import SPENT, Spent
from service.http.browsers.protection import NOSNIFF
from service.http.errors import REJECTIONS, send_error
from service.logs import printable
from service.metrics.registry import Metrics

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
CLIENT_LEFT = 499  # nginx's number for a request whose caller closed before the answer
CLOSE = (b"connection", b"close")

# A request's id is the process's, 96 random bits, and the request's number in it.
_PROCESS = os.urandom(12).hex().encode()
_numbers = itertools.count(int.from_bytes(os.urandom(4)))

log = logging.getLogger(__name__)


class _Observed:
    """One request and its reply, as far as they have come."""

    __slots__ = ("_buffers", "_receive", "_send", "lifecycle", "received", "request_id", "sent", "status")

    def __init__(
        self, receive: Receive, send: Send, request_id: bytes, lifecycle: Lifecycle, *, buffers: bool
    ) -> None:
        self._receive = receive
        self._send = send
        self._buffers = buffers
        self.request_id = request_id
        self.lifecycle = lifecycle
        self.received = 0
        self.sent = 0
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [header for header in message.get("headers", ()) if header[0] != b"x-request-id"]
            headers += ((b"x-request-id", self.request_id), NOSNIFF)
            if self.lifecycle.state in ("draining", "failed") and CLOSE not in headers:
                headers.append(CLOSE)
            message["headers"] = headers
        else:
            body = message.get("body", b"")
            self.sent += len(body)
            if not self._buffers and not isinstance(body, bytes):
                message["body"] = bytes(body)
        await self._send(message)


class Observer:
    """Gives every request an id, a log line and its metrics, and answers what nobody else caught.

    `is_model` tells whether a name is in the registry: only such names become labels. `pages` are paths of
    the route table that the framework serves itself, without saying which route it took.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        lifecycle: Lifecycle,
        is_model: Callable[[str], bool],
        pages: Container[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._is_model = is_model
        self._pages = pages
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; nothing leaves here as an exception, nor does a cancellation."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = self._clock()
        buffers = BUFFERS in (scope.get("extensions") or ())
        observed = _Observed(receive, send, _request_id(scope), self._lifecycle, buffers=buffers)
        scope["heed.request_id"] = observed.request_id.decode("ascii")
        try:
            await self.app(scope, observed.receive, observed.send)
        except ClientDisconnect:  # while sending; there is nobody to answer
            self._metrics.cancelled("disconnected")
        except asyncio.CancelledError:  # the server's patience; raised, it would be logged as an error
            if observed.status == 0:
                await send_error(
                    scope, observed.send, Unavailable("the server is going down", code="draining")
                )
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001  the last handler; native code's panics are no Exception
            await self._last(scope, observed, error)
        finally:
            self._record(scope, observed, self._clock() - started)

    async def _last(self, scope: Scope, observed: _Observed, error: BaseException) -> None:
        if observed.status == 0:
            await send_error(scope, observed.send, error)
        else:  # half a reply has gone: returning without its end makes the server cut the connection
            fields = {"id": scope["heed.request_id"]}
            log.error("a reply broke off", exc_info=error, extra={"fields": fields})

    def _record(self, scope: Scope, observed: _Observed, seconds: float) -> None:
        metrics = self._metrics
        route = getattr(scope.get("route"), "path", None)
        if route is None:
            route = scope["path"] if scope["path"] in self._pages else "unknown"
        model = scope.get("heed.model", "")  # of a card
        if not model and (named := scope.get("path_params", {}).get("model", "")) and self._is_model(named):
            model = named
        status = observed.status or CLIENT_LEFT
        code = scope.get("heed.code", "")
        metrics.request(
            route=route,
            model=model,
            code=status,
            seconds=seconds,
            received=observed.received,
            sent=observed.sent,
            trace_id=scope.get("heed.trace_id"),
        )
        spent: Spent | None = scope.get(SPENT)
        if spent is not None and model:
            ok, stages = status == 200, spent.seconds
            metrics.inference(model, ok=ok, sequences=spent.sequences, seconds=seconds, stages=stages)
        if code in REJECTIONS:
            metrics.rejected(code)
        if log.isEnabledFor(logging.INFO):
            fields = {
                "id": scope["heed.request_id"],
                "method": printable(scope["method"], 16),
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 3),
                "received_bytes": observed.received,
                "sent_bytes": observed.sent,
            }
            if model:
                fields["model"] = model
            if code:
                fields["code"] = code
            if route == "unknown":
                fields["path"] = printable(scope["path"])
            log.info("request", extra={"fields": fields})


def _request_id(scope: Scope) -> bytes:
    """Return the caller's own id when it is fit for a header and a log line, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return bytes(value)
    return b"%s%08x" % (_PROCESS, next(_numbers) & 0xFFFFFFFF)
