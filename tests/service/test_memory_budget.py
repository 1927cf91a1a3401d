"""One count for all requests: taken before, refused with the reason, given back to the last byte."""

import os
import threading

import pytest

from service.errors import HeedError, TooLarge, Unavailable
from service.memory_budget import (
    COUNTED_BYTES,
    KEPT_BACK_BYTES,
    MIB,
    SMALL_BODY_TIMES,
    SMALL_BYTES,
    Budget,
    Claim,
    Ledger,
    claim_of,
)

LIMIT = 256 * MIB


def refused(claim: Claim, size: int) -> HeedError:
    with pytest.raises(HeedError) as caught:
        claim.take(size)
    return caught.value


def test_all_that_was_taken_is_given_back_by_the_last_who_lets_go() -> None:
    budget = Budget(LIMIT)
    claim = budget.claim()
    claim.join()
    claim.take(100)
    claim.take_reply(50)
    claim.let_go()
    assert budget.held == 150
    claim.let_go()
    assert budget.held == 0


def test_what_would_pass_the_limit_is_refused_with_limit_value_and_remedy() -> None:
    budget = Budget(LIMIT)
    refusals: list[int] = []
    budget.on_refusal = lambda: refusals.append(1)
    budget.claim().take(200 * MIB)
    refusal = refused(budget.claim(), 50 * MIB)
    assert isinstance(refusal, Unavailable)
    assert refusal.code == "out_of_memory"
    assert refusal.retry_after_seconds
    for said in (50 * MIB, 40 * MIB, LIMIT, "MAX_MEMORY_BYTES", "try again"):
        assert str(said) in refusal.message
    assert budget.held == 200 * MIB
    assert refusals == [1]


def test_what_can_never_fit_is_too_large_and_says_how_much_may() -> None:
    claim = Budget(LIMIT).claim()
    claim.take(10 * MIB)
    refusal = refused(claim, 240 * MIB)
    assert isinstance(refusal, TooLarge)
    assert refusal.code == "body_too_large"
    assert str(LIMIT - KEPT_BACK_BYTES) in refusal.message
    with pytest.raises(TooLarge) as caught:
        claim.take_reply(240 * MIB)
    assert caught.value.code == "result_too_large"
    with pytest.raises(TooLarge, match=f"a body of {LIMIT} bytes"):
        claim.take_body(LIMIT)


def test_a_part_is_kept_back_for_small_requests() -> None:
    budget = Budget(LIMIT)
    for _ in range(2):
        budget.claim().take((LIMIT - KEPT_BACK_BYTES) // 2)
    assert refused(budget.claim(), SMALL_BYTES + 1).code == "out_of_memory"
    small = [budget.claim() for _ in range(KEPT_BACK_BYTES // SMALL_BYTES)]
    for claim in small:
        claim.take(SMALL_BYTES)
    assert budget.held == LIMIT
    assert refused(budget.claim(), 1).code == "out_of_memory"


def test_a_small_request_that_grows_is_small_no_more() -> None:
    budget = Budget(LIMIT)
    claim = budget.claim()
    claim.take(SMALL_BYTES)
    budget.claim().take(LIMIT - KEPT_BACK_BYTES - SMALL_BYTES)
    assert refused(claim, 1).code == "out_of_memory"


def test_of_a_small_limit_an_eighth_is_kept_back() -> None:
    budget = Budget(16 * MIB)
    budget.claim().take(14 * MIB)
    budget.claim().take(SMALL_BYTES)
    assert budget.held == 15 * MIB


def test_a_small_body_is_counted_as_what_it_may_become() -> None:
    budget = Budget(LIMIT)
    budget.claim().take_body(100)
    assert budget.held == SMALL_BODY_TIMES * 100
    budget.claim().take_body(COUNTED_BYTES)
    assert budget.held == SMALL_BODY_TIMES * 100 + COUNTED_BYTES


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_claim_becomes_what_is_left_of_it(size: int) -> None:
    budget = Budget(LIMIT)
    claim = budget.claim()
    claim.take(1000)
    claim.become(size)
    assert budget.held == claim.held == size


def test_no_more_is_given_back_than_was_taken() -> None:
    budget = Budget(LIMIT)
    claim = budget.claim()
    claim.take(10)
    claim.give(20)
    assert budget.held == claim.held == 0


def test_a_thread_that_goes_on_after_the_request_is_over_takes_nothing() -> None:
    budget = Budget(LIMIT)
    claim = budget.claim()
    claim.take(10)
    claim.let_go()
    assert refused(claim, 10).code == "out_of_memory"
    assert budget.held == 0


def test_threads_lose_no_count() -> None:
    budget = Budget(LIMIT)

    def work() -> None:
        for _ in range(2000):
            claim = budget.claim()
            claim.take(7)
            claim.give(3)
            claim.let_go()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.held == 0


def test_processes_share_one_limit() -> None:
    descriptor = os.memfd_create("ledger")
    os.ftruncate(descriptor, Ledger.SIZE)
    first = Ledger(descriptor)
    first.limit = LIMIT
    one, other = (
        Budget(ledger.limit, ledger=ledger) for ledger in (Ledger(descriptor, place) for place in (0, 1))
    )
    os.close(descriptor)
    claim = one.claim()
    claim.take(200 * MIB)
    refusal = refused(other.claim(), 50 * MIB)
    assert str(40 * MIB) in refusal.message
    claim.let_go()
    other.claim().take(50 * MIB)
    assert (one.held, other.held) == (0, 50 * MIB)
    assert refused(one.claim(), 200 * MIB).code == "out_of_memory"


def test_a_request_that_no_station_counts_is_not_bounded() -> None:
    claim = claim_of({"type": "http"})
    claim.take(1 << 50)
    assert claim.held == 1 << 50
