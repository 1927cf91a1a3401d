"""The body of a request: read whole, and decoded in its turn, its memory counted.

The beginning of the line, for requests that are computed (`exchange`) and those that are not (`tokens.line`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from service.http.context import Context
from service.http.turns import MIB
from service.memory_budget import COUNTED_BYTES, Claim
from service.wire.dtypes import Buffer, Reserve, reserve_nothing
from service.wire.json_strings import require_few_string_bytes

# What a MiB takes, roughly: of JSON to read, of other bytes to see that all numbers are finite. Compiled code
# takes a third.
READ_JSON_MS, CHECK_MS = 3.0, 0.25

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Made]):
    """What was made of a body of so many bytes, which was there at `began`, in perf_counter seconds."""

    made: Made
    body_bytes: int
    began: float

    @property
    def counted(self) -> bool:
        """Whether what is made of the body is counted."""
        return self.body_bytes >= COUNTED_BYTES

    @property
    def check_ms(self) -> float:
        """What it takes to look at all of its numbers."""
        return CHECK_MS * self.body_bytes / MIB


async def decoded(
    request: Request,
    context: Context,
    read: Callable[[Buffer, Reserve], Made],
    claim: Claim,
    *,
    json_bytes: int | None = None,
    computed: bool = True,
) -> Decoded[Made]:
    """Return what `read` makes of the body, told how its memory is reserved; raises what it raises.

    `json_bytes`: how many of the body are JSON, None for all. `computed`: it is to have a place in the queue,
    or what would be refused costs no more than its bytes. The body is held no longer than its views are.
    """
    body = await _body(request.receive)
    if computed:
        context.engine.require_place()
    began = time.perf_counter()
    body_bytes = len(body)
    counted = body_bytes >= COUNTED_BYTES
    held, reserve = claim.held, claim.take if counted else reserve_nothing

    def work() -> Made:
        if counted and claim.held > held:  # begun before, on the event loop
            claim.become(held)
        if counted:
            require_few_string_bytes(memoryview(body)[:json_bytes], context.limits.text_bytes)
        return read(body, reserve)

    to_read = body_bytes if json_bytes is None else min(json_bytes, body_bytes)
    ms = READ_JSON_MS * to_read / MIB + CHECK_MS * body_bytes / MIB
    return Decoded(await context.turns.run(work, ms=ms), body_bytes, began)


async def _body(receive: Receive) -> Buffer:
    """Return the whole body, not copied where it comes in one piece; raises ClientDisconnect."""
    pieces = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if message.get("body"):
            pieces.append(message["body"])
        more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
