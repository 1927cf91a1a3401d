"""One batch on the device, with failures kept to the sequences at fault.

A run that raises is split in half and tried again, until it works or one sequence is left alone with its
failure, or one job of linked sequences. So of n sequences with one bad among them the others cost about
2·log2(n) further runs.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from models.edit import moved
from models.errors import DeviceFailed, ModelError, OutOfMemory
from models.protocol import Answer, BatchResult, Failure, Item
from service.batching.job import Job, One, Outcome, Timing, traced
from service.errors import HeedError, Invalid, NotFinite, Unavailable

log = logging.getLogger(__name__)

Measured = tuple[BatchResult, float]  # and the seconds that it took on the device


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of some jobs of a batch, in order; None where the request was over before its turn.

    `timing` is None where nothing ran to an end. `slots`: how much of the device it had.
    """

    jobs: Sequence[Job]
    outcomes: Sequence[Outcome | None]
    timing: Timing | None = None
    computed_tokens: int = 0
    slots: int = 1


def execute(
    compute: Callable[[Sequence[Item]], Measured],
    jobs: Sequence[Job],
    *,
    packed: float,
    clock: Callable[[], float],
    slots: int = 1,
) -> Iterator[BatchOutcome]:
    """Run a batch taken from the queue at clock second `packed`; yield parts as they are done, each job once.

    `compute` runs sequences on the device. Raises DeviceFailed, and whatever is not an Exception; the jobs
    not yet yielded are then unanswered.
    """
    parts = [jobs]
    while parts:
        part = [job for job in parts[-1] if not job.ticket.over]
        if len(part) < len(parts[-1]):  # cancelled, or failed with a sibling, while the others were retried
            over = [job for job in parts[-1] if job.ticket.over]
            yield BatchOutcome(over, [None] * len(over))
        parts.pop()
        if not part:
            continue
        result = _attempt(compute, part)
        # Out of the except block by now: its traceback would keep the failed run's tensors alive.
        if isinstance(result, tuple):
            found, seconds = result
            outcomes = list(_outcomes(part, found.answers))
            yield BatchOutcome(part, outcomes, Timing(packed, clock(), seconds), found.computed_tokens, slots)
        elif len(part) == 1:
            yield BatchOutcome(part, [result])
        else:
            half = len(part) // 2
            parts += [part[half:], part[:half]]


def _attempt(compute: Callable[[Sequence[Item]], Measured], jobs: Sequence[Job]) -> Measured | HeedError:
    """Run once; a failure comes back as what it means for a sequence that is alone in the batch."""
    try:
        items = batch_of(jobs)
        result = compute(items)
        answers = result[0].answers
        if len(answers) != len(items):
            raise RuntimeError(f"the runtime gave {len(answers)} answers to {len(items)} items")
    except DeviceFailed:
        raise
    except (OutOfMemory, MemoryError):
        log.warning("out of memory in a batch of %d", len(jobs), extra=traced(jobs))
        return Unavailable(
            f"the device has no memory for this sequence ({jobs[0].cost.tokens} tokens, "
            f"{jobs[0].cost.result_bytes} bytes of result); send a shorter one or ask for less",
            code="out_of_memory",
        )
    except ModelError as error:
        return Invalid(str(error))
    except Exception:
        log.exception("a batch of %d failed", len(jobs), extra=traced(jobs))
        return HeedError("the server failed on this input; its log says why")
    return result


def batch_of(jobs: Sequence[Job]) -> list[Item]:
    """Return the sequences of jobs, one job's after another's; edits' sources are places among them."""
    items: list[Item] = []
    for job in jobs:
        first = len(items)
        if job.linked:
            items += (replace(one, edits=moved(one.edits, first.__add__)) for one in job.items)
        else:
            items.append(job.item)
    return items


def _outcomes(jobs: Sequence[Job], answers: Sequence[Answer | Failure]) -> Iterator[Outcome]:
    """Give what became of each job."""
    left = iter(answers)
    for job in jobs:
        first = _outcome(next(left))
        yield (first, *(_outcome(next(left)) for _ in job.linked)) if job.linked else first


def _outcome(answer: Answer | Failure) -> One:
    if isinstance(answer, Answer):
        return answer
    if answer.code == "not_finite":
        return NotFinite(answer.message)
    if answer.code == "out_of_memory":
        return Unavailable(answer.message, code="out_of_memory")
    return Invalid(answer.message)
