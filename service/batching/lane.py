"""A lane of the device: one thread that takes batches from the backlog and runs them, one after another.

A GPU has two lanes, so that one batch is packed and copied while another is computed. A processor has as many
as it has cores to share out: two batches side by side, a core each, take less time than one after the other
on both, for no core ever waits for another inside a product. A sequence that is alone there is given all.
"""

import threading
import time
from collections.abc import Callable, Sequence

from models.protocol import Runtime
from service.batching.backlog import Backlog
from service.batching.execution import Interludes, Run, execute
from service.batching.job import Job
from service.batching.limits import Limits
from service.interpreter import step_back

__all__ = ["Lane"]

# An event loop that sleeps takes so long to wake, and then needs the interpreter's lock: a lane with nothing
# else to do leaves it alone for as long.
WAKING_SECONDS = 50e-6


class Lane:
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
        turn = self._backlog.take(self._clock)
        if turn is None:
            return False
        self._late(turn.drop)
        self._slots = turn.slots
        done: list[Run] = []
        try:
            if turn.run:
                interludes = None
                if any(job.long for job in turn.run):
                    interludes = Interludes(turn.run, self._pause)
                done = self._run(turn.run, interludes)
        finally:
            self.run_started = None
            self._backlog.give_back(self._slots)
        if not self._backlog.waiting:
            time.sleep(WAKING_SECONDS)
        for run in done:
            self._report(run)
        return True

    def _run(self, jobs: Sequence[Job], interludes: Interludes | None = None) -> list[Run]:
        self.run_started = packed = self._clock()
        runs = execute(
            self._runtime, jobs, slots=self._slots, packed=packed, clock=self._clock, interludes=interludes
        )
        done = []
        for run in runs:
            self._done(run)
            done.append(run)
            self.run_started = self._clock()
        return done

    def _pause(self, interludes: Interludes) -> int:
        """Let others go beside a long batch, or before it goes on; return on how many slots it does."""
        running = interludes.running
        now = self._clock()
        self._slots = self._backlog.share(self._slots, grow=not any(job.alone for job in running))
        if now >= interludes.not_before:
            self._interlude(running, interludes, now)
        return self._slots

    def _interlude(self, running: Sequence[Job], interludes: Interludes, now: float) -> None:
        """Run one batch of short jobs in a pause of a long one, on the same thread.

        A short request need not wait for a long one to end, only for the part it is at. The long batch
        keeps its share of the device: it is not interrupted again before it has worked
        1/`interlude_share` of the seconds it gave away.
        """
        choice = self._backlog.take_inside(running, now)
        if choice is None:
            return
        self._late(choice.drop)
        if choice.run:
            for run in self._run(choice.run):
                self._report(run)
            self.run_started = ended = self._clock()
            interludes.seconds += ended - now
            interludes.not_before = ended + (ended - now) / self._limits.interlude_share
