"""Page-locked memory is as large as is asked for, no more than may be, used again, and given back."""

import gc
import mmap
import threading

import numpy as np
import pytest
import torch

from models.device import allocator
from models.device.allocator import give_back_free_blocks
from models.device.locked import LockedMemory
from tests.models.device.fake_cuda import Event

PAGE = mmap.PAGESIZE


class Driver:
    """What locks and unlocks memory; it refuses where `full`."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.locks, self.full = 0, False

    def register(self, address: int, nbytes: int) -> bool:
        assert address % PAGE == nbytes % PAGE == 0
        if not self.full:
            self.locked[address] = nbytes
            self.locks += 1
        return not self.full

    def unregister(self, address: int) -> None:
        del self.locked[address]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def memory(driver: Driver, *, most: int = 1 << 30, kept: int = 1 << 20) -> LockedMemory:
    return LockedMemory(driver.register, driver.unregister, most=most, kept=kept)


def test_a_block_is_as_large_as_was_asked_for_to_a_page(driver: Driver) -> None:
    pool = memory(driver)
    sizes = (805_306_369 // 64, 1, PAGE, PAGE + 1)
    held = [pool.take(size) for size in sizes]
    assert [one.nbytes for one in held if one is not None] == list(sizes)
    assert pool.nbytes == sum(driver.locked.values()) == sum(size + -size % PAGE for size in sizes)
    nothing = pool.take(0)
    assert nothing is not None
    assert nothing.nbytes == 0
    assert driver.locks == len(sizes)


def test_a_block_serves_again_once_nobody_holds_a_view_of_it(driver: Driver) -> None:
    pool = memory(driver)
    array = pool.take(6 * PAGE)
    assert array is not None
    view = array.view(np.float32)[3:9].reshape(2, 3)[1]
    tensor = torch.from_numpy(array)[PAGE : 2 * PAGE]
    del array
    others = [pool.take(6 * PAGE)]
    assert driver.locks == 2
    del tensor
    others.append(pool.take(6 * PAGE))
    assert driver.locks == 3
    assert view.nbytes
    del view
    gc.collect()
    others.append(pool.take(6 * PAGE - 5))
    assert driver.locks == 3
    assert len({one.ctypes.data for one in others if one is not None}) == 3


def test_what_is_much_larger_does_not_serve_what_is_small(driver: Driver) -> None:
    pool = memory(driver)
    pool.take(100 * PAGE)
    assert pool.take(10 * PAGE) is not None
    assert driver.locks == 2
    pool.take(90 * PAGE)  # a fifth larger is
    assert driver.locks == 2


def test_no_more_is_locked_than_may_be(driver: Driver) -> None:
    pool = memory(driver, most=10 * PAGE)
    first = pool.take(6 * PAGE)
    assert pool.take(6 * PAGE) is None
    assert pool.nbytes == 6 * PAGE
    del first
    assert pool.take(9 * PAGE) is not None  # what is free makes room
    assert sum(driver.locked.values()) == pool.nbytes == 9 * PAGE


def test_of_what_is_free_no_more_is_kept_than_may_be_and_none_in_quiet_times(driver: Driver) -> None:
    pool = memory(driver, kept=3 * PAGE)
    held = [pool.take(2 * PAGE) for _ in range(5)]
    del held
    one = pool.take(50 * PAGE)
    assert sum(driver.locked.values()) == 52 * PAGE
    pool.give_back()
    assert sum(driver.locked.values()) == pool.nbytes == 50 * PAGE
    del one
    pool.give_back()
    assert not driver.locked
    assert pool.nbytes == 0


def test_quiet_times_are_when_other_free_memory_goes_back(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = memory(driver)
    pool.take(PAGE)
    monkeypatch.setattr(allocator, "locked_memory", lambda: pool)
    give_back_free_blocks()
    assert not driver.locked


def test_what_the_device_still_reads_or_writes_is_nobody_elses(driver: Driver) -> None:
    pool = memory(driver)
    array = pool.take(PAGE)
    assert array is not None
    event, where = Event([]), array.ctypes.data
    pool.hold_until(event, array)
    del array
    other = pool.take(PAGE)
    assert other is not None
    assert other.ctypes.data != where
    event.done = True
    again = pool.take(PAGE)
    assert again is not None
    assert again.ctypes.data == where


def test_where_nothing_can_be_locked_memory_is_ordinary(driver: Driver) -> None:
    driver.full = True
    pool = memory(driver)
    assert pool.take(5 * PAGE) is None
    assert pool.nbytes == 0


def test_blocks_come_back_from_any_thread_also_while_one_is_taken(driver: Driver) -> None:
    pool = memory(driver)

    def work() -> None:
        for size in range(1, 200):
            array = pool.take(size * 64)
            assert array is not None
            array[:] = size % 251
            assert (array == size % 251).all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    pool.give_back()
    assert not driver.locked
