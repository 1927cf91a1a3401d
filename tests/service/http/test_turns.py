"""Where work is done: at once, in turn on the loop, or on a thread."""

import asyncio
import threading

import pytest

from service.errors import Invalid
from service.http.turns import ALLOWED, AT_ONCE_MS, LONGEST_TURN_MS, Turns
from service.wire.effort import TooMuch, spend


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


@pytest.mark.parametrize("ms", [0.0, 1.0])
def test_work_that_says_it_is_too_much_is_done_from_its_beginning_on_a_thread(ms: float) -> None:
    begun: list[int] = []

    def work(times: int) -> int:
        begun.append(threading.get_ident())
        for _ in range(times):
            spend(ALLOWED / 4)
        return times

    async def main() -> list[int]:
        turns = Turns()
        return [await turns.run(lambda times=times: work(times), ms=ms) for times in (4, 5, 1000)]

    assert asyncio.run(main()) == [4, 5, 1000]
    here = threading.get_ident()
    assert [thread == here for thread in begun] == [True, True, False, True, False]


def test_what_one_piece_of_work_may_do_is_not_taken_from_the_next() -> None:
    async def main() -> list[bool]:
        turns = Turns()

        def work() -> bool:
            spend(ALLOWED)
            return threading.get_ident() == here

        here = threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await turns.run(lambda: 1 // 0, ms=0.0)
        return [await turns.run(work, ms=0.0) for _ in range(3)]

    assert asyncio.run(main()) == [True, True, True]
    spend(10 * ALLOWED)  # nothing is counted where nothing is limited


def test_bytes_leave_the_less_to_what_is_declared() -> None:
    async def main() -> list[bool]:
        turns = Turns()
        here = threading.get_ident()

        def work() -> bool:
            spend(ALLOWED / 2)
            return threading.get_ident() == here

        return [await turns.run(work, ms=ms) for ms in (1.0, LONGEST_TURN_MS)]

    assert asyncio.run(main()) == [True, False]


def test_refusal_on_a_thread_leaves_nothing_of_the_request_to_the_loop() -> None:
    class Read:
        pass

    def work() -> None:
        read.append(Read())
        raise Invalid("no") from KeyError("inner")

    async def main() -> Invalid:
        with pytest.raises(Invalid, match="no") as caught:
            await Turns().run(work, ms=LONGEST_TURN_MS + 1)
        return caught.value

    read: list[Read] = []
    error = asyncio.run(main())
    assert (error.__cause__, error.__context__) == (None, None)
    frames = []
    at = error.__traceback__
    while at is not None:
        frames.append(at.tb_frame.f_code.co_name)
        at = at.tb_next
    assert "work" not in frames


def test_too_much_is_nobodys_exception() -> None:
    assert not issubclass(TooMuch, Exception)
