"""Where work is done: at once, in turn on the loop, or on a thread."""

import asyncio
import threading

import pytest

from service.http.turns import AT_ONCE_MS, LONGEST_TURN_MS, Turns


def test_short_and_middling_work_is_done_on_the_loop_and_long_work_is_not() -> None:
    async def main() -> list[bool]:
        turns = Turns()
        here = threading.get_ident()
        return [
            await turns.run(lambda: threading.get_ident() == here, ms=ms)
            for ms in (0.0, AT_ONCE_MS, LONGEST_TURN_MS, LONGEST_TURN_MS + 1)
        ]

    assert asyncio.run(main()) == [True, True, True, False]


def test_others_go_between_two_turns() -> None:
    order: list[str] = []

    async def main() -> None:
        turns = Turns()
        loop = asyncio.get_running_loop()

        def work(name: str) -> None:
            order.append(name)
            loop.call_soon(order.append, f"after {name}")

        await asyncio.gather(*(turns.run(lambda name=name: work(name), ms=1.0) for name in "abc"))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert order == ["a", "after a", "b", "after b", "c", "after c"]


def test_failure_is_the_callers_and_the_next_has_its_turn() -> None:
    async def main() -> int:
        turns = Turns()
        with pytest.raises(ZeroDivisionError):
            await turns.run(lambda: 1 // 0, ms=1.0)
        return await turns.run(lambda: 7, ms=1.0)

    assert asyncio.run(main()) == 7
