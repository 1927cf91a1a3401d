import asyncio
import threading
from collections.abc import Callable

import pytest

from service.http.texts.places import TextPlaces

LONG = 30.0


class Held:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def work(self) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.go.wait(LONG)
        with self._lock:
            self.running -= 1
        return threading.current_thread().name


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not true():
            await asyncio.sleep(0)


def test_work_is_done_on_another_thread():
    held = Held()
    held.go.set()
    name = asyncio.run(TextPlaces().run(held.work, model="one", seconds=LONG))
    assert name != threading.current_thread().name


def test_no_more_is_done_at_a_time_than_there_are_places():
    async def main() -> int:
        places, held = TextPlaces(3), Held()
        tasks = [
            asyncio.ensure_future(places.run(held.work, model=f"model {n}", seconds=LONG)) for n in range(8)
        ]
        await until(lambda: held.running == 3)
        held.go.set()
        await asyncio.gather(*tasks)
        return held.most

    assert asyncio.run(main()) == 3


def test_a_model_that_hangs_leaves_a_place_for_others():
    async def main() -> None:
        places, stuck, quick = TextPlaces(2), Held(), Held()
        quick.go.set()
        tasks = [asyncio.ensure_future(places.run(stuck.work, model="stuck", seconds=LONG)) for _ in range(4)]
        await until(lambda: stuck.running == 1)
        for _ in range(3):
            await places.run(quick.work, model="quick", seconds=LONG)
        assert stuck.most == 1
        stuck.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_who_waits_too_long_goes_and_the_place_stays_taken_until_its_thread_is_back():
    async def main() -> None:
        places, stuck, quick = TextPlaces(2), Held(), Held()
        quick.go.set()
        for _ in range(2):  # the first for its thread, the second for a place
            with pytest.raises(TimeoutError):
                await places.run(stuck.work, model="one", seconds=0.02)
        assert stuck.most == 1
        stuck.go.set()
        await places.run(quick.work, model="one", seconds=LONG)

    asyncio.run(main())


def test_who_is_cancelled_while_waiting_takes_no_place():
    async def main() -> None:
        places, stuck, quick = TextPlaces(2), Held(), Held()
        quick.go.set()
        first = asyncio.ensure_future(places.run(stuck.work, model="one", seconds=LONG))
        await until(lambda: stuck.running == 1)
        waiting = asyncio.ensure_future(places.run(stuck.work, model="one", seconds=LONG))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stuck.go.set()
        await first
        await places.run(quick.work, model="one", seconds=LONG)
        assert stuck.most == 1

    asyncio.run(main())


def test_what_work_raises_is_raised():
    def work() -> None:
        raise ValueError("no")

    async def main() -> None:
        places = TextPlaces(2)
        for _ in range(3):  # the places are given back
            with pytest.raises(ValueError, match="no"):
                await places.run(work, model="one", seconds=LONG)

    asyncio.run(main())
