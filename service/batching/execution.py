"""One batch on the device, with failures kept to the sequences at fault.

A run that raises is split in half and tried again, until it works or one sequence is left alone with its
failure. So of n sequences with one bad among them the others cost about 2·log2(n) further runs.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from models.errors import DeviceFailed, ModelError, OutOfMemory
from models.protocol import Answer, BatchResult, Failure, Runtime
from service.batching.job import Job, Outcome, Timing
from service.errors import HeedError, Invalid, NotFinite, Unavailable

__all__ = ["Interludes", "Run", "execute"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of some jobs of a batch, in order; None where the request was over before its turn.

    `timing` is None where nothing ran to an end. `slots`: how much of the device it had.
    """

    jobs: Sequence[Job]
    outcomes: Sequence[Outcome | None]
    timing: Timing | None = None
    computed_tokens: int = 0
    slots: int = 1


@dataclass(slots=True)
class Interludes:
    """What may run in the pauses of a long batch: from when on, and how many seconds it has taken so far.

    `paused` is told which batch pauses, and must not be a function that knows this object: the two would keep
    each other, and the batch's answers with them, until the cycle collector comes round.
    """

    running: Sequence[Job]
    paused: Callable[["Interludes"], int | None]
    seconds: float = 0.0
    not_before: float = -math.inf

    def pause(self) -> int | None:
        """Let others go; return on how many slots the batch goes on."""
        return self.paused(self)


def execute(
    runtime: Runtime,
    jobs: Sequence[Job],
    *,
    packed: float,
    clock: Callable[[], float],
    slots: int = 1,
    interludes: Interludes | None = None,
) -> Iterator[Run]:
    """Run a batch taken from the queue at clock second `packed`; yield parts as they are done, each job once.

    Raises DeviceFailed, and whatever is not an Exception; the jobs not yet yielded are then unanswered.
    """
    parts = [jobs]
    while parts:
        part = [job for job in parts[-1] if not job.ticket.over]
        if len(part) < len(parts[-1]):  # cancelled, or failed with a sibling, while the others were retried
            over = [job for job in parts[-1] if job.ticket.over]
            yield Run(over, [None] * len(over))
        parts.pop()
        if not part:
            continue
        started = clock() - (interludes.seconds if interludes else 0.0)
        result = _attempt(runtime, part, slots, interludes)
        # Out of the except block by now: its traceback would keep the failed run's tensors alive.
        if isinstance(result, BatchResult):
            finished = clock()
            own_seconds = finished - started - (interludes.seconds if interludes else 0.0)
            timing = Timing(packed, finished, own_seconds)
            yield Run(part, [_outcome(one) for one in result.answers], timing, result.computed_tokens, slots)
        elif len(part) == 1:
            yield Run(part, [result])
        else:
            half = len(part) // 2
            parts += [part[half:], part[:half]]


def _attempt(
    runtime: Runtime, jobs: Sequence[Job], slots: int, interludes: Interludes | None
) -> BatchResult | HeedError:
    """Run once; a failure comes back as what it means for a sequence that is alone in the batch."""
    try:
        items = [job.item for job in jobs]
        result = runtime.run(items, slots=slots, pause=interludes.pause if interludes else None)
        if len(result.answers) != len(jobs):
            raise RuntimeError(f"the runtime gave {len(result.answers)} answers to {len(jobs)} items")
    except DeviceFailed:
        raise
    except (OutOfMemory, MemoryError):
        log.warning("out of memory in a batch of %d", len(jobs))
        return Unavailable(
            f"the device has no memory for this sequence ({jobs[0].cost.tokens} tokens, "
            f"{jobs[0].cost.result_bytes} bytes of result); send a shorter one or ask for less",
            code="out_of_memory",
        )
    except ModelError as error:
        return Invalid(str(error))
    except Exception:
        log.exception("a batch of %d failed", len(jobs))
        return HeedError("the server failed on this input; its log says why")
    return result


def _outcome(answer: Answer | Failure) -> Outcome:
    if isinstance(answer, Answer):
        return answer
    if answer.code == "not_finite":
        return NotFinite(answer.message)
    if answer.code == "out_of_memory":
        return Unavailable(answer.message, code="out_of_memory")
    return Invalid(answer.message)
