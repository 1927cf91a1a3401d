"""What runs next: one pure function, told everything."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.fairness import FairQueue
from service.batching.job import Job, Ticket
from service.batching.limits import Limits
from service.batching.scheduler import LOOK_AHEAD, Choice, next_batch
from tests.queueing import job, queue_of, ticket, tokens_of

LIMITS = Limits(
    max_batch_tokens=100,
    max_batch_scores=1000,
    max_batch_result_bytes=10_000,
    max_overtakes=3,
    long_share=0.5,
)
LONG = 60  # tokens; 50 and more count as long under LIMITS


@pytest.fixture
def owner() -> Iterator[Ticket]:
    loop = asyncio.new_event_loop()
    yield ticket(loop)
    loop.close()


def choose(queue: FairQueue, *, now: float = 0.0, limits: Limits = LIMITS) -> Choice:
    """Choose and do what the engine does with a choice."""
    choice = next_batch(queue.jobs, now, limits)
    queue.drop(choice.drop)
    queue.take(choice.run)
    for head in choice.overtaken:
        head.overtaken += 1
    return choice


def test_an_empty_queue_gives_an_empty_choice() -> None:
    choice = next_batch([], 0.0, LIMITS)
    assert [len(part) for part in (choice.run, choice.drop, choice.overtaken)] == [0, 0, 0]


def test_oldest_go_first_up_to_the_token_budget(owner: Ticket) -> None:
    queue = queue_of(*(job(owner, LIMITS, tokens=30) for _ in range(5)))
    first = list(queue.jobs[:3])
    assert choose(queue).run == first
    assert tokens_of(choose(queue).run) == [30, 30]


@pytest.mark.parametrize("budget", [{"scores": 400}, {"result_bytes": 4000}])
def test_scores_and_result_bytes_bound_a_batch_as_tokens_do(owner: Ticket, budget: dict[str, int]) -> None:
    queue = queue_of(*(job(owner, LIMITS, tokens=1, **budget) for _ in range(3)))
    assert len(choose(queue).run) == 2


def test_a_job_that_does_not_fit_is_stepped_over_and_leads_the_next_batch(owner: Ticket) -> None:
    sizes = [40, 40, 45, 15, 10]
    queue = queue_of(*(job(owner, LIMITS, tokens=size) for size in sizes))
    assert tokens_of(choose(queue).run) == [40, 40, 15]
    assert tokens_of(choose(queue).run) == [45, 10]


def test_a_sequence_over_the_budget_runs_alone(owner: Ticket) -> None:
    queue = queue_of(
        job(owner, LIMITS, tokens=500), job(owner, LIMITS, tokens=500), job(owner, LIMITS, scores=5000)
    )
    assert [len(choose(queue).run) for _ in range(3)] == [1, 1, 1]


def test_a_batch_holds_one_model_and_the_oldest_job_decides_which(owner: Ticket) -> None:
    old, new = object(), object()
    queue = queue_of(*(job(owner, LIMITS, tokens=10, model=model) for model in (old, new, old, None, new)))
    models = [{one.model for one in choose(queue).run} for _ in range(3)]
    assert models == [{old}, {new}, {None}]
    assert not queue


def test_deterministic_jobs_run_alone(owner: Ticket) -> None:
    queue = queue_of(*(job(owner, LIMITS, alone=alone) for alone in (False, True, False, True)))
    batches = [choose(queue).run for _ in range(3)]
    assert [[one.alone for one in batch] for batch in batches] == [[False, False], [True], [True]]


def test_higher_priority_goes_first_and_lower_fills_up(owner: Ticket) -> None:
    low, high = job(owner, LIMITS, tokens=40), job(owner, LIMITS, tokens=40, priority=5)
    queue = queue_of(low, job(owner, LIMITS, tokens=40), high)
    assert choose(queue).run == [high, low]


def test_low_priority_waits_no_longer_than_max_overtakes(owner: Ticket) -> None:
    low = job(owner, LIMITS, tokens=45, priority=-1)
    queue = queue_of(low)
    for before in range(LIMITS.max_overtakes):
        queue.add(job(owner, LIMITS, tokens=95 // 2, priority=1))
        queue.add(job(owner, LIMITS, tokens=95 // 2, priority=1))
        assert low not in choose(queue).run, before
    queue.add(job(owner, LIMITS, tokens=45, priority=1))
    batch = choose(queue).run
    assert batch[0] is low
    assert len(batch) == 2  # room left over goes to those who rank first


def test_short_jobs_do_not_wait_with_long_ones(owner: Ticket) -> None:
    long, short = job(owner, LIMITS, tokens=LONG), job(owner, LIMITS, tokens=10)
    queue = queue_of(long, short)
    assert choose(queue).run == [short]
    assert choose(queue).run == [long]


def test_a_long_job_is_overtaken_by_so_many_batches_and_no_more(owner: Ticket) -> None:
    queue = queue_of(*(job(owner, LIMITS, tokens=LONG) for _ in range(2)))
    served = []
    for _ in range(2 * (LIMITS.max_overtakes + 1)):
        queue.add(job(owner, LIMITS, tokens=10))
        served.append(choose(queue).run[0].long)
    pattern = [False] * LIMITS.max_overtakes + [True]
    assert served == pattern * 2


def test_long_jobs_share_a_batch_only_while_no_short_one_waits(owner: Ticket) -> None:
    limits = replace(LIMITS, long_share=0.2, max_overtakes=0)
    queue = queue_of(*(job(owner, limits, tokens=30) for _ in range(4)))
    queue.add(job(owner, limits, tokens=5))
    for head in queue.jobs:
        head.overtaken = 1 if head.long else 0
    assert tokens_of(choose(queue, limits=limits).run) == [30]
    queue.drop([one for one in queue.jobs if not one.long])
    assert tokens_of(choose(queue, limits=limits).run) == [30, 30, 30]


def test_expired_jobs_and_those_of_finished_requests_are_dropped(owner: Ticket) -> None:
    with asyncio.Runner() as runner:
        gone = ticket(runner.get_loop())
    gone.over = True
    late, fine, cancelled = (
        job(owner, LIMITS, deadline=5.0),
        job(owner, LIMITS, deadline=5.1),
        job(gone, LIMITS),
    )
    choice = next_batch(queue_of(late, fine, cancelled).jobs, 5.0, LIMITS)
    assert (choice.run, choice.drop) == ([fine], [late, cancelled])


def test_dropping_everything_runs_nothing(owner: Ticket) -> None:
    late = job(owner, LIMITS, deadline=1.0)
    assert next_batch(queue_of(late).jobs, 2.0, LIMITS) == Choice(drop=[late])


def test_look_ahead_is_bounded(owner: Ticket) -> None:
    """So that choosing from a very long queue of unfitting jobs stays cheap."""
    queue = queue_of(job(owner, LIMITS, tokens=45), job(owner, LIMITS, tokens=45))
    for _ in range(LOOK_AHEAD + 1):
        queue.add(job(owner, LIMITS, tokens=30))
    queue.add(job(owner, LIMITS, tokens=1))
    assert tokens_of(choose(queue).run) == [45, 45]


MODELS = ("a", "b", None)
arrivals = st.lists(
    st.tuples(
        st.sampled_from([1, 5, 20, 45, 50, 90, 100, 150]),  # tokens
        st.sampled_from([0, 100, 700, 2000]),  # scores
        st.sampled_from([0, 10, 6000, 20_000]),  # result bytes
        st.sampled_from(MODELS),
        st.integers(-1, 1),  # priority
        st.sampled_from(["ann", "bob", "cy"]),
        st.booleans(),  # deterministic
        st.sampled_from([math.inf, math.inf, 3.0, 9.0]),  # deadline
    ),
    max_size=40,
)


def _job(owner: Ticket, arrival: tuple) -> Job:  # type: ignore[type-arg]
    tokens, scores, result_bytes, model, priority, tenant, alone, deadline = arrival
    return job(
        owner,
        LIMITS,
        tokens=tokens,
        scores=scores,
        result_bytes=result_bytes,
        model=model,
        priority=priority,
        tenant=tenant,
        alone=alone,
        deadline=deadline,
    )


def _fits(jobs: list[Job]) -> bool:
    return (
        sum(one.cost.tokens for one in jobs) <= LIMITS.max_batch_tokens
        and sum(one.cost.scores for one in jobs) <= LIMITS.max_batch_scores
        and sum(one.cost.result_bytes for one in jobs) <= LIMITS.max_batch_result_bytes
    )


def _check_batch(choice: Choice, before: list[Job]) -> None:
    run = list(choice.run)
    assert len(run) == 1 or _fits(run)
    assert len({one.model for one in run}) <= 1
    assert len({one.long for one in run}) <= 1
    assert len(run) == 1 or not any(one.alone for one in run)
    if not run or run[0].alone:
        return
    left = [one for one in before if one not in run and one not in choice.drop]
    if run[0].long and not all(one.long for one in left):
        assert len(run) == 1
        return
    for one in left:  # nothing that would have fitted is left behind
        if one.model == run[0].model and one.long == run[0].long and not one.alone:
            assert not _fits([*run, one])


@given(waves=st.lists(arrivals, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_every_job_leaves_once_in_lawful_batches_whatever_arrives(waves: list) -> None:  # type: ignore[type-arg]
    """Nothing lost, nothing twice, budgets kept, room used, in time, and the function changes nothing."""
    loop = asyncio.new_event_loop()
    owner = ticket(loop)
    loop.close()
    queue = FairQueue()
    submitted: list[Job] = []
    left: list[Job] = []
    now = 0.0
    while waves or queue:
        if waves:
            for arrival in waves.pop(0):
                submitted.append(_job(owner, arrival))
                queue.add(submitted[-1])
        now += 1.0
        before = list(queue.jobs)
        state = [(one, one.rank, one.overtaken, one.queued) for one in before]
        choice = next_batch(queue.jobs, now, LIMITS)
        assert next_batch(tuple(queue.jobs), now, LIMITS) == choice
        assert state == [(one, one.rank, one.overtaken, one.queued) for one in queue.jobs]
        assert all(one.deadline <= now for one in choice.drop)
        assert all(one.deadline > now for one in choice.run)
        assert choice.run or len(choice.drop) == len(before)
        _check_batch(choice, before)
        left += [*choose(queue, now=now).run, *choice.drop]
    assert len(left) == len(submitted)
    assert set(left) == set(submitted)


@given(
    crowd=st.lists(arrivals.filter(bool), min_size=1, max_size=5),
    watched=st.tuples(
        st.sampled_from([1, 45, 50, 150]),
        st.sampled_from([0, 2000]),
        st.sampled_from([0, 20_000]),
        st.sampled_from(MODELS),
        st.integers(-1, 1),
        st.just("dee"),
        st.booleans(),
        st.just(math.inf),
    ),
)
@settings(max_examples=150, deadline=None)
def test_no_job_starves_however_much_keeps_arriving(crowd: list, watched: tuple) -> None:  # type: ignore[type-arg]
    """Six classes, a flood in each forever: the first job of one runs within max_overtakes + 6 batches.

    A newcomer's tag is the class's present one, so at most the equal tags of the other three tenants and
    what the flood has queued with smaller ones go before it.
    """
    loop = asyncio.new_event_loop()
    owner = ticket(loop)
    loop.close()
    queue = FairQueue()
    for arrival in crowd[0]:
        queue.add(_job(owner, arrival))
    target = _job(owner, watched)
    queue.add(target)
    same = [one for one in queue.jobs if one.rank[:2] == target.rank[:2]]
    bound = (same.index(target) + 1) * (LIMITS.max_overtakes + 6)
    for step in range(bound):
        for arrival in crowd[step % len(crowd)]:
            queue.add(_job(owner, (*arrival[:-1], math.inf)))
        if target in choose(queue).run:
            return
    pytest.fail(f"not served in {bound} batches")


def test_a_job_that_would_end_past_its_deadline_is_dropped_before_it_starts(owner: Ticket) -> None:
    late = job(owner, LIMITS, tokens=10, deadline=9.0, needs=10.0)
    just = job(owner, LIMITS, tokens=10, deadline=10.5, needs=10.0)
    unknown = job(owner, LIMITS, tokens=10, deadline=1.0)
    choice = choose(queue_of(late, just, unknown))
    assert choice.drop == [late]
    assert just in choice.run


def test_what_starting_a_batch_and_the_rest_of_the_request_take_counts_too(owner: Ticket) -> None:
    first = job(owner, LIMITS, tokens=10, deadline=10.0, needs=4.0, start=1.0, later=5.0)
    assert choose(queue_of(first)).drop == [first]
    first = job(owner, LIMITS, tokens=10, deadline=10.1, needs=4.0, start=1.0, later=5.0)
    assert choose(queue_of(first)).run == [first]


def test_a_batch_holds_no_more_than_ends_before_the_first_deadline_in_it(owner: Ticket) -> None:
    queue = queue_of(
        *(job(owner, LIMITS, tokens=10, deadline=deadline, needs=2.0) for deadline in (9, 5, 100, 100))
    )
    first, second, third, _ = queue.jobs
    assert choose(queue).run == [first, second]
    assert choose(queue, now=4.0).run[0] is third


def test_on_a_part_of_the_device_all_takes_longer(owner: Ticket) -> None:
    queue = queue_of(*(job(owner, LIMITS, tokens=10, deadline=9.0, needs=needs) for needs in (3.0, 2.0, 2.0)))
    choice = next_batch(queue.jobs, 0.0, LIMITS, slowed=4)
    assert [one.needs for one in choice.drop] == [3.0]
    assert len(choice.run) == 1


def test_work_ahead_is_what_is_served_before(owner: Ticket) -> None:
    def made(**fields: object) -> Job:
        return job(owner, LIMITS, tokens=10, seconds=1.0, **fields)

    queue = queue_of(
        *(made() for _ in range(6)), made(priority=1), job(owner, LIMITS, tokens=LONG, seconds=9.0)
    )
    assert queue.seconds == 16
    assert queue.ahead(made()) == 7
    assert queue.ahead(made(priority=1)) == 1
    assert queue.ahead(made(priority=2)) == 0
    assert queue.ahead(job(owner, LIMITS, tokens=LONG)) == 16
    assert queue.ahead(made(tenant="new")) == 1  # the turn of each goes round
    for _ in range(2):
        queue.add(made(tenant="new"))
    assert queue.ahead(made(tenant="new")) == pytest.approx(5)
    assert queue.ahead(made(tenant="newest")) == 1
    queue.drop(list(queue.jobs))
    assert queue.seconds == queue.ahead(made()) == 0
