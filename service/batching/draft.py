"""From the sequences of a request to its jobs: what each costs, and whether it could ever be admitted.

Between decoding and admission; of thousands of sequences it takes a while, and may be done on any thread.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from models.protocol import Item, Tokens
from service.batching.admission import check_size
from service.batching.estimates import kind_of
from service.batching.job import Cost, Job
from service.batching.limits import Limits


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that is not admitted yet: a job a sequence, and what all of them take together."""

    jobs: Sequence[Job]
    cost: Cost
    deadline: float | None


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
    TooLarge (result_too_large, sequence_too_long).
    """
    assert items
    costs = _costs(items)
    total = Cost.total(costs)
    check_size(items, total, limits)
    jobs = jobs_of(items, costs, limits, deadline=deadline, priority=priority, tenant=tenant)
    return Draft(jobs, total, deadline)


def _costs(items: Sequence[Item]) -> list[Cost]:
    """Return what each sequence costs; those of one length of which the same is asked cost the same."""
    if len(items) == 1:
        return [Cost.of(items[0])]
    known: dict[Hashable, Cost] = {}
    costs = []
    for item in items:
        given = item.input
        alike = isinstance(given, Tokens) and given.memory is None
        key = (given.queries, id(item.selection), id(item.card)) if alike else id(item)
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
    """Return a job a sequence."""
    ends = math.inf if deadline is None else deadline
    jobs = []
    for index, (item, cost) in enumerate(zip(items, costs, strict=True)):
        card, share = item.card, cost.share(limits)
        job = Job(
            item=item,
            index=index,
            cost=cost,
            deadline=ends,
            priority=priority,
            tenant=tenant,
            model=card if card is None or card.handle is None else card.handle,
            share=share,
            long=share >= limits.long_share,
            alone=item.deterministic,
            kind=kind_of(item, cost),
        )
        jobs.append(job)
    return jobs
