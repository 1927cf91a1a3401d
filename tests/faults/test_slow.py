"""Slow callers keep nobody else waiting, with many descriptors or few."""

import asyncio

from tests.faults.conftest import Start
from tests.faults.limits import descriptors
from tests.faults.network import Healthy, learn
from tests.faults.running import Running
from tests.faults.slow import SLOW_KINDS, slow_callers
from tests.faults.unmended import unmended

EACH = 60
ANSWERS = 300
FEW_DESCRIPTORS = 128


async def _answered_beside(server: Running, kinds: tuple[str, ...], count: int) -> list[str]:
    """Complaints of healthy callers until enough were answered beside slow ones, who are all there."""
    expected = await learn(server.port)
    async with slow_callers(server.port, kinds, count) as seen:
        async with asyncio.timeout(30):
            while min(seen[f"{kind}: made"] for kind in kinds) < count:
                await asyncio.sleep(0.02)
        healthy = Healthy(server.port, expected)
        async with asyncio.timeout(60), healthy.asking():
            while healthy.answered < ANSWERS and not healthy.complaints:
                await asyncio.sleep(0.02)
        return healthy.complaints


def test_slow_callers_of_every_kind_keep_nobody_waiting(start: Start) -> None:
    server = start()
    assert asyncio.run(_answered_beside(server, SLOW_KINDS, EACH)) == []
    assert server.stop() == 0


@unmended("few descriptors")
def test_slow_bodies_do_not_hold_every_descriptor(start: Start) -> None:
    server = start(prefix=descriptors(FEW_DESCRIPTORS))
    assert asyncio.run(_answered_beside(server, ("slow body",), FEW_DESCRIPTORS)) == []
    assert server.alive
