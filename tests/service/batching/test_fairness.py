"""The order of the queue: between tenants, and what is remembered."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.fairness import FairQueue
from service.batching.job import Ticket
from service.batching.limits import Limits
from service.batching.scheduler import next_batch
from tests.queueing import job, queue_of, ticket

LIMITS = Limits(max_batch_tokens=100, long_share=0.5)


@pytest.fixture
def owner() -> Iterator[Ticket]:
    loop = asyncio.new_event_loop()
    yield ticket(loop)
    loop.close()


def tenants(queue: FairQueue) -> str:
    return "".join(one.tenant for one in queue.jobs)


def test_one_tenant_is_served_in_order_of_arrival(owner: Ticket) -> None:
    jobs = [job(owner, LIMITS, tokens=size) for size in (30, 10, 20, 1)]
    assert list(queue_of(*jobs).jobs) == jobs


def test_a_tenant_with_one_job_does_not_wait_behind_anothers_hundred(owner: Ticket) -> None:
    queue = queue_of(*(job(owner, LIMITS, tokens=10, tenant="a") for _ in range(100)))
    queue.add(job(owner, LIMITS, tokens=10, tenant="b"))
    assert tenants(queue)[:3] == "aba"


def test_turns_are_counted_in_work_and_not_in_jobs(owner: Ticket) -> None:
    limits = Limits(max_batch_tokens=128)  # shares are then exact
    queue = queue_of(*(job(owner, limits, tokens=4, tenant="a") for _ in range(3)))
    for _ in range(12):
        queue.add(job(owner, limits, tokens=1, tenant="b"))
    assert tenants(queue) == "abbbbabbbbabbbb"


def test_what_a_tenant_was_given_is_remembered_while_others_wait(owner: Ticket) -> None:
    """Long jobs run one at a time: without memory the older tenant would win every time."""
    queue = queue_of(*(job(owner, LIMITS, tokens=60, tenant="a") for _ in range(4)))
    for _ in range(3):
        queue.add(job(owner, LIMITS, tokens=60, tenant="b"))
    served = ""
    while queue:
        batch = next_batch(queue.jobs, 0.0, LIMITS).run
        queue.take(batch)
        served += "".join(one.tenant for one in batch)
    assert served == "abababa"


def test_an_idle_tenant_saves_nothing_up(owner: Ticket) -> None:
    queue = queue_of(*(job(owner, LIMITS, tokens=10, tenant="a") for _ in range(50)))
    queue.take(list(queue.jobs[:40]))
    for _ in range(10):
        queue.add(job(owner, LIMITS, tokens=10, tenant="b"))
    assert tenants(queue) == "ab" * 10


def test_dropped_jobs_are_not_charged(owner: Ticket) -> None:
    kept, *dropped = [job(owner, LIMITS, tokens=10, tenant="a") for _ in range(5)]
    queue = queue_of(job(owner, LIMITS, tokens=10, tenant="b"), kept, *dropped)
    assert queue.drop(dropped) == dropped
    assert queue.drop(dropped) == []
    queue.add(job(owner, LIMITS, tokens=10, tenant="b"))
    queue.add(job(owner, LIMITS, tokens=10, tenant="a"))
    assert tenants(queue) == "baba"


def test_nothing_is_remembered_of_an_empty_queue(owner: Ticket) -> None:
    queue = FairQueue()
    for round_ in range(3):
        for number in range(20):
            queue.add(job(owner, LIMITS, tenant=f"{round_}.{number}", priority=number))
        queue.take(list(queue.jobs))
        assert not queue
        assert not queue._classes


@given(
    sizes=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 49)), min_size=30, max_size=120)
)
@settings(max_examples=60, deadline=None)
def test_tenants_with_work_waiting_get_equal_shares_within_a_batch(sizes: list[tuple[str, int]]) -> None:
    loop = asyncio.new_event_loop()
    owner = ticket(loop)
    loop.close()
    queue = queue_of(*(job(owner, LIMITS, tokens=size, tenant=name) for name, size in sizes))
    given_tokens = Counter({name: 0 for name, _ in sizes})
    while len({one.tenant for one in queue.jobs}) == len(given_tokens):
        spread = max(given_tokens.values()) - min(given_tokens.values())
        assert spread <= LIMITS.max_batch_tokens + 2 * 49
        batch = next_batch(queue.jobs, 0.0, LIMITS).run
        queue.take(batch)
        for one in batch:
            given_tokens[one.tenant] += one.cost.tokens
