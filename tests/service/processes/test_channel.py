import socket
import threading

import pytest

from service.processes.channel import Channel, Closed


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def test_messages_arrive_whole_and_in_order() -> None:
    here, there = pair()
    messages = [{"n": 1}, {"text": "ü" * 300_000}, {}, {"list": [None, True, 1.5]}]

    def send() -> None:
        for message in messages:
            here.send(message)

    sender = threading.Thread(target=send)
    sender.start()
    assert [there.receive() for _ in messages] == messages
    sender.join()
    here.close()
    there.close()


def test_messages_of_many_threads_are_not_mixed() -> None:
    here, there = pair()
    threads = [
        threading.Thread(target=lambda n=n: [here.send({"n": n, "text": "x" * 50_000}) for _ in range(20)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    got = [there.receive() for _ in range(80)]
    assert sorted(message["n"] for message in got) == sorted([0, 1, 2, 3] * 20)
    assert {len(message["text"]) for message in got} == {50_000}
    for thread in threads:
        thread.join()
    here.close()
    there.close()


def test_end_of_the_other_process_is_said_and_wakes_who_waits() -> None:
    here, there = pair()
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
        there.send({"to": "nobody"})
    there.close()
