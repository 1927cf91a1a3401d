"""A slot of the device: one thread that takes batches from the backlog and runs them, one after another.

A GPU has two slots, so that one batch is packed and copied while another is computed. A processor has as many
as it has cores to share out: two batches side by side, a core each, take less time than one after the other
on both, for no core ever waits for another inside a product. A sequence that is alone there is given all.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from models.protocol import Item, Runtime
from service.batching.backlog import Backlog
from service.batching.execution import Measured, Run, execute
from service.batching.job import Job
from service.batching.limits import Limits
from service.interpreter import step_back

__all__ = ["DeviceSlot"]

# An event loop that sleeps takes so long to wake, and then needs the interpreter's lock: a slot with nothing
# else to do leaves it alone for as long.
WAKING_SECONDS = 50e-6


class DeviceSlot:
    """One thread. `done` is told of every part of a batch that has run, `late` of jobs that will not run.

    `report` is told of each part again, once its callers are on their way. `failed` is called on this thread,
    which then ends, with whatever the runtime raised that is no sequence's fault.
    """

    def __init__(
        self,
        number: int,
        *,
        runtime: Runtime,
        backlog: Backlog,
        limits: Limits,
        done: Callable[[Run], object],
        report: Callable[[Run], None],
        late: Callable[[Sequence[Job]], None],
        failed: Callable[[BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        self._runtime = runtime
        self._backlog = backlog
        self._limits = limits
        self._done = done
        self._report = report
        self._late = late
        self._failed = failed
        self._clock = clock
        self._slots = 0  # that its present batch has
        self.run_started: float | None = None
        self.thread = threading.Thread(target=self._live, name=f"heed-device-{number}", daemon=False)

    def _live(self) -> None:
        if self._runtime.shares_cores:
            step_back()
        try:
            while self._step():
                pass
        except BaseException as error:  # noqa: BLE001 - a thread that ends unnoticed leaves health green
            self._failed(error)

    def _step(self) -> bool:
        """Choose a batch and run it; False when the engine has stopped.

        A call of its own, so that an idle thread holds on to no batch.
        """
        taken = self._backlog.take(self._clock)
        if taken is None:
            return False
        choice, self._slots = taken
        self._late(choice.drop)
        done: list[Run] = []
        try:
            if choice.run:
                long = any(job.long for job in choice.run)
                compute = partial(self._in_steps, choice.run) if long else self._at_once
                done = self._run(choice.run, compute)
        finally:
            self.run_started = None
            self._backlog.give_back(self._slots)
        if not self._backlog.waiting:
            time.sleep(WAKING_SECONDS)
        for run in done:
            self._report(run)
        return True

    def _run(self, jobs: Sequence[Job], compute: Callable[[Sequence[Item]], Measured]) -> list[Run]:
        self.run_started = packed = self._clock()
        done = []
        for run in execute(compute, jobs, slots=self._slots, packed=packed, clock=self._clock):
            self._done(run)
            done.append(run)
            self.run_started = self._clock()
        return done

    def _at_once(self, items: Sequence[Item]) -> Measured:
        started = self._clock()
        return self._runtime.run(items, slots=self._slots), self._clock() - started

    def _in_steps(self, long: Sequence[Job], items: Sequence[Item]) -> Measured:
        """Run a long batch, letting others go beside it, or between two steps of it."""
        seconds, not_before = 0.0, -math.inf
        grow = not any(job.alone for job in long)
        slots = None  # to go on with
        with closing(self._runtime.steps(items, slots=self._slots)) as steps:
            while True:
                started = self._clock()
                try:
                    steps.send(slots)
                except StopIteration as end:
                    return end.value, seconds + self._clock() - started
                now = self._clock()
                seconds += now - started
                self._slots = slots = self._backlog.adjust_slots(self._slots, grow=grow)
                if now >= not_before:
                    not_before = self._interlude(long, now)

    def _interlude(self, long: Sequence[Job], now: float) -> float:
        """Run one batch of short jobs between two steps of a long one; return when the next may run.

        A short request need not wait for a long one to end, only for the step it is at. The long batch
        keeps its part of the device: it is not left again before it has worked 1/`interlude_share` of the
        seconds it gave away.
        """
        choice = self._backlog.take_between(long, now)
        if choice is None:
            return now
        self._late(choice.drop)
        if not choice.run:
            return now
        for run in self._run(choice.run, self._at_once):
            self._report(run)
        self.run_started = ended = self._clock()
        return ended + (ended - now) / self._limits.interlude_share
