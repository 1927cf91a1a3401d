"""What runs next: a pure function from the queue to one batch.

A batch holds items of one model within three budgets. Who leads it:

1. Priority classes (a priority, short or long) are served in rank: higher priority first, and short before
   long, for a long sequence delays a short one by many times what the short one delays it.
2. A class never starves: when `max_overtakes` batches have gone before its first job, that job leads, the
   one passed most often first. With m classes the first job of any runs within max_overtakes + m batches.
3. Within a class the first job leads (`fairness` has the order), whatever it needs. So a head that does not
   fit beside others is never passed over for that, and each batch brings every job of its class nearer.

Who comes along: jobs in serving order of the same model and size class that still fit; one that does not fit
is stepped over and keeps its place. Long jobs share a batch only while no short one waits, since whoever
waits, waits for the whole batch. Deterministic jobs always run alone.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from service.batching.job import Job
from service.batching.limits import Limits

__all__ = ["Choice", "next_batch"]

LOOK_AHEAD = 256  # jobs that may be stepped over before a batch is called full: bounds the cost of one choice
RANK = attrgetter("rank")


@dataclass(frozen=True, slots=True)
class Choice:
    """Jobs to run together, to drop (late, or their request is over), and firsts of classes passed over."""

    run: Sequence[Job] = ()
    drop: Sequence[Job] = ()
    overtaken: Sequence[Job] = ()


def next_batch(
    queue: Sequence[Job],
    now: float,
    limits: Limits,
    *,
    fill: int | None = None,
    between: Sequence[Job] | None = None,
    slowed: float = 1.0,
) -> Choice:
    """Choose from jobs in serving order (`FairQueue.jobs`), at clock second `now`; changes nothing.

    `fill`: tokens at which a batch gains nothing from more, where the device says so.
    `between`: the batch is to run between two steps of these long jobs. It then holds short jobs only, none
    of lower priority than theirs, and nobody counts as overtaken: long ones that wait, wait as before.
    `slowed`: how many times longer a batch takes here than on the whole device. A job that would then end
    past its deadline is dropped before it starts, and a batch holds no more than ends before its first one.

    A job is late if it, with what its request needs after it, would end past its deadline if it started now.
    Time is linear in the queue with a small constant for the dropped, and in the batch for the rest.
    """
    drop = [
        job
        for job in queue
        if job.deadline <= now + slowed * (job.start + job.needs) + job.later or job.ticket.over
    ]
    waiting = queue
    if drop:
        dropped = set(drop)
        waiting = [job for job in queue if job not in dropped]
    if between is not None:
        least = max(job.priority for job in between)
        waiting = [job for job in waiting if job.priority >= least and not job.long]
    if not waiting:
        return Choice(drop=drop)
    heads = _class_heads(waiting)
    leader = _leader(heads, limits)
    run = [leader]
    if not leader.alone and not (leader.long and not all(head.long for head in heads)):
        run += _company(leader, waiting, limits, fill, now, slowed)
    served = set(run)
    overtaken = [head for head in heads if head not in served] if between is None else []
    return Choice(run, drop, overtaken)


def _class_heads(waiting: Sequence[Job]) -> list[Job]:
    """Return the first job of each priority class, in rank."""
    heads = []
    at = 0
    while at < len(waiting):
        head = waiting[at]
        heads.append(head)
        end = (head.rank[0], head.rank[1], math.inf)
        at = bisect_right(waiting, end, lo=at, key=RANK)
    return heads


def _leader(heads: Sequence[Job], limits: Limits) -> Job:
    patient = [head for head in heads if head.overtaken >= limits.max_overtakes]
    return max(patient, key=attrgetter("overtaken"), default=heads[0])


def _company(
    leader: Job, waiting: Sequence[Job], limits: Limits, fill: int | None, now: float, slowed: float
) -> list[Job]:
    """Return the jobs that fit beside the leader, first come first."""
    seconds = slowed * (leader.start + leader.needs)  # of the batch so far
    until = leader.deadline  # the first in it
    most = limits.max_batch_tokens if fill is None else min(fill, limits.max_batch_tokens)
    tokens = most - leader.cost.tokens
    scores = limits.max_batch_scores - leader.cost.scores
    result_bytes = limits.max_batch_result_bytes - leader.cost.result_bytes
    company: list[Job] = []
    misfits = 0
    for job in waiting:
        if tokens <= 0 or misfits > LOOK_AHEAD:
            break
        if job.model is not leader.model or job.long is not leader.long or job.alone or job is leader:
            continue
        cost = job.cost
        needs = seconds + slowed * job.needs
        ends = min(until, job.deadline)
        if (
            cost.tokens > tokens
            or cost.scores > scores
            or cost.result_bytes > result_bytes
            or now + needs > ends
        ):
            misfits += 1
            continue
        seconds, until = needs, ends
        tokens -= cost.tokens
        scores -= cost.scores
        result_bytes -= cost.result_bytes
        company.append(job)
    return company
