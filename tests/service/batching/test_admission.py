"""Who is let in, and what the others are told."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from models.outputs import Selection
from models.pooling_spec import PredictionCard
from service.batching.admission import Admission, check_size
from service.batching.cost import Cost
from service.batching.draft import draft
from service.batching.limits import Limits
from service.errors import Overloaded, TooLarge
from tests.fakes import fake_card
from tests.queueing import sequence

LIMITS = Limits(
    max_queued_requests=3,
    max_queued_tokens=100,
    max_queued_scores=1000,
    max_queued_result_bytes=10_000,
    max_result_bytes=5_000,
    max_sequence_tokens=50,
)


@pytest.fixture
def admission() -> Admission:
    return Admission(LIMITS)


def in_seven_seconds() -> float:
    """In how many seconds to try again."""
    return 7.0


def held(admission: Admission) -> tuple[int, int, int, int]:
    return admission.requests, admission.tokens, admission.scores, admission.result_bytes


def test_what_is_released_is_what_was_taken(admission: Admission) -> None:
    one, other = Cost(10, 100, 1000), Cost(7, 70, 700)
    admission.acquire(one, in_seven_seconds)
    admission.acquire(other, in_seven_seconds)
    assert held(admission) == (2, 17, 170, 1700)
    admission.release(one)
    assert held(admission) == (1, 7, 70, 700)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (Cost(60, 0, 0), Cost(41, 0, 0), "60 tokens, 41 more would pass the limit of 100"),
        (Cost(1, 600, 0), Cost(1, 401, 0), "600 score elements, 401 more would pass the limit of 1000"),
        (Cost(1, 0, 6000), Cost(1, 0, 4001), "6000 result bytes, 4001 more would pass the limit of 10000"),
    ],
)
def test_each_resource_fills_up_to_its_limit_exactly(
    admission: Admission, first: Cost, second: Cost, names: str
) -> None:
    admission.acquire(first, in_seven_seconds)
    before = held(admission)
    with pytest.raises(Overloaded, match=names):
        admission.acquire(second, in_seven_seconds)
    assert held(admission) == before
    admission.acquire(
        Cost(*(max(0, part - 1) for part in (second.tokens, second.scores, second.result_bytes))),
        in_seven_seconds,
    )


def test_requests_are_counted_too(admission: Admission) -> None:
    for _ in range(3):
        admission.acquire(Cost(1, 1, 1), in_seven_seconds)
    with pytest.raises(
        Overloaded, match="3 requests, 1 more would pass the limit of 3; try again in 7 s"
    ) as full:
        admission.acquire(Cost(1, 1, 1), in_seven_seconds)
    assert full.value.retry_after_seconds == 7


def test_a_sequence_over_the_servers_limit_is_refused_with_both_numbers() -> None:
    items = [sequence(50), sequence(51)]
    with pytest.raises(TooLarge, match=r"inputs\[1\] has 51 tokens, the server's limit is 50") as refusal:
        check_size(items, Cost.of(items[0]), LIMITS)
    assert refusal.value.code == "sequence_too_long"


def test_a_memory_over_the_limit_counts_as_a_sequence() -> None:
    item = sequence(1, memory=51)
    with pytest.raises(TooLarge, match="51 tokens"):
        check_size([item], Cost(1, 1, 1), LIMITS)


def test_a_sequence_over_the_models_positions_is_refused() -> None:
    item = sequence(17, card=fake_card(max_tokens=16))
    with pytest.raises(TooLarge, match="17 tokens, fake has 16 positions") as refusal:
        check_size([item], Cost.of(item), LIMITS)
    assert refusal.value.code == "sequence_too_long"


def test_the_whole_requests_result_is_held_against_the_limit() -> None:
    items = [sequence(20, outputs=("weights",))] * 2  # 2 heads · 20 · 20 · 4 bytes each
    one, both = Cost.of(items[0]), Cost.total([Cost.of(item) for item in items])
    check_size(items[:1], one, LIMITS)
    with pytest.raises(TooLarge, match="the result would be 6400 bytes, the limit is 5000") as refusal:
        check_size(items, both, LIMITS)
    assert refusal.value.code == "result_too_large"


@pytest.mark.parametrize(
    ("cost", "names"),
    [
        (Cost(101, 0, 0), "3 inputs have 101 tokens together, the limit is 100"),
        (Cost(1, 1001, 0), "3 inputs have 1001 score elements together, the limit is 1000"),
    ],
)
def test_a_request_that_could_in_seven_seconds_be_admitted_is_too_large_and_not_overloaded(
    cost: Cost, names: str
) -> None:
    with pytest.raises(TooLarge, match=names):
        check_size([sequence(1)] * 3, cost, LIMITS)


def test_cost_counts_all_heads_of_one_layer_and_the_bytes_of_what_is_asked() -> None:
    item = sequence(5, outputs=("z", "weights"))
    asked = Selection(outputs=("z", "weights"), layers=(0, 1), layer_axis=True, heads=(1,), rows=(0, 1))
    assert Cost.of(item) == Cost(5, 2 * 5 * 5, 4 * (5 * 4 + 2 * 5 * 5))
    assert Cost.of(replace(item, selection=asked)) == Cost(5, 2 * 5 * 5, 4 * 2 * (2 * 4 + 2 * 5))


def test_predicting_words_is_counted_in_tokens_by_rows_and_layers() -> None:
    card = fake_card(predictions=PredictionCard(words=9, of="next", table="embedding", tokens=0.4))
    item = replace(sequence(5), card=card)
    asked = Selection(outputs=("next_logprobs",), layers=(0, 1), layer_axis=True, top_k=3)
    assert Cost.of(replace(item, selection=asked)) == Cost(5 + 4, 2 * 5 * 5, 4 * 2 * 5 * 3)
    assert Cost.of(replace(item, selection=replace(asked, rows=(4,)))).tokens == 5 + 1
    assert Cost.of(item).tokens == 5
    many = replace(item, selection=replace(asked, outputs=("logprobs",)))
    with pytest.raises(TooLarge, match=r"9 tokens, with what predicting words is worth, .*choose rows"):
        check_size([many], Cost.of(many), replace(LIMITS, max_queued_tokens=8))


def test_cost_of_cross_attention_counts_both_sequences() -> None:
    assert Cost.of(sequence(3, memory=7)) == Cost(10, 2 * 3 * 7, 4 * 3 * 4)


def test_share_is_that_of_the_budget_most_used() -> None:
    limits = Limits(max_batch_tokens=100, max_batch_scores=1000, max_batch_result_bytes=10_000)
    shares = [cost.share(limits) for cost in (Cost(50, 100, 1000), Cost(1, 700, 0), Cost(1, 0, 20_000))]
    assert shares == [0.5, 0.7, 2.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(max_batch_tokens=0),
        lambda: Limits(max_wait_seconds=-1),
        lambda: Limits(max_result_bytes=2, max_queued_result_bytes=1),
    ],
)
def test_limits_that_could_admit_nothing_are_refused(make: Callable[[], Limits]) -> None:
    with pytest.raises(ValueError, match="is "):
        make()


def test_each_sequence_of_a_request_costs_what_it_costs_alone() -> None:
    few, many = Selection(outputs=("z",), layers=(0,)), Selection(outputs=("z", "weights"), layers=(0,))
    card = fake_card()
    items = [
        replace(sequence(tokens, card=card), selection=chosen)
        for tokens in (3, 7, 3)
        for chosen in (few, many)
    ]
    jobs = draft(items, LIMITS).jobs
    assert [job.cost for job in jobs] == [Cost.of(item) for item in items]
    assert jobs[0].cost is jobs[4].cost
