"""One request that computes nothing, from its first byte to its last: texts into tokens, or ids into a text.

Beside `exchange`, with the same limits, memory, deadline and turns, and no place in the device's queue. What
a route asks is said by its Work.
"""

import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from service.batching.backlog import refusal
from service.http.bodies import decoded
from service.http.context import Context
from service.http.read_ahead import in_slices
from service.http.replies import JSON, BuffersResponse
from service.http.turns import LONGEST_TURN_MS
from service.memory_budget import claim_of
from service.wire.dtypes import Buffer, Reserve

Made = TypeVar("Made")


class Work(Protocol[Made]):
    """One request in the words of its route; methods are called in the order they stand in, on any thread.

    Those of a short request are begun on the event loop, and may then be begun anew. Each raises what the
    contract has for what is wrong.
    """

    model: str  # known once it is read

    def read(self, body: Buffer, reserve: Reserve) -> list[float]:
        """Return what each part of the request takes to be made, in milliseconds."""
        ...

    def make(self, at: int) -> Made:
        """Return what is made of one part."""
        ...

    def check(self, made: Sequence[Made]) -> int:
        """Return the bytes that this much more takes until the reply is sent; raise TooLarge."""
        ...

    def encode_ms(self) -> float:
        """Return what writing the reply takes, in milliseconds, once all is checked."""
        ...

    def encode(self, made: Sequence[Made]) -> Buffer:
        """Return the reply, JSON."""
        ...


async def answer(request: Request, context: Context, work: Work[Made]) -> Response:
    """Answer one request; raises every HeedError of the contract, and ClientDisconnect."""
    if context.engine.state != "ready":
        raise refusal(context.engine.state)
    deadline = context.clock() + context.limits.deadline_ms / 1000
    claim = claim_of(request.scope)
    received = await decoded(request, context, work.read, claim, computed=False)
    costs = received.made
    request.scope["heed.model"] = work.model
    held = claim.held

    def check(made: Sequence[Made]) -> None:
        claim.take_reply(work.check(made))

    def make_all() -> list[Made]:
        claim.become(held)  # begun before, on the event loop
        made = [work.make(at) for at in range(len(costs))]
        check(made)
        return made

    if sum(costs) <= LONGEST_TURN_MS:
        made = await context.turns.run(make_all, ms=sum(costs))
    else:
        made = await in_slices(
            request, context, costs, work.make, model=work.model, deadline=deadline, check=check
        )
    decode_seconds = time.perf_counter() - received.began
    began = time.perf_counter()
    text = await context.turns.run(lambda: work.encode(made), ms=work.encode_ms())
    encode_seconds = time.perf_counter() - began
    trace_id: str | None = request.scope.get("heed.trace_id")
    context.metrics.decoded("json", decode_seconds, trace_id)
    context.metrics.encoded("json", encode_seconds, trace_id)
    timing = f"decode;dur={decode_seconds * 1000:.3f}, encode;dur={encode_seconds * 1000:.3f}"
    return BuffersResponse((text,), headers=JSON, timing=timing)
