"""A device and the processes in front of it, all in this process: everything real but the processes."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from models.errors import DeviceFailed
from models.protocol import Item
from service.batching.job import Completed, Ticket
from service.batching.limits import Limits
from service.errors import HeedError
from service.processes.channel import Channel
from service.processes.device import Device, Link
from service.processes.memory import Memory, OwnMemory
from service.processes.messages import FromQueue, ToDevice, ToHttp, ToQueue
from service.processes.remote import RemoteModels
from service.processes.remote_engine import RemoteEngine
from tests.queueing import HeldRuntime
from tests.waiting import wait_until


class Served:
    """`count` HTTP processes' parts; their engines listen from `start` on, on the event loop."""

    def __init__(self, runtime: Any = None, count: int = 1, limits: Limits | None = None) -> None:
        self.runtime = runtime or HeldRuntime()
        self.limits = limits or Limits()
        self.fds: list[int] = []
        self.channels: list[Channel[Any]] = []
        self.memories: list[OwnMemory] = []
        self.cancelled: list[str] = []
        self.fatal: list[BaseException] = []
        self.models: list[RemoteModels] = []
        self.engines: list[RemoteEngine] = []
        links = []
        for _ in range(count):
            control, their_control = self._pair(ToDevice, ToHttp)
            work, their_work = self._pair(ToQueue, FromQueue)
            self.fds.append(os.memfd_create("test"))
            links.append(Link(control=control, work=work, memory=Memory(self.fds[-1])))
            self.memories.append(OwnMemory(self.fds[-1]))
            self.models.append(RemoteModels(their_control))
            self.engines.append(
                RemoteEngine(
                    self.limits,
                    channel=their_work,
                    memory=self.memories[-1],
                    models=self.models[-1],
                    on_fatal=self.fatal.append,
                    on_cancel=self.cancelled.append,
                )
            )
        self.links = links
        self.device = Device(links, on_news=lambda: None)
        self.device.start(self.runtime, self.limits)
        for models in self.models:
            models.start()

    def start(self) -> None:
        """Listen for answers, on the running loop."""
        for engine in self.engines:
            engine.start()

    async def hold(self, item: Item, engine: int = 0) -> Ticket:
        """Keep the device busy with one sequence; return its ticket."""
        self.runtime.gate.clear()
        ticket = submit(self.engines[engine], [item])
        assert await asyncio.to_thread(self.runtime.entered.acquire, timeout=10)
        return ticket

    async def queued(self, requests: int) -> None:
        """Wait until the whole server's queue holds so many requests."""
        await until(lambda: self.queue.queued_requests == requests, f"{requests} requests are queued")

    @property
    def queue(self) -> Any:
        """The one engine of all."""
        return self.device._engine

    def close(self) -> None:
        self.runtime.gate.set()
        self.device.stop()
        for channel in self.channels:
            channel.close()
        for fd in self.fds:
            os.close(fd)

    def _pair(self, one: Any, other: Any) -> tuple[Channel[Any], Channel[Any]]:
        ends = socket.socketpair()
        self.channels += [Channel(end, takes=takes) for end, takes in zip(ends, (one, other), strict=True)]
        return self.channels[-2], self.channels[-1]


def submit(
    engine: RemoteEngine, items: Sequence[Item], *, reserve: Any = lambda *_: None, **asked: Any
) -> Ticket:
    """Draft and admit a request."""
    return engine.admit(engine.draft(items, **asked), reserve=reserve)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what another thread does, while the loop goes on."""
    await asyncio.to_thread(wait_until, condition, what)


async def outcome(ticket: Ticket) -> Completed | HeedError:
    """Return what became of a request, and let go of it."""
    try:
        return await ticket.result()
    except HeedError as error:
        return error
    finally:
        ticket.cancel()


def first_numbers(batch: Sequence[Item]) -> list[float]:
    """The first number of each sequence of a batch."""
    return [float(item.input.embeddings[0, 0]) for item in batch]  # type: ignore[union-attr, index]


def broken(_: Sequence[Item]) -> None:
    """Fail as a device does."""
    raise DeviceFailed("fell off the bus")
