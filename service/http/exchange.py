"""One request from its first byte to its last, in whatever formats: the whole straight line in one place.

Read the body, decode and resolve it, submit it, wait for the answer while watching whether the caller is
still there, encode; what takes long is done in turns (`turns`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from models.outputs import DTYPES as NUMBER_BYTES
from models.protocol import ModelCard, Text
from service.batching.draft import Draft
from service.batching.job import Completed, Ticket
from service.errors import Invalid, Overloaded
from service.http.around.departure import DEPARTURE, Departure
from service.http.around.quotas import QUOTA, Quota
from service.http.context import Context
from service.http.envelope import options_from_query, read_envelope, require_few_options
from service.http.negotiate import CHECK_MS, ReplyFormat, RequestFormat, reply_format, request_format
from service.http.read_ahead import read_ahead, reading, text_ms
from service.http.replies import (
    BuffersResponse,
    PiecesResponse,
    reply_bytes,
    server_timing,
)
from service.http.resolve import Resolved
from service.http.schemas import AttendRequest, AttentionRequest
from service.http.turns import MIB
from service.memory_budget import COUNTED_BYTES, Claim, claim_of
from service.wire.dtypes import Buffer, reserve_nothing
from service.wire.effort import spend
from service.wire.json_strings import require_few_string_bytes
from service.wire.reply import Reply

__all__ = ["Read", "admitted", "deadline_of", "exchange", "hold_inputs", "read_body"]

INPUT_US = 1.0  # what an input takes to be counted, in microseconds
DRAFTED_US, OUTPUT_US = 5.0, 1.5  # ... to be drafted, and each output of it

Asked = TypeVar("Asked", AttendRequest, AttentionRequest)
Read = list[Text | None] | None  # the texts of a request, where they have been read ahead


class _Decoded(NamedTuple, Generic[Asked]):
    asked: Asked
    resolved: Resolved
    seconds: float


async def exchange(
    request: Request,
    context: Context,
    *,
    schema: type[Asked],
    resolve: Callable[[Asked, Read], Resolved],
    card: ModelCard | None = None,
) -> Response:
    """Answer one request; `resolve` makes Items of its checked envelope and the texts that were read ahead.

    Raises every HeedError of the contract, and ClientDisconnect when the caller has left.
    """
    started = context.clock()
    incoming, outgoing = request_format(request.headers), reply_format(request.headers)
    claim = claim_of(request.scope)
    asked, resolved, decode_seconds = await _decode(
        request,
        claim,
        context,
        incoming=incoming,
        outgoing=outgoing,
        schema=schema,
        resolve=resolve,
        card=card,
        started=started,
    )
    # Counted while the device computes, or once the reply is on its way.
    soon = asyncio.get_running_loop().call_soon
    soon(context.metrics.decoded, incoming.name, decode_seconds)

    def held(result_bytes: int) -> int:
        if outgoing.encode_pieces is None:
            return result_bytes
        return reply_bytes(
            result_bytes,
            number_bytes=NUMBER_BYTES[resolved.items[0].selection.dtype],
            largest_whole=claim.largest_whole,
        )

    async with admitted(request, context, resolved, asked=asked, started=started, held=held) as done:
        encode_started = time.perf_counter()
        reply = Reply(
            answers=done.answers,
            texts=resolved.texts,
            tokens=resolved.tokens,
            spans=resolved.spans,
            model=None if card is None else card.name,
            version=None if card is None else card.version,
        )
        size = sum(tensor.nbytes for answer in reply.answers for tensor in answer.tensors.values())
        if outgoing.encode_pieces is not None and size > claim.largest_whole:
            return PiecesResponse(
                partial(outgoing.encode_pieces, reply),
                media_type=outgoing.media_type,
                timing=lambda seconds: server_timing(done, decode=decode_seconds, encode=seconds),
                done=partial(context.metrics.encoded, outgoing.name),
            )
        buffers = await context.turns.run(lambda: outgoing.encode(reply), ms=outgoing.ms * size / MIB)
        encode_seconds = time.perf_counter() - encode_started
    soon(context.metrics.encoded, outgoing.name, encode_seconds)
    return BuffersResponse(
        buffers,
        media_type=outgoing.media_type,
        timing=server_timing(done, decode=decode_seconds, encode=encode_seconds),
    )


@asynccontextmanager
async def admitted(
    request: Request,
    context: Context,
    resolved: Resolved,
    *,
    asked: AttendRequest | AttentionRequest,
    started: float,
    held: Callable[[int], int],
) -> AsyncIterator[Completed]:
    """Submit a request, wait for its answers, and hold its place in the books until the block ends.

    `started` is when the request came, in context.clock() seconds: deadlines count from there. `held` says
    how much memory a result of so many bytes takes with its reply; the request holds it until that is sent.
    """
    quota: Quota | None = request.scope.get(QUOTA)
    outputs = len(resolved.items[0].selection.outputs)

    def make() -> Draft:
        spend((DRAFTED_US + OUTPUT_US * outputs) * len(resolved.items))
        return context.engine.draft(
            resolved.items,
            deadline=deadline_of(asked, context, started),
            priority=asked.priority,
            tenant=request.scope.get("heed.tenant", ""),
        )

    draft = await context.turns.run(make, ms=0.0)
    if quota is not None:
        quota.require_tokens(draft.cost.tokens)
    claim = claim_of(request.scope)

    def reserve(result_bytes: int, input_bytes: int) -> None:
        claim.take_reply(held(result_bytes))
        if input_bytes:
            claim.take(input_bytes)

    ticket = context.engine.admit(draft, reserve=reserve)
    if quota is not None:
        quota.take_tokens(ticket.cost.tokens)
    try:
        yield await _result(ticket, request)
    except Overloaded:  # refused by the queue of another process
        if quota is not None:
            quota.take_tokens(-ticket.cost.tokens)
        raise
    finally:
        ticket.cancel()


def deadline_of(asked: AttendRequest | AttentionRequest, context: Context, started: float) -> float:
    """Return when a request that came at `started` must be answered, in context.clock() seconds."""
    limit_ms = context.limits.deadline_ms
    return started + (limit_ms if asked.deadline_ms is None else min(asked.deadline_ms, limit_ms)) / 1000


async def _decode(
    request: Request,
    claim: Claim,
    context: Context,
    *,
    incoming: RequestFormat,
    outgoing: ReplyFormat,
    schema: type[Asked],
    resolve: Callable[[Asked, Read], Resolved],
    card: ModelCard | None,
    started: float,
) -> _Decoded[Asked]:
    """Return the checked request and its Items; the body is not held any longer than its views are."""
    require_few_options(request.scope["query_string"])
    query = request.query_params.multi_items()
    if incoming.options_in == "body" and query:
        raise Invalid(f"options of {incoming.media_type} go into the body, not into the query")
    body = await read_body(request.receive)
    decode_started = time.perf_counter()
    counted = len(body) >= COUNTED_BYTES
    reserve = claim.take if counted else reserve_nothing

    held = claim.held

    def parse() -> Asked:
        if counted and claim.held > held:  # begun before, on the event loop
            claim.become(held)
        if incoming.name == "json":
            require_few_string_bytes(body, context.limits.text_bytes)
        envelope = incoming.decode(body, reserve)
        if incoming.options_in == "query":
            envelope = {**options_from_query(query), **envelope}
        return read_envelope(schema, envelope)

    def prepare(asked: Asked, read: Read) -> Resolved:
        resolved = resolve(asked, read)
        outgoing.check([item.selection for item in resolved.items])
        return resolved

    asked = await context.turns.run(parse, ms=incoming.ms * len(body) / MIB)
    ms, read = CHECK_MS * len(body) / MIB, None
    if card is not None and isinstance(asked, AttendRequest):
        deadline = deadline_of(asked, context, started)
        read = await read_ahead(request, context, asked, reading(asked, context, card), deadline=deadline)
        ms += 0.0 if read is not None else text_ms(asked.inputs, card)
    resolved = await context.turns.run(lambda: prepare(asked, read), ms=ms)
    if counted and not incoming.views:
        await context.turns.run(lambda: hold_inputs(claim, resolved, body_bytes=len(body)), ms=0.0)
    return _Decoded(asked, resolved, time.perf_counter() - decode_started)


def hold_inputs(claim: Claim, resolved: Resolved, *, body_bytes: int) -> None:
    """Count what was read of a body in place of what it took to read it: arrays, and texts by its length."""
    spend(INPUT_US * len(resolved.items))
    arrays = (getattr(item.input, field.name) for item in resolved.items for field in fields(item.input))
    texts = body_bytes if any(text is not None for text in resolved.texts) else 0
    claim.become(texts + sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)))


async def read_body(receive: Receive) -> Buffer:
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
