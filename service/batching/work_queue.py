"""What those who submit requests, and those who look at health, see of the queue beside the device.

It is an `Engine` where the device is in this process, and else a `RemoteEngine`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from models.protocol import Item
from service.batching.backlog import State
from service.batching.draft import Draft
from service.batching.job import Ticket

# Told of the bytes of a result, and of inputs that are copied; raises where they are not there.
Reserve = Callable[[int, int], None]


class WorkQueue(Protocol):
    """One queue; `Engine` says what each of these is. What is counted is of this process."""

    @property
    def state(self) -> State:
        """Whether work is taken."""

    @property
    def alive(self) -> bool:
        """Whether the device's threads run."""

    @property
    def oldest_batch_seconds(self) -> float:
        """How long the device has been at its oldest batch."""

    @property
    def queued_requests(self) -> int:
        """Requests admitted and not let go of."""

    @property
    def queued_tokens(self) -> int:
        """Tokens of those requests."""

    @property
    def waiting_requests(self) -> int:
        """Requests of the whole server of which the device has begun nothing."""

    @property
    def admitted_requests(self) -> int:
        """How many requests have been admitted so far."""

    def start(self) -> None:
        """Take work from here on."""

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Answer with `draining` what does not end in time."""

    def draft(
        self, items: Sequence[Item], *, deadline: float | None = None, priority: int = 0, tenant: str = ""
    ) -> Draft:
        """Return a request as `admit` takes it."""

    def require_place(self) -> None:
        """Raise Overloaded where no request would be admitted, whatever it asks."""

    def admit(self, draft: Draft, *, reserve: Reserve = ...) -> Ticket:
        """Admit one request, or refuse it: now, or as its result."""
