"""What is refused because it would be late: whole days of the backlog on a clock of their own."""

import random
from collections.abc import Callable, Sequence

import pytest

from service.batching.job import Job
from tests.overload import Arrival, Day

LONG = 2500  # tokens, 42 ms
CAPACITY = 1 / 0.0405  # of them, a second


def cost_of(tokens: int) -> float:
    """Of one sequence: more than in proportion for long ones."""
    return 0.04 * (tokens / LONG) * (0.3 + 0.7 * tokens / LONG)


def cost(jobs: Sequence[Job]) -> float:
    """Of a batch: two milliseconds to start, and its sequences."""
    return 0.002 + sum(cost_of(one.cost.tokens) for one in jobs)


def uneven(seed: int) -> Callable[[Sequence[Job]], float]:
    """The same on a machine that others use too: up to a few times slower at any time, a third on average."""
    drawn = random.Random(seed)
    return lambda jobs: cost(jobs) * (1 + 0.3 * drawn.expovariate(1))


def arrivals(
    rate: float,
    seconds: float,
    make: Callable[[random.Random, float], Arrival],
    *,
    seed: int = 1,
    begin: float = 0.0,
) -> list[Arrival]:
    """Requests that know nothing of each other (a Poisson process)."""
    drawn = random.Random(seed)
    at, made = begin, []
    while (at := at + drawn.expovariate(rate)) < begin + seconds:
        made.append(make(drawn, at))
    return made


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("allows", [30.0, 3.0, 1.0])
def test_at_four_times_what_it_can_do_the_device_works_for_those_who_wait(slots: int, allows: float) -> None:
    day = Day(cost, slots=slots)
    day.run(arrivals(4 * CAPACITY, 20, lambda _, at: Arrival(at, (LONG,), allows)))
    assert len(day.answered) >= 0.9 * CAPACITY * 20
    assert day.wasted <= 0.02
    assert all(seconds >= 1 for _, seconds in day.refused)


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("allows", [3.0, 1.0])
def test_so_it_does_where_nothing_takes_as_long_as_the_last_time(slots: int, allows: float) -> None:
    day = Day(uneven(2), slots=slots)
    day.run(arrivals(4 * CAPACITY / 1.3, 60, lambda _, at: Arrival(at, (LONG,), allows)))
    assert len(day.answered) >= 0.9 * CAPACITY / 1.3 * 60
    assert day.wasted <= 0.02


@pytest.mark.parametrize("slots", [1, 4])
def test_what_came_one_at_a_time_does_not_make_many_look_slow(slots: int) -> None:
    alone = [Arrival(number / 10, (10,), 0.3) for number in range(100)]
    crowd = [Arrival(10.05, (10,), 0.3)] * 500
    day = Day(cost, slots=slots)
    day.run([*alone, *crowd])
    assert len(day.answered) == 600


@pytest.mark.parametrize("slots", [1, 4])
def test_what_long_sequences_cost_refuses_no_short_one(slots: int) -> None:
    day = Day(uneven(4), slots=slots)
    long = arrivals(2 * CAPACITY, 10, lambda _, at: Arrival(at, (LONG,), 1))
    short = arrivals(50, 20, lambda _, at: Arrival(at, (20,), 0.5))
    day.run(sorted([*long, *short], key=lambda one: one.at))
    assert {one.tokens for one, _ in day.refused} == {(LONG,)}
    assert not day.hopeless
    assert sum(one.tokens == (20,) for one in day.answered) == len(short)


@pytest.mark.parametrize("slots", [1, 4])
def test_who_asks_little_is_not_refused_for_who_asks_much(slots: int) -> None:
    day = Day(uneven(5), slots=slots)
    much = arrivals(4 * CAPACITY, 20, lambda _, at: Arrival(at, (LONG,), 1, tenant="much"))
    little = arrivals(3, 20, lambda _, at: Arrival(at, (LONG,), 1, tenant="little"), seed=2)
    day.run(sorted([*much, *little], key=lambda one: one.at))
    assert {one.tenant for one, _ in day.refused} == {"much"}
    assert sum(one.tenant == "little" for one in day.answered) == len(little)


@pytest.mark.parametrize("slots", [1, 4])
def test_work_of_lower_priority_is_not_ahead(slots: int) -> None:
    day = Day(uneven(6), slots=slots)
    day.run(
        arrivals(
            4 * CAPACITY, 20, lambda drawn, at: Arrival(at, (LONG,), 1, 5 if drawn.random() < 0.1 else 0)
        )
    )
    refused = [one.priority for one, _ in day.refused]
    assert refused.count(5) <= 1  # before anything was known
    assert refused.count(0) > 500


@pytest.mark.parametrize(("rate", "allows"), [(10, 0.5), (13, 1.0), (16, 3.0)])
def test_a_server_that_can_do_it_all_refuses_hardly_anyone(rate: int, allows: float) -> None:
    asked = arrivals(rate, 60, lambda _, at: Arrival(at, (LONG,), allows), seed=3)
    day = Day(uneven(3))
    day.run(asked)
    assert len(day.answered) >= 0.995 * len(asked)


def test_of_a_server_that_has_computed_nothing_nothing_is_known() -> None:
    day = Day(cost)
    day.run([Arrival(0.0, (LONG,), 3) for _ in range(100)])
    assert not day.refused
    assert not day.hopeless


def test_a_request_of_several_sequences_is_refused_whole_or_finished() -> None:
    day = Day(uneven(8))
    day.run(
        arrivals(
            20, 30, lambda drawn, at: Arrival(at, tuple(drawn.choices((100, 400, LONG), k=8)), 2), seed=8
        )
    )
    assert len(day.refused) > 100
    assert day.wasted <= 0.02


def test_retry_after_is_when_it_would_be_let_in() -> None:
    flood = arrivals(4 * CAPACITY, 5, lambda _, at: Arrival(at, (LONG,), 2))
    day = Day(cost)
    day.run(flood)
    refused, seconds = day.refused[-1]
    again = Arrival(refused.at + seconds, (LONG,), 2)
    retried = Day(cost)
    retried.run([*flood, again])
    assert again in retried.answered


def test_one_batch_that_stalled_is_no_measure() -> None:
    batches = 0

    def stalls(jobs: Sequence[Job]) -> float:
        nonlocal batches
        batches += 1
        return 100 if batches == 50 else cost(jobs)

    day = Day(stalls)
    day.run(arrivals(0.7 * CAPACITY, 150, lambda _, at: Arrival(at, (LONG,), 1)))
    after = [one for one in day.answered if one.at > 110]
    assert len(after) >= 0.99 * 0.7 * CAPACITY * 35
    assert not any(one.at > 110 for one, _ in day.refused)


def test_what_takes_longer_than_it_may_is_refused_and_tried_again_now_and_then() -> None:
    def make(drawn: random.Random, at: float) -> Arrival:
        return Arrival(at, (20_000,), 1) if drawn.random() < 0.2 else Arrival(at, (400,), 5)

    asked = arrivals(20, 300, make)
    day = Day(cost)
    day.run(asked)
    assert {one.tokens for one in day.hopeless} == {(20_000,)}
    assert {one.tokens for one in day.answered} == {(400,)}
    assert len(day.answered) == sum(one.tokens == (400,) for one in asked)
    for_nobody = day.computed - len(day.answered)
    assert 3 < for_nobody < 10  # the first three, and then one a hundred seconds
