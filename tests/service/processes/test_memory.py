import os
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from service.processes.memory import ALIGNMENT, KEPT_BYTES, Memory, OwnMemory, Place, Region, room_for

X = np.arange(12, dtype=np.float32).reshape(3, 4)
MIB = 1 << 20


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("test")
    yield fd
    os.close(fd)


def other_end(fd: int, region: Region) -> Region:
    """The same stretch, as the other process sees it."""
    return Memory(fd).region(region.at, region.size, region.top)


@pytest.mark.parametrize(
    "array",
    [
        X,
        X.astype(np.float16)[::-1],
        np.asfortranarray(X),
        np.array([True, False]),
        np.zeros((2, 0), dtype=np.int32),
        np.array(2**40),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_arrive_bit_by_bit_in_either_direction(file: int, array: np.ndarray) -> None:
    region = OwnMemory(file).take(room_for([array.nbytes, array.nbytes]))
    there = other_end(file, region)
    for writer, reader in ((region, there), (there, region)):
        arrived = reader.look(writer.put(array))
        assert (arrived.dtype, arrived.shape) == (array.dtype, array.shape)
        assert arrived.tobytes() == array.tobytes()


def test_what_does_not_fit_is_refused_and_writes_over_nothing(file: int) -> None:
    memory = OwnMemory(file)
    full, next_to_it = memory.take(X.nbytes), memory.take(X.nbytes)
    place = next_to_it.put(X)
    full.put(X)
    with pytest.raises(ValueError, match="does not fit"):
        full.put(np.ones(64, dtype=np.uint8))
    assert np.array_equal(next_to_it.look(place), X)


def test_memory_is_free_again_when_nothing_looks_at_it_and_is_the_next_to_be_given_out(file: int) -> None:
    memory = OwnMemory(file)
    first, second, third = (memory.take(size) for size in (1000, 2000, 3000))
    seen = second.look(second.put(X))
    places = [region.at for region in (first, second, third)]
    del first, second
    assert memory.take(900).at == places[0]
    assert np.array_equal(seen, X)  # a view keeps it
    assert memory.take(1900).at > places[2]
    del seen
    assert memory.take(2900).at == places[0]  # what was freed side by side is one
    del third
    assert memory.used == 0


def test_what_is_given_out_never_overlaps(file: int) -> None:
    chance = np.random.default_rng(0)
    memory = OwnMemory(file)
    held: list[Region] = []
    for _ in range(2000):
        if held and chance.random() < 0.5:
            del held[int(chance.integers(len(held)))]
        else:
            held.append(memory.take(int(chance.integers(1, 100_000))))
        assert memory.used == sum(region.size for region in held)
    spans = sorted((region.at, region.at + region.size) for region in held)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(begin % ALIGNMENT == 0 for begin, _ in spans)


def test_memory_grows_under_what_is_already_there(file: int) -> None:
    memory = OwnMemory(file)
    small = memory.take(X.nbytes)
    place = small.put(X)
    there = other_end(file, small)
    large = memory.take(8 * MIB)
    numbers = np.arange(MIB, dtype=np.float64)
    assert np.array_equal(other_end(file, large).look(large.put(numbers)), numbers)
    assert np.array_equal(there.look(place), X)


def test_memory_beyond_what_is_kept_goes_back_to_the_system_once_it_is_free(file: int) -> None:
    def held() -> int:
        return os.fstat(file).st_blocks * 512

    memory = OwnMemory(file)
    kept = memory.take(KEPT_BYTES)
    large, last = memory.take(20 * MIB), memory.take(MIB)
    for region in (kept, large, last):
        region.put(np.ones(region.size, dtype=np.uint8))
    assert held() >= KEPT_BYTES + 21 * MIB
    memory.trim()
    assert held() >= KEPT_BYTES + 21 * MIB
    del region, large
    memory.trim()
    assert held() <= KEPT_BYTES + MIB + 2 * 4096
    assert last.look(Place(0, "|u1", (last.size,))).all()
    del last, kept
    memory.trim()
    assert held() <= KEPT_BYTES
    again = memory.take(KEPT_BYTES + 9 * MIB)
    place = again.put(np.full(again.size, 2, dtype=np.uint8))
    assert (other_end(file, again).look(place) == 2).all()
