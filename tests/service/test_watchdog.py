"""Silence that lasts is the end, silence nobody saw is not."""

import threading

from service.watchdog import Heartbeat, Patience, end_when_stuck


def looks(patience: Patience, *, start: int, count: int, trouble: bool = True) -> list[bool]:
    """Look every half second."""
    return [patience.ended(start + 0.5 * step, trouble=trouble) for step in range(count)]


def test_trouble_ends_the_server_after_twice_the_watchdogs_seconds() -> None:
    found = looks(Patience(5), start=0, count=23)
    assert found == [False] * 21 + [True, True]


def test_trouble_that_passes_is_forgotten() -> None:
    patience = Patience(5)
    assert not any(looks(patience, start=0, count=20))
    assert not any(looks(patience, start=10, count=1, trouble=False))
    assert not any(looks(patience, start=11, count=18))


def test_who_was_stopped_has_not_seen_the_silence() -> None:
    patience = Patience(5)
    assert not any(looks(patience, start=0, count=4))
    assert not any(looks(patience, start=3600, count=4))


def test_heartbeat_tells_how_long_ago_the_loop_came_round() -> None:
    told: list[float] = []
    heard = threading.Event()

    def tell(seconds: float) -> None:
        told.append(seconds)
        heard.set()

    heartbeat = Heartbeat()
    heartbeat.beat()
    heartbeat.watch(tell)
    assert heard.wait(20)
    assert told[0] > 0


def test_loop_that_comes_round_is_not_ended() -> None:
    ended: list[str] = []
    look = end_when_stuck(10, end=lambda: ended.append("ended"))
    for _ in range(1000):
        look(9.9)
    assert ended == []
