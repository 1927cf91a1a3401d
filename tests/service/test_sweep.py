import asyncio

from service.socket.endings import Endings
from service.socket.sweep import ENDED_A_TICK, TICKS_A_LOOK, Sweep


class Caller:
    """A connection that is late from a time on, and leaves when it is ended."""

    def __init__(self, among: set["Caller"], late_from: float) -> None:
        self.among = among
        self.late_from = late_from
        among.add(self)

    def late(self, now: float) -> str | None:
        return "slow_body" if now > self.late_from else None

    def give_up(self, reason: str) -> None:
        assert reason == "slow_body"
        self.among.discard(self)

    def forgive(self, seconds: float) -> None:
        self.late_from += seconds


def swept(callers: set[Caller], times: list[float]) -> list[int]:
    """How many are left after each tick."""

    async def story() -> list[int]:
        sweep, left = Sweep(Endings()), []
        for now in times:
            await sweep.over(callers, now)  # type: ignore[arg-type]
            left.append(len(callers))
        return left

    return asyncio.run(story())


def test_those_who_are_late_together_are_ended_a_few_at_a_time() -> None:
    callers: set[Caller] = set()
    for _ in range(5 * ENDED_A_TICK):
        Caller(callers, late_from=10.0)
    on_time = Caller(callers, late_from=1e9)
    left = swept(callers, [10.1 + 0.1 * tick for tick in range(2 * TICKS_A_LOOK)])
    assert left[:5] == [1 + number * ENDED_A_TICK for number in (4, 3, 2, 1, 0)]
    assert callers == {on_time}


def test_who_left_or_caught_up_meanwhile_is_not_ended() -> None:
    callers: set[Caller] = set()
    for _ in range(3 * ENDED_A_TICK):
        Caller(callers, late_from=10.0)

    async def story() -> None:
        sweep = Sweep(Endings())
        await sweep.over(callers, 10.1)  # type: ignore[arg-type]
        gone = callers.pop()
        for caller in callers:
            caller.late_from = 1e9
        await sweep.over(callers, 10.2)  # type: ignore[arg-type]
        assert gone not in callers

    asyncio.run(story())
    assert len(callers) == 2 * ENDED_A_TICK - 1


def test_while_the_process_stood_still_nobody_was_late() -> None:
    callers: set[Caller] = set()
    Caller(callers, late_from=10.0)
    ticks = [9.0 + 0.1 * tick for tick in range(TICKS_A_LOOK)]
    assert swept(callers, [*ticks, 500.0])[-1] == 1
    assert swept(callers, [1e6])[-1] == 0
