import socket
import threading
from collections.abc import Iterator

import pytest
from msgspec import Struct

from service.processes.channel import Channel, Closed
from tests.waiting import wait_until


class Note(Struct, tag=True, array_like=True):
    n: int
    text: str = ""


class Other(Struct, tag=True, array_like=True):
    n: int


Ends = tuple[Channel[Note | Other], Channel[Note | Other]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    here, there = (Channel[Note | Other](end, takes=Note | Other) for end in socket.socketpair())
    yield here, there
    here.close()
    there.close()


def received(end: Channel[Note | Other], count: int) -> list[Note | Other]:
    found: list[Note | Other] = []
    while len(found) < count:
        found += end.receive()
    return found


def test_messages_arrive_whole_typed_and_in_order(ends: Ends) -> None:
    here, there = ends
    messages = [Note(1), Other(2), Note(3, "ü" * 300_000), Other(4)]
    here.send(*messages[:2])
    for message in messages[2:]:
        here.send(message)
    assert received(there, 4) == messages


def test_messages_of_many_threads_are_not_mixed(ends: Ends) -> None:
    here, there = ends
    threads = [
        threading.Thread(target=lambda n=n: [here.send(Note(n, "x" * 50_000)) for _ in range(20)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    got = received(there, 80)
    assert sorted(message.n for message in got) == sorted([0, 1, 2, 3] * 20)
    assert {len(message.text) for message in got if isinstance(message, Note)} == {50_000}
    for thread in threads:
        thread.join()


def test_sending_to_one_that_does_not_read_waits_for_nothing_and_loses_nothing(ends: Ends) -> None:
    here, there = ends
    messages = [Note(n, "x" * 100_000) for n in range(100)]
    for message in messages:
        here.send(message)  # ten megabytes, of which a socket takes a fraction
    assert received(there, 100) == messages
    here.send(Other(1))
    assert there.receive() == [Other(1)]


def test_receiving_without_waiting_gives_what_is_there(ends: Ends) -> None:
    here, there = ends
    assert there.receive(wait=False) == []
    here.send(Other(1), Other(2))
    assert there.receive(wait=False) == [Other(1), Other(2)]


def test_end_of_the_other_process_is_said_and_wakes_who_waits(ends: Ends) -> None:
    here, there = ends
    seen: list[str] = []

    def wait() -> None:
        with pytest.raises(Closed):
            there.receive()
        seen.append("woken")

    waiting = threading.Thread(target=wait)
    waiting.start()
    here.close()
    waiting.join(timeout=20)
    assert seen == ["woken"]
    with pytest.raises(Closed):
        there.send(Other(1))


def test_end_of_one_that_did_not_read_is_said_too(ends: Ends) -> None:
    here, there = ends
    for n in range(20):
        here.send(Note(n, "x" * 100_000))
    there.close()

    def ended() -> bool:
        try:
            here.send(Other(1))
        except Closed:
            return True
        return False

    wait_until(ended, "who sends is told")
