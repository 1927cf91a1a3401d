"""Sequences that edits link are one job: one batch, sources by their places in it; they fail together."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from models.edit import Edit
from models.errors import OutOfMemory
from models.protocol import Item
from service.batching.draft import draft
from service.batching.job import Completed
from service.batching.limits import Limits
from service.errors import HeedError, Invalid, NotFinite, TooLarge
from tests.queueing import Bench, sequence, submit

Make = Callable[..., Bench]

LIMITS = Limits()
POISON = 1e31


def takes(item: Item, *sources: int) -> Item:
    edits = tuple(Edit(verb="from", at=((1, 1),), source=source) for source in sources)
    return replace(item, edits=(*edits, Edit(verb="scale", at=((1, 0),), value=0.0)))


def sources_of(batch: Sequence[Item]) -> list[list[int]]:
    return [[edit.source for edit in item.edits if edit.source is not None] for item in batch]


def first_numbers(done: Completed) -> list[float]:
    return [float(answer.tensors["z"].flat[0]) for answer in done.answers]


def run(one: Bench, *requests: Sequence[Item]) -> list[Completed | HeedError]:
    """Submit requests while the device is busy, and await what becomes of them."""

    async def main() -> list[Any]:
        held = await one.hold()
        tickets = [submit(one.engine, list(items)) for items in requests]
        one.release()
        await held.result()
        held.cancel()
        found = await asyncio.gather(*(ticket.result() for ticket in tickets), return_exceptions=True)
        for ticket in tickets:
            ticket.cancel()
        return found

    return asyncio.run(main())


def test_sources_are_places_in_the_batch_whatever_is_before_them(bench: Make) -> None:
    one = bench()
    linked = [takes(sequence(value=1), 2), sequence(value=2), sequence(value=3)]
    again = [sequence(value=4), takes(sequence(value=5), 0), takes(sequence(value=6), 1, 0)]
    first, second = run(one, linked, again)
    assert isinstance(first, Completed)
    assert isinstance(second, Completed)
    assert first_numbers(first) == [2, 4, 6]
    assert first_numbers(second) == [8, 10, 12]
    assert one.runtime.sizes == [1, 6]
    batch = one.runtime.batches[1]
    at = [float(item.input.embeddings.flat[0]) for item in batch]
    named = {at[place]: [at[source] for source in own] for place, own in enumerate(sources_of(batch))}
    assert named == {1: [3], 2: [], 3: [], 4: [], 5: [4], 6: [5, 4]}


def test_a_batch_is_never_halved_between_them(bench: Make) -> None:
    def before_run(batch: Sequence[Item]) -> None:
        if len(batch) > 3:
            raise OutOfMemory("no")

    one = bench(before_run)
    linked = [sequence(value=1), *(takes(sequence(value=n), 0) for n in (2, 3))]
    found = run(one, linked, [sequence(value=4)], linked)
    assert [first_numbers(done) for done in found if isinstance(done, Completed)] == [
        [2, 4, 6],
        [8],
        [2, 4, 6],
    ]
    whole = [batch for batch in one.runtime.batches if len(batch) <= 3 and any(sources_of(batch))]
    assert [sources_of(batch) for batch in whole] == [[[], [0], [0]]] * 2


def test_one_that_fails_fails_its_request_by_its_own_place_and_no_other(bench: Make) -> None:
    one = bench()
    bad = [sequence(value=1), takes(sequence(value=POISON), 0)]
    failed, fine = run(one, bad, [sequence(value=2)])
    assert isinstance(failed, NotFinite)
    assert failed.message.startswith("inputs[1]: ")
    assert isinstance(fine, Completed)
    assert one.engine.queued_requests == 0
    assert sum(report.sequences for report in one.reports) == 4


def test_they_count_together_and_go_in_one_batch_or_none() -> None:
    items = [sequence(4), sequence(2), takes(sequence(4), 0), sequence(1)]
    made = draft(items, LIMITS)
    assert [tuple(job.indexes) for job in made.jobs] == [(0, 2), (1,), (3,)]
    assert [job.cost.tokens for job in made.jobs] == [8, 2, 1]
    assert made.cost.tokens == 11
    assert [item for item, _ in made.sequences] == items
    assert [cost.tokens for _, cost in made.sequences] == [4, 2, 4, 1]


def test_a_source_that_is_not_there_is_refused_before_anything_runs() -> None:
    with pytest.raises(Invalid, match="another of the 2 inputs"):
        draft([takes(sequence(), 2), sequence()], LIMITS)
    with pytest.raises(Invalid, match="from each other"):
        draft([takes(sequence(), 1), takes(sequence(), 0)], LIMITS)


def test_too_many_of_them_are_too_many_tokens() -> None:
    few = replace(LIMITS, max_queued_tokens=10)
    with pytest.raises(TooLarge, match="11 tokens together"):
        draft([sequence(4), takes(sequence(7), 0)], few)


def test_what_edits_are_looked_up_in_counts_as_scores() -> None:
    item = sequence(10)
    at = ((0, 0), (0, 1), (1, 0))
    edits = (
        Edit(verb="block", at=at, queries=((0, 4),), keys=((0, 1), (3, 4), (6, 10))),
        Edit(verb="scale", at=at[:1], value=0.0),
    )
    (plain,), (edited,) = draft([item], LIMITS).jobs, draft([replace(item, edits=edits)], LIMITS).jobs
    assert plain.cost.scores == 2 * 10 * 10
    assert edited.cost.scores == plain.cost.scores + 2 * 4 * 3 + 1 * 10 * 1
    assert replace(edited.cost, scores=plain.cost.scores) == plain.cost
