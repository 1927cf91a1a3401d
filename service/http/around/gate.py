"""The limits on headers and body, kept while they are read, whatever the route does with them.

Pure ASGI, the second station of the request line: before keys are looked at and before any route. A request
has its claim on memory from here on; under our own server the connection has made it, and counted the body.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import HeedError, Malformed, TooLarge, Unavailable
from service.http.around.host import CROWDED
from service.http.around.lifecycle import Lifecycle
from service.http.errors import send_error
from service.memory_budget import CLAIM, Budget, Claim

MAX_HEADER_BYTES = 32 * 1024
WITHOUT_DEVICE = ("/health", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready")
CROWDED_OUT = (
    "all connections that the server may have are at work (MAX_CONNECTIONS, or its limit of open files); try "
    "again in a moment, on a connection that you keep"
)


class Gate:
    """Refuses what is over the limits: headers at once, a declared body before it is read, others while.

    After a refusal of a body the connection is closed: what is left of it is not worth reading.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, lifecycle: Lifecycle, budget: Budget | None = None
    ) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes
        self._lifecycle = lifecycle
        self._budget = Budget() if budget is None else budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on with a `receive` that counts, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        claim: Claim | None = scope.get(CLAIM)
        counted = claim is not None
        if claim is None:
            claim = scope[CLAIM] = self._budget.claim()
        else:
            claim.join()
        uncounted = None if counted else claim
        try:
            try:
                declared = self._admit(scope, uncounted)
            except HeedError as refusal:
                await send_error(scope, _closing(send), refusal)
                return
            if counted and declared is not None:  # the connection gives so many bytes, and no others
                await self.app(scope, receive, send)
                return
            body = _BoundedBody(
                scope, receive, send, limit=self._max_body_bytes, declared=declared, uncounted=uncounted
            )
            try:
                await self.app(scope, body.receive, body.send)
            except HeedError as refusal:
                if refusal is not body.refusal:
                    raise
                await body.refuse()
            finally:
                body.refusal = None  # its traceback holds what was read
        finally:
            claim.let_go()

    def _admit(self, scope: Scope, uncounted: Claim | None) -> int | None:
        """Return the declared length of the body; `uncounted` is to count it, where no connection has.

        Raises what the request is refused with.
        """
        if self._lifecycle.state == "failed" and scope["path"] not in WITHOUT_DEVICE:
            raise self._lifecycle.refusal
        if CROWDED in scope.get("extensions", ()) and scope["path"] not in WITHOUT_DEVICE:
            raise Unavailable(CROWDED_OUT, code="too_many_connections")
        declared = _check_headers(scope)
        if declared is not None and declared > self._max_body_bytes:
            raise _too_large(self._max_body_bytes, f"the body is {declared} bytes")
        if uncounted is None and (refusal := scope[CLAIM].refusal) is not None:
            raise refusal
        if uncounted is not None and declared:
            uncounted.take_body(declared)
        return declared


class _BoundedBody:
    """A `receive` that raises at the limit, and a `send` that turns any reply after that into the refusal."""

    __slots__ = (
        "_declared",
        "_limit",
        "_receive",
        "_scope",
        "_send",
        "_size",
        "_uncounted",
        "refusal",
        "refused",
        "started",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limit: int,
        declared: int | None,
        uncounted: Claim | None,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limit = limit
        self._declared = declared
        self._uncounted = uncounted if declared is None else None
        self._size = 0
        self.refusal: HeedError | None = None
        self.refused = False
        self.started = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._limit:
                self.refusal = _too_large(self._limit, f"the body has {self._size} bytes or more")
            elif not message.get("more_body", False) and self._declared not in (None, self._size):
                self.refusal = Malformed(
                    f"Content-Length is {self._declared}, the body has {self._size} bytes; make them agree"
                )
            elif self._uncounted is not None:
                self._count(len(message.get("body", b"")))
            if self.refusal is not None:
                raise self.refusal
        return message

    def _count(self, size: int) -> None:
        """Count a piece of a body of no declared length."""
        assert self._uncounted is not None
        try:
            self._uncounted.take(size)
        except HeedError as refusal:
            self.refusal = refusal

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.started:
            await self.refuse()
        elif not self.refused:
            self.started = True
            await self._send(message)

    async def refuse(self) -> None:
        if self.refusal is not None and not self.refused and not self.started:
            self.refused = True
            await send_error(self._scope, _closing(self._send), self.refusal)


def _closing(send: Send) -> Send:
    """Return a `send` whose reply closes the connection."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


def _too_large(limit: int, what: str) -> TooLarge:
    return TooLarge(f"{what}; the limit is {limit} (MAX_BODY_BYTES): send fewer sequences at a time")


def _check_headers(scope: Scope) -> int | None:
    """Return the declared length of the body, None when there is none; raise Malformed."""
    size = 0
    declared: int | None = None
    chunked = False
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or declared not in (None, int(value)):
                raise Malformed("Content-Length is not one whole number of bytes")
            declared = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if size > MAX_HEADER_BYTES:
        raise Malformed(f"the headers are {size} bytes; the limit is {MAX_HEADER_BYTES}")
    if chunked and declared is not None:
        raise Malformed("both Content-Length and Transfer-Encoding are given; send one")
    return declared
