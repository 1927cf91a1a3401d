"""One request from its first byte to its last, on whatever route: the whole straight line in one place.

Read the body, decode and resolve it, submit it, wait for the answer while watching whether the caller is
still there, encode. What differs between routes is said by their Codec: those of `attend`, `embeddings` and
`oip.infer`. What takes long is done in turns (`turns`).
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Literal, Protocol

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from models.outputs import DTYPES as NUMBER_BYTES
from models.protocol import ModelCard, Side, Text
from service.batching.draft import Draft
from service.batching.job import Completed, Ticket
from service.errors import Overloaded
from service.http.around.host import DEPARTURE, Departure
from service.http.around.quotas import QUOTA, Quota
from service.http.around.stages import SPENT, STAGES, Spent, Stages, noting
from service.http.bodies import decoded
from service.http.context import Context, RequestLimits
from service.http.read_ahead import read_ahead
from service.http.replies import BuffersResponse, Fields, PiecesResponse, reply_bytes, server_timing
from service.http.resolve import Resolved, resolve_attend, resolve_attention
from service.http.schemas import AttendRequest, AttentionRequest
from service.http.texts.reading import Reading, text_ms
from service.http.turns import LONGEST_TURN_MS, MIB
from service.memory_budget import UNLIMITED, Claim, claim_of
from service.wire.dtypes import Buffer, Reserve
from service.wire.effort import spend

WRITE_JSON_MS = 6.0  # what a MiB of tensors takes to be written, roughly; compiled code takes a third
INPUT_US = 1.0  # what an input takes to be counted, in microseconds
DRAFTED_US, OUTPUT_US = 5.0, 1.5  # ... to be drafted, and each output of it

Asked = AttendRequest | AttentionRequest
Numbers = Literal["json", "mixed", "binary"]


class Codec(Protocol):
    """One request in the words of its route; `exchange` calls the methods in the order they stand in.

    `read`, `check` and `encode` may be begun on the event loop, and then anew on a thread. Each raises what
    the contract has for what is wrong.
    """

    incoming: str  # the formats, as metrics name them
    outgoing: str
    json_bytes: int | None  # how many of the body are JSON, None for all; arrays are views of the others
    numbers: Numbers  # ... of the reply; known once it is read. Mixed: JSON whose length goes before it
    padded_bytes: int  # of copies that are made of results, to be written; known once it is checked

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the request, and how its texts are read; None for one without a model, which has none.

        `reserve` is told how much memory that takes, before it is taken.
        """
        ...

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items as they are to be computed, which the reply can carry the outputs of."""
        ...

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        ...

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the reply piece by piece, where all its numbers are JSON."""
        ...

    def fields(self, done: Completed, resolved: Resolved) -> Fields:
        """Return the headers of a reply in pieces."""
        ...


def reading(
    asked: AttendRequest,
    limits: RequestLimits,
    card: ModelCard,
    *,
    longest: int | None = None,
    field: str = "inputs",
    bare: bool = False,
    chunked: bool = False,
    side: Side | None = None,
) -> Reading:
    """Return how the texts of a request are read: what limits them, and what the caller calls them."""
    return Reading(
        card=card,
        truncate=limits.truncate if asked.truncate is None else asked.truncate,
        longest=longest,
        most=limits.max_sequence_tokens,
        field=field,
        bare=bare,
        chunked=chunked,
        side=side,
    )


async def exchange(request: Request, context: Context, codec: Codec) -> Response:
    """Answer one request; it holds its place in the books until its reply is encoded.

    Raises every HeedError of the contract, and ClientDisconnect when the caller has left.
    """
    started = context.clock()
    claim = claim_of(request.scope)
    trace_id: str | None = request.scope.get("heed.trace_id")
    request.scope[SPENT] = spent = Spent()
    resolved, draft, decode_seconds = await _draft(request, context, codec, claim, started)
    # Counted while the device computes, or once the reply is on its way.
    soon = asyncio.get_running_loop().call_soon
    soon(context.metrics.decoded, codec.incoming, decode_seconds, trace_id)
    spent.sequences, spent.seconds["decode"] = len(resolved.items), decode_seconds
    cost, number_bytes = draft.cost, NUMBER_BYTES[resolved.items[0].selection.dtype]

    def reserve(result_bytes: int, input_bytes: int) -> None:
        claim.take_reply(_held_bytes(codec, result_bytes, number_bytes, claim.largest_whole))
        if input_bytes:
            claim.take(input_bytes)

    quota: Quota | None = request.scope.get(QUOTA)
    if quota is not None:
        quota.require_tokens(cost.tokens)
    stages: Stages | None = request.scope.get(STAGES)  # of a request that is traced
    if stages is not None:
        draft = stages.drafted(draft, decode_seconds)
    count = partial(soon, partial(context.metrics.encoded, codec.outgoing, trace_id=trace_id))
    written = noting(stages, spent, count)
    ticket = context.engine.admit(draft, reserve=reserve)
    if quota is not None:
        quota.take_tokens(cost.tokens)
    try:
        done = await _result(ticket, request)
        spent.seconds |= {"queue": done.queue_seconds, "compute": done.compute_seconds}
        if stages is not None:
            stages.answered(ticket, done)
        size = codec.padded_bytes or cost.result_bytes
        if codec.numbers == "json" and size > claim.largest_whole:
            return PiecesResponse(
                lambda: codec.pieces(done, resolved),
                headers=codec.fields(done, resolved),
                timing=lambda seconds: server_timing(done, decode=decode_seconds, encode=seconds),
                done=written,
            )
        began = time.perf_counter()
        views = codec.numbers == "binary" and not codec.padded_bytes
        buffers, headers = await context.turns.run(
            lambda: codec.encode(done, resolved), ms=0.0 if views else WRITE_JSON_MS * size / MIB
        )
        encode_seconds = time.perf_counter() - began
    except Overloaded:  # refused by the queue of another process
        if quota is not None:
            quota.take_tokens(-cost.tokens)
        raise
    finally:
        ticket.cancel()
    written(encode_seconds)
    timing = server_timing(done, decode=decode_seconds, encode=encode_seconds)
    return BuffersResponse(buffers, headers=headers, timing=timing)


async def _draft(
    request: Request, context: Context, codec: Codec, claim: Claim, started: float
) -> tuple[Resolved, Draft, float]:
    """Return the request's Items, ready for admission, and the seconds that decoding took.

    The body is held no longer than its views are. `started` is when the request came, in context.clock()
    seconds: deadlines count from there.
    """
    received = await decoded(request, context, codec.read, claim, json_bytes=codec.json_bytes)
    asked, how = received.made
    limit_ms = context.limits.deadline_ms
    deadline_ms = limit_ms if asked.deadline_ms is None else min(asked.deadline_ms, limit_ms)
    deadline = started + deadline_ms / 1000
    texts, texts_ms = None, 0.0
    if isinstance(asked, AttendRequest):
        assert how is not None
        texts_ms = text_ms(asked.inputs, how.card)
        if texts_ms > LONGEST_TURN_MS:
            texts = await read_ahead(request, context, asked, how, deadline=deadline)
            texts_ms = 0.0

    def prepare() -> tuple[Resolved, Draft]:
        resolved = codec.check(_resolve(asked, how, texts, context))
        if received.counted and codec.json_bytes is None:
            _hold_inputs(claim, resolved, body_bytes=received.body_bytes)
        items = resolved.items
        spend((DRAFTED_US + OUTPUT_US * len(items[0].selection.outputs)) * len(items))
        tenant = request.scope.get("heed.tenant", "")
        return resolved, context.engine.draft(
            items, deadline=deadline, priority=asked.priority, tenant=tenant
        )

    resolved, draft = await context.turns.run(prepare, ms=received.check_ms + texts_ms)
    return resolved, draft, time.perf_counter() - received.began


def _resolve(
    asked: Asked, how: Reading | None, texts: Sequence[Text | None] | None, context: Context
) -> Resolved:
    if isinstance(asked, AttentionRequest):
        return resolve_attention(asked)
    assert how is not None
    return resolve_attend(asked, runtime=context.runtime, how=how, read=texts)


def _hold_inputs(claim: Claim, resolved: Resolved, *, body_bytes: int) -> None:
    """Count what was read of a body in place of what it took to read it: arrays, and texts by its length."""
    spend(INPUT_US * len(resolved.items))
    arrays = [getattr(item.input, field.name) for item in resolved.items for field in fields(item.input)]
    arrays += [edit.value for item in resolved.items for edit in item.edits]
    texts = body_bytes if any(text is not None for text in resolved.texts) else 0
    claim.become(texts + sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)))


def _held_bytes(codec: Codec, result_bytes: int, number_bytes: int, largest_whole: int) -> int:
    """Return how much memory a result takes with its reply, which a request holds until that is sent."""
    written = codec.padded_bytes or result_bytes
    views = result_bytes + codec.padded_bytes
    if codec.numbers == "binary":
        return views
    whole = largest_whole if codec.numbers == "json" else UNLIMITED
    return views - written + reply_bytes(written, number_bytes=number_bytes, largest_whole=whole)


async def _result(ticket: Ticket, request: Request) -> Completed:
    """Wait for the answers; raises ClientDisconnect, and cancels the work, as soon as the caller leaves."""
    departure: Departure | None = request.scope.get(DEPARTURE)
    watch = None
    if departure is None:
        departure = Departure()
        watch = asyncio.ensure_future(_left(request.receive, departure))
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        ticket.cancel()

    departure.listen(leave)
    try:
        return await ticket.result()
    except asyncio.CancelledError:
        if left:
            raise ClientDisconnect from None
        raise
    finally:
        departure.forget()
        if watch is not None:
            watch.cancel()


async def _left(receive: Receive, departure: Departure) -> None:
    """Wait until the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    departure.happened()
