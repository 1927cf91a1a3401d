"""What the batching tests build from: sequences of a given size, queued jobs, a clock, a device in hand."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.outputs import Selection
from models.protocol import Item, ModelCard, Tokens
from service.batching.cost import Cost
from service.batching.engine import BatchReport, Engine
from service.batching.fairness import FairQueue
from service.batching.job import Job, Ticket
from service.batching.limits import Limits
from service.batching.work_queue import Reserve
from tests.fakes import FakeRuntime, fake_card

CARD = fake_card(max_tokens=None)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sequence(
    tokens: int = 2,
    *,
    card: ModelCard | None = CARD,
    value: float = 1.0,
    outputs: tuple[str, ...] = ("z",),
    memory: int | None = None,
    deterministic: bool = False,
) -> Item:
    """One sequence of `tokens` embeddings, all numbers equal to `value`."""
    rows = np.full((tokens, 4), value, dtype=np.float32)
    keys = None if memory is None else np.ones((memory, 4), dtype=np.float32)
    return Item(
        card=card,
        input=Tokens(embeddings=rows, memory=keys),
        selection=Selection(outputs=outputs),
        deterministic=deterministic,
    )


def submit(
    engine: Engine, items: Sequence[Item], *, reserve: Reserve = lambda *_: None, **how: Any
) -> Ticket:
    """Draft and admit a request."""
    return engine.admit(engine.draft(items, **how), reserve=reserve)


def ticket(loop: asyncio.AbstractEventLoop, cost: Cost | None = None) -> Ticket:
    """A ticket that no engine knows."""
    return Ticket(cost or Cost(1, 1, 1), loop=loop, submitted=0.0, deadline=None, abandon=lambda *_: None)


def job(
    owner: Ticket,
    limits: Limits,
    *,
    tokens: int = 1,
    scores: int = 0,
    result_bytes: int = 0,
    model: object = None,
    **fields: object,
) -> Job:
    """A job of the given cost, as `Engine.submit` would make it."""
    cost = Cost(tokens, scores, result_bytes)
    share = cost.share(limits)
    return Job(
        item=sequence(1),
        ticket=owner,
        index=0,
        cost=cost,
        arrival=0.0,
        model=model,
        share=share,
        long=share >= limits.long_share,
        **fields,  # type: ignore[arg-type]
    )


def queue_of(*jobs: Job) -> FairQueue:
    """A queue that the jobs have joined in this order."""
    queue = FairQueue()
    for one in jobs:
        queue.add(one)
    return queue


def tokens_of(jobs: Sequence[Job]) -> list[int]:
    """The jobs' sizes, in order."""
    return [one.cost.tokens for one in jobs]


class HeldRuntime(FakeRuntime):
    """A fake that says when a batch has reached the device, where `gate` may hold it."""

    def __init__(self, *cards: ModelCard, **changes: Any) -> None:
        super().__init__(*cards, **changes)
        self.entered = threading.Semaphore(0)

    def begin(self, batch: Sequence[Item], slots: int) -> None:
        self.entered.release()
        super().begin(batch, slots)

    @property
    def sizes(self) -> list[int]:
        """How many sequences each batch held."""
        return [len(batch) for batch in self.batches]


class Bench:
    """One engine with everything it was told, and the device in hand."""

    def __init__(self, limits: Limits, before_run: Callable[[Sequence[Item]], None] | None) -> None:
        self.clock = Clock()
        self.runtime = HeldRuntime(before_run=before_run)
        self._reports: list[BatchReport] = []
        self._fatal: list[BaseException] = []
        self.cancelled: list[str] = []
        self.engine = Engine(
            self.runtime,
            limits,
            on_batch=self._reports.append,
            on_fatal=self._fatal.append,
            on_cancel=self.cancelled.append,
            clock=self.clock,
        )

    @property
    def reports(self) -> list[BatchReport]:
        """What was told of every batch: stops the engine, for a caller has its answer before that is told."""
        self.engine.stop(10)
        return self._reports

    @property
    def fatal(self) -> list[BaseException]:
        """What the device has failed with; stops the engine too."""
        self.engine.stop(10)
        return self._fatal

    async def hold(self) -> Any:
        """Keep the device busy with a sequence of one token; return its ticket."""
        self.runtime.gate.clear()
        ticket = submit(self.engine, [sequence(1)])
        assert await asyncio.to_thread(self.runtime.entered.acquire, timeout=10)
        return ticket

    def release(self) -> None:
        """Let the device go on."""
        self.runtime.gate.set()
