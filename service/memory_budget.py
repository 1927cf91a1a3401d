"""One budget of memory for all requests: bodies, what is read of them, results, and replies until sent.

Beside the request line. Whatever a request will hold is counted before it is made, by a claim of its own;
what would pass the limit is refused, and all of a claim is given back when the last who has to do with the
request lets go of it. Several HTTP processes count in one `Ledger`.
"""

import mmap
import threading
from collections.abc import Callable

from starlette.types import Scope

from service.errors import HeedError, TooLarge, Unavailable

__all__ = ["CLAIM", "COUNTED_BYTES", "Budget", "Claim", "Ledger", "claim_of"]

MIB = 1 << 20
CLAIM = "heed.claim"  # in the scope of a request
KEPT_BACK_BYTES = 16 * MIB  # of the limit, for small requests; of a small limit an eighth
SMALL_BYTES = MIB  # all that a small request holds
COUNTED_BYTES = 64 * 1024  # of a body from which on what becomes of it is counted exactly
LARGEST_WHOLE_BYTES = 16 * MIB  # of a result whose JSON may be there as a whole; of a small limit a 64th
SMALL_BODY_TIMES = 4  # what a smaller one may become: `0,` of JSON is eight bytes of a whole number
UNLIMITED = 1 << 62
RETRY_SECONDS = 1.0
WORD = 8  # bytes of one number of the ledger
MOST_PROCESSES = 64


class Ledger:
    """What each of several processes holds, in memory that they share; one writes its own place only.

    Two that look at the same moment may both take what is left: the sum may pass the limit by as much as one
    request of each process.
    """

    SIZE = WORD * (1 + MOST_PROCESSES)

    def __init__(self, descriptor: int, place: int = 0) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, self.SIZE)).cast("q")
        self._place = 1 + place

    @property
    def limit(self) -> int:
        """What all may hold together; 0 until the first process has said it."""
        return self._numbers[0]

    @limit.setter
    def limit(self, limit: int) -> None:
        self._numbers[0] = limit

    def held_by_others(self) -> int:
        """Bytes that the other processes hold."""
        return sum(self._numbers[1:]) - self._numbers[self._place]

    def write(self, held: int) -> None:
        """Say what this process holds."""
        self._numbers[self._place] = held


class Budget:
    """So many bytes for all requests; may be taken from and given back to on any thread.

    A part is kept back for small requests, so that they are served while large ones are refused. `on_refusal`
    is called for each that is.
    """

    def __init__(self, limit: int = UNLIMITED, *, ledger: Ledger | None = None) -> None:
        self.limit = limit
        self.kept_back = min(KEPT_BACK_BYTES, limit // 8)
        self.largest_whole = min(LARGEST_WHOLE_BYTES, limit // 64)
        self.held = 0  # by this process
        self.on_refusal: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._lock = threading.Lock()

    def claim(self) -> "Claim":
        """Return the claim of a new request, which holds nothing; whoever asks for it must let go of it."""
        return Claim(self)

    def take(self, size: int, *, of: "Claim", what: str, code: str) -> None:
        """Count so many bytes more for a claim, all or none; raise Unavailable, TooLarge."""
        with self._lock:
            if not of.holders:
                raise Unavailable("the request is over", code="out_of_memory")
            others = 0 if self._ledger is None else self._ledger.held_by_others()
            wanted = of.held + size
            limit = self.limit if wanted <= SMALL_BYTES else self.limit - self.kept_back
            if self.held + others + size > limit:
                self.on_refusal()
                raise self._refusal(wanted, size, limit - self.held - others, what, code)
            of.held = wanted
            self._change(size)

    def give(self, size: int, *, of: "Claim") -> None:
        """Count so many bytes of a claim no more."""
        with self._lock:
            size = min(size, of.held)
            of.held -= size
            self._change(-size)

    def close(self, claim: "Claim") -> None:
        """Count all of a claim no more, which nobody has to do with any longer."""
        with self._lock:
            self._change(-claim.held)
            claim.held = 0

    def _change(self, by: int) -> None:
        self.held += by
        if self._ledger is not None:
            self._ledger.write(self.held)

    def _refusal(self, wanted: int, size: int, free: int, what: str, code: str) -> HeedError:
        most = self.limit - self.kept_back
        if wanted > most:
            return TooLarge(
                f"{what} takes the request to {wanted} bytes of memory; the server has {most} for one "
                f"(MAX_MEMORY_BYTES {self.limit}, less {self.kept_back} kept back for small requests): send "
                "or ask for less at a time, or raise it",
                code=code,
            )
        return Unavailable(
            f"{what} takes {size} bytes more, and {max(0, free)} of {self.limit} (MAX_MEMORY_BYTES) "
            "are free; try again in a moment, or send or ask for less at a time",
            code="out_of_memory",
            retry_after_seconds=RETRY_SECONDS,
        )


class Claim:
    """What one request holds. `holders`: who has to do with it, the connection, the application.

    `refusal` is why its body was not taken: to be answered with, and nothing of the body to be read.
    """

    __slots__ = ("_budget", "held", "holders", "largest_whole", "refusal")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.largest_whole = budget.largest_whole  # result, in bytes, whose JSON may be there as a whole
        self.held = 0
        self.holders = 1
        self.refusal: HeedError | None = None

    def take_body(self, size: int) -> None:
        """Count a body of so many bytes, and of a small one what it will become; raise as `take`."""
        cost = size if size >= COUNTED_BYTES else SMALL_BODY_TIMES * size
        self._budget.take(cost, of=self, what=f"a body of {size} bytes", code="body_too_large")

    def take(self, size: int) -> None:
        """Count what is made of a body; raises Unavailable, TooLarge (body_too_large)."""
        self._budget.take(size, of=self, what="reading the body", code="body_too_large")

    def take_reply(self, size: int) -> None:
        """Count results and reply; raises Unavailable, TooLarge (result_too_large)."""
        self._budget.take(size, of=self, what=f"a reply of {size} bytes", code="result_too_large")

    def give(self, size: int) -> None:
        """Count so many bytes no more."""
        self._budget.give(size, of=self)

    def become(self, size: int) -> None:
        """Count so many bytes and no others: what was read is all that is left of a body."""
        if size > self.held:
            self.take(size - self.held)
        else:
            self.give(self.held - size)

    def join(self) -> None:
        """Have to do with it too, until `let_go`; on the event loop."""
        self.holders += 1

    def let_go(self) -> None:
        """Have no more to do with it; the last one gives all back. On the event loop."""
        self.holders -= 1
        if not self.holders:
            self._budget.close(self)


def claim_of(scope: Scope) -> Claim:
    """Return the claim of a request; where no station has made one, one that nothing bounds."""
    claim: Claim | None = scope.get(CLAIM)
    return Budget().claim() if claim is None else claim
