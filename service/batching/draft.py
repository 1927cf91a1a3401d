"""From the sequences of a request to its jobs: what each costs, and whether it could ever be admitted.

Sequences that edits link are one job. Between decoding and admission; of thousands of sequences it takes a
while, and may be done on any thread.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from models.edit import linked, moved
from models.errors import SpecError
from models.protocol import Item, Tokens
from service.batching.admission import check_size
from service.batching.cost import Cost
from service.batching.estimates import kind_of
from service.batching.job import Job
from service.batching.limits import Limits
from service.errors import Invalid


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that is not admitted yet: its jobs, and what all of them take together.

    `sequences`: all of its items, in order, and what each costs. `trace`: the span that it is part of, as a
    traceparent, where that is recorded.
    """

    jobs: Sequence[Job]
    cost: Cost
    deadline: float | None
    sequences: Sequence[tuple[Item, Cost]]
    trace: str = ""


def draft(
    items: Sequence[Item],
    limits: Limits,
    *,
    deadline: float | None = None,
    priority: int = 0,
    tenant: str = "",
) -> Draft:
    """Return a request of one or more sequences, to be admitted.

    `deadline` in clock seconds. Larger `priority` goes first. Requests of one `tenant` share its turn. Raises
    TooLarge (result_too_large, sequence_too_long), and Invalid where `from` takes what is not there.
    """
    assert items
    costs = _costs(items)
    total = Cost.total(costs)
    check_size(items, total, limits)
    jobs = jobs_of(items, costs, limits, deadline=deadline, priority=priority, tenant=tenant)
    return Draft(jobs, total, deadline, list(zip(items, costs, strict=True)))


def _costs(items: Sequence[Item]) -> list[Cost]:
    """Return what each sequence costs; those of one length of which the same is asked cost the same."""
    if len(items) == 1:
        return [Cost.of(items[0])]
    known: dict[Hashable, Cost] = {}
    costs = []
    for item in items:
        given = item.input
        alike = isinstance(given, Tokens) and given.memory is None
        key = (given.queries, id(item.selection), id(item.card)) if alike and not item.edits else id(item)
        cost = known.get(key)
        if cost is None:
            cost = known[key] = Cost.of(item)
        costs.append(cost)
    return costs


def jobs_of(
    items: Sequence[Item],
    costs: Sequence[Cost],
    limits: Limits,
    *,
    deadline: float | None,
    priority: int,
    tenant: str,
) -> list[Job]:
    """Return a job a sequence, or a job of all that edits link; raise Invalid."""
    ends = math.inf if deadline is None else deadline
    jobs = []
    for places in _together(items):
        index, others = places[0], list[tuple[int, Item]]()
        item, cost = items[index], costs[index]
        if len(places) > 1:
            inside = [replace(items[at], edits=moved(items[at].edits, places.index)) for at in places]
            (_, item), *others = zip(places, inside, strict=True)
            cost = Cost.total([costs[at] for at in places])
        card, share = item.card, cost.share(limits)
        job = Job(
            item=item,
            index=index,
            linked=others,
            cost=cost,
            deadline=ends,
            priority=priority,
            tenant=tenant,
            model=card if card is None or card.handle is None else card.handle,
            share=share,
            long=share >= limits.long_share,
            alone=any(items[at].deterministic for at in places),
            kind=kind_of(item, cost),
        )
        jobs.append(job)
    return jobs


def _together(items: Sequence[Item]) -> Iterable[tuple[int, ...]]:
    """Give the places of the sequences of each job."""
    if not any(edit.source is not None for item in items for edit in item.edits):
        return ((place,) for place in range(len(items)))
    try:
        return linked([item.edits for item in items], [item.input.queries for item in items])
    except SpecError as error:
        raise Invalid(str(error)) from error
