"""Callers who leave while they wait, and whose deadline passes: what is computed for them is counted."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tests.faults.network import one_reply
from tests.faults.wire import JSON, Cut, post, request

FAKE_ATTEND = "/v1/models/fake/attend"  # of `tests.e2e.fake_server`, whose batches take as long as is said
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waited:
    """What callers behind a busy device got, and how many sequences were computed beside the blocker."""

    executed: int
    answers: Counter[int | str] = field(default_factory=Counter)


def _ask(**fields: object) -> bytes:
    return post(FAKE_ATTEND, json.dumps({"inputs": [{"token_ids": [1, 2]}], **fields}).encode(), JSON)


async def _metrics(port: int) -> dict[str, float]:
    page = (await one_reply(port, request("GET", "/metrics"))).body.decode()
    return {
        one.name: one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if not one.labels
    }


async def _until_queued(port: int, least: int, most: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not least <= (await _metrics(port))["heed_queued_requests"] <= most:
            await asyncio.sleep(0.02)


async def _computed(port: int, least: float) -> float:
    """Return how many sequences were computed, once it is `least`: a batch is told of after its answers."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (found := (await _metrics(port))["heed_batch_sequences_sum"]) < least:
            await asyncio.sleep(0.02)
    return found


async def leave_while_waiting(port: int, count: int, *, pipelined: bool) -> Waited:
    """`count` callers ask (twice in one packet, where pipelined) behind a blocker, and leave by RST."""
    before = (await _metrics(port))["heed_batch_sequences_sum"]
    blocker = asyncio.create_task(one_reply(port, _ask()))
    await _until_queued(port, 1, 1)
    leavers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in leavers:
        writer.write(_ask() * (2 if pipelined else 1))
        await writer.drain()
    await _until_queued(port, count + 1, count + 1)
    for _, writer in leavers:
        writer.transport.abort()
    assert (await blocker).status == 200
    await _until_queued(port, 0, 0)
    executed = await _computed(port, least=before + 1) - before - 1
    return Waited(int(executed))


async def miss_deadlines(port: int, count: int, deadline_ms: int = 100) -> Waited:
    """`count` callers ask behind a blocker that takes longer than they have."""
    before = (await _metrics(port))["heed_batch_sequences_sum"]
    blocker = asyncio.create_task(one_reply(port, _ask()))
    await _until_queued(port, 1, 1)
    answers: Counter[int | str] = Counter()

    async def one() -> None:
        with suppress(OSError):
            try:
                answers[(await one_reply(port, _ask(deadline_ms=deadline_ms))).status] += 1
            except (Cut, TimeoutError) as problem:
                answers[type(problem).__name__] += 1

    await asyncio.gather(*(one() for _ in range(count)))
    assert (await blocker).status == 200
    await _until_queued(port, 0, 0)
    executed = await _computed(port, least=before + 1) - before - 1
    return Waited(int(executed), answers)
