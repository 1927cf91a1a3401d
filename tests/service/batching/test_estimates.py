"""How long work takes, learned from batches."""

import asyncio
from collections.abc import Iterator

import pytest

from service.batching.cost import Cost
from service.batching.estimates import MOST_KINDS, STALE_SECONDS, Estimates, kind_of
from service.batching.job import Job, Ticket
from service.batching.limits import Limits
from tests.queueing import job, sequence, ticket


@pytest.fixture
def owner() -> Iterator[Ticket]:
    loop = asyncio.new_event_loop()
    yield ticket(loop)
    loop.close()


def one(owner: Ticket, tokens: int, kind: str = "") -> Job:
    return job(owner, Limits(), tokens=tokens, kind=kind)


def expected(known: Estimates, asked: Job, *, now: float = 0.0) -> tuple[float, float]:
    """What it is guessed to take, and how much of that is certain."""
    known.estimate(asked, now)
    return asked.seconds, asked.needs


def test_nothing_is_expected_of_what_nobody_has_seen(owner: Ticket) -> None:
    assert expected(Estimates(), one(owner, 100)) == (0.0, 0.0)


def test_a_kind_that_is_known_is_expected_to_take_its_own_time(owner: Ticket) -> None:
    known = Estimates()
    for _ in range(50):
        known.measured([one(owner, 100, "slow")] * 2, 2.0, 0.0)
        known.measured([one(owner, 100, "fast")] * 2, 0.02, 0.0)
    assert expected(known, one(owner, 50, "slow")) == pytest.approx((0.5, 0.5), rel=0.02)
    assert expected(known, one(owner, 50, "fast")) == pytest.approx((0.0038, 0.0038), rel=0.3)


def test_a_new_kind_is_guessed_by_its_tokens_and_not_certain(owner: Ticket) -> None:
    known = Estimates()
    for _ in range(3):
        known.measured([one(owner, 100, "known")], 1.0, 0.0)
    seconds, needs = expected(known, one(owner, 50, "new"))
    assert seconds == pytest.approx(0.5)
    assert needs == 0


def test_kinds_that_share_batches_are_told_apart_by_those_they_do_not_share(owner: Ticket) -> None:
    known = Estimates()
    for _ in range(100):
        known.measured([one(owner, 100, "dear")], 1.0, 0.0)
        known.measured([one(owner, 100, "dear"), *[one(owner, 100, "cheap")] * 4], 1.4, 0.0)
    assert expected(known, one(owner, 100, "cheap"))[0] == pytest.approx(0.1, rel=0.15)


def test_a_machine_that_slows_down_is_noticed(owner: Ticket) -> None:
    known = Estimates()
    for seconds in [1.0] * 20 + [3.0] * 20:
        known.measured([one(owner, 100)], seconds, 0.0)
    assert expected(known, one(owner, 100))[0] == pytest.approx(3.0, rel=0.02)


def test_one_stall_is_believed_a_little(owner: Ticket) -> None:
    known = Estimates()
    for seconds in [1.0] * 20 + [1000.0]:
        known.measured([one(owner, 100)], seconds, 0.0)
    assert expected(known, one(owner, 100))[0] <= 2


def test_what_was_long_ago_is_not_certain(owner: Ticket) -> None:
    known = Estimates()
    for _ in range(3):
        known.measured([one(owner, 100)], 0.05, 10.0)
    assert expected(known, one(owner, 100), now=10 + STALE_SECONDS)[1] > 0
    assert expected(known, one(owner, 100), now=10.1 + STALE_SECONDS)[1] == 0


def test_a_clock_that_stands_still_measures_nothing(owner: Ticket) -> None:
    known = Estimates()
    known.measured([one(owner, 100)], 0.0, 0.0)
    assert expected(known, one(owner, 100)) == (0.0, 0.0)


def test_what_is_remembered_is_bounded(owner: Ticket) -> None:
    known = Estimates()
    for number in range(2 * MOST_KINDS):
        known.measured([one(owner, 100, str(number))], 1.0, 0.0)
    assert len(known) == MOST_KINDS
    assert expected(known, one(owner, 100, str(2 * MOST_KINDS - 1)))[0] == pytest.approx(1.0, rel=0.1)


def test_a_kind_is_a_model_its_outputs_and_sizes_within_a_factor_of_two() -> None:
    def kind(tokens: int, *outputs: str) -> object:
        item = sequence(tokens, outputs=outputs)
        return kind_of(item, Cost.of(item))

    assert kind(40, "z") == kind(41, "z")
    assert kind(40, "z") != kind(80, "z")
    assert kind(40, "z") != kind(40, "z", "weights")
