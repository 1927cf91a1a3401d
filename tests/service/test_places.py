import resource
from collections.abc import Iterator

import pytest

from service.socket.endings import Ending, Endings
from service.socket.places import AT_ONCE, KEPT_BACK, MOST, SEATS, SPARED_SECONDS, Places


class Caller:
    """A connection that has kept us waiting since a time, or that waits for us."""

    def __init__(self, places: Places, since: float | None, kind: Ending) -> None:
        self._places = places
        self.since = since
        self.kind = kind
        self.ended = False

    def wait(self, now: float) -> tuple[Ending, float] | None:
        return None if self.since is None else (self.kind, now - self.since)

    def end(self) -> None:
        self.ended = True
        self._places.leave(self)


class House:
    """Places, and what was counted; the clock stands at 1000 seconds."""

    def __init__(self, most: int) -> None:
        self.counted: list[str] = []
        self.places = Places(most, Endings(self.counted.append))
        self.callers: list[Caller] = []

    def come(self, *, waiting: float | None, kind: Ending = "slow_body") -> bool:
        """Have a caller in whom we have waited for so many seconds, None for one who waits for us."""
        caller = Caller(self.places, None if waiting is None else 1000.0 - waiting, kind)
        self.callers.append(caller)
        return self.places.enter(caller, 1000.0)

    def ended(self) -> list[int]:
        return [number for number, caller in enumerate(self.callers) if caller.ended]


def test_below_the_limit_everyone_has_a_place_and_stays() -> None:
    house = House(5)
    assert all(house.come(waiting=seconds) for seconds in (0, 50, 1, None, 2))
    assert house.ended() == []
    assert house.places.open == 5


def test_at_the_limit_who_kept_us_waiting_longest_goes_first() -> None:
    house = House(4)
    for seconds in (3, 70, None, 20):
        house.come(waiting=seconds)
    assert house.come(waiting=0)
    assert house.ended() == [1]
    assert house.come(waiting=0)
    assert house.ended() == [1, 3]
    assert house.counted == ["room", "room"]


def test_who_is_idle_goes_after_who_owes_something_for_a_tenth_of_that_time() -> None:
    house = House(3)
    house.come(waiting=50, kind="idle")
    house.come(waiting=6, kind="slow_body")
    house.come(waiting=4, kind="slow_reader")
    for _ in range(3):
        house.come(waiting=0)
    assert house.counted == ["room"] * 3
    assert house.ended() == [0, 1, 2]
    house = House(2)
    house.come(waiting=50, kind="idle")
    house.come(waiting=6, kind="slow_head")
    house.come(waiting=0)
    assert house.ended() == [1]


def test_who_waits_for_an_answer_is_never_closed_for_another() -> None:
    house = House(4)
    for _ in range(4):
        house.come(waiting=None)
    assert not house.come(waiting=0)
    assert house.ended() == []
    assert house.places.open == 5


def test_who_has_just_come_is_not_closed_for_another() -> None:
    house = House(4)
    for _ in range(4):
        house.come(waiting=SPARED_SECONDS / 2)
    assert not house.come(waiting=0)
    assert house.ended() == []


def test_beyond_the_limit_are_a_few_seats_and_then_the_end() -> None:
    house = House(4)
    for _ in range(4 + SEATS):
        house.come(waiting=None)
    assert house.places.open == 4 + SEATS
    assert not house.come(waiting=0)
    assert house.ended() == [4 + SEATS]
    assert house.places.open == 4 + SEATS
    assert house.counted == ["full"]


def test_who_dawdles_on_a_seat_goes_for_the_next() -> None:
    house = House(1)
    house.come(waiting=None)
    for number in range(SEATS):
        house.come(waiting=float(number + 1))
    house.come(waiting=0)
    assert house.ended() == [SEATS]
    assert house.places.open == 1 + SEATS


def test_one_who_sits_gets_a_place_when_there_is_one() -> None:
    house = House(1)
    house.come(waiting=None)
    house.come(waiting=0)
    assert not house.places.rise(house.callers[1], 1000.0)
    house.places.leave(house.callers[0])
    assert house.places.rise(house.callers[1], 1000.0)
    assert house.places.open == 1


def test_of_many_some_go_together() -> None:
    house = House(100 * AT_ONCE)
    for number in range(100 * AT_ONCE):
        house.come(waiting=float(number))
    house.come(waiting=0)
    assert house.ended() == list(range(99 * AT_ONCE, 100 * AT_ONCE))


@pytest.fixture
def open_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("open_files")
def test_limit_of_open_files_is_raised_as_far_as_is_needed() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    places = Places(300)
    places.settle()
    soft, after = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert places.most == 300
    assert 300 + KEPT_BACK + SEATS < soft <= hard
    assert after == hard


def test_nobody_said_how_many() -> None:
    assert Places().most == MOST


def test_few_open_files_leave_few_places_and_some_for_files(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr("service.socket.places._in_use", lambda: 56)
    places = Places()
    places.settle()
    assert places.most == 200 - 50 - SEATS
    assert caplog.messages == []
    asked = Places(1000)
    asked.settle()
    assert asked.most == places.most
    assert "limit of open files is 256" in caplog.messages[0]


def test_log_has_one_line_a_reason_in_ten_seconds_with_how_many(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []
    endings = Endings(counted.append)

    def told() -> list[tuple[str, int]]:
        fields = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
        return [(one["reason"], one["connections"]) for one in fields]

    for _ in range(3):
        endings.add("slow_body")
    endings.add("idle")
    endings.tell(100.0)
    assert told() == [("slow_body", 3)]
    for second in range(1, 10):
        endings.add("slow_body")
        endings.add("room")
        endings.tell(100.0 + second)
    assert told() == [("slow_body", 3), ("room", 1)]
    endings.tell(110.0)
    endings.tell(111.0)
    assert told() == [("slow_body", 3), ("room", 1), ("slow_body", 9), ("room", 8)]
    assert len(counted) == 22
