"""Who is let in: sizes are checked before anything is computed, capacity is taken at once or not at all.

Counts requests, tokens, score elements and result bytes of everything admitted and not let go of. Not
thread-safe: the engine calls it under its lock.
"""

from collections.abc import Callable, Sequence

from models.protocol import Item
from service.batching.cost import PREDICTED, Cost
from service.batching.limits import Limits
from service.errors import Overloaded, TooLarge


def check_size(items: Sequence[Item], cost: Cost, limits: Limits) -> None:
    """Raise TooLarge for a request that could never be admitted, whatever else is queued.

    Codes: sequence_too_long, result_too_large. `cost` is that of all items together.
    """
    for position, item in enumerate(items):
        longest = max(item.input.queries, item.input.keys)
        if longest > limits.max_sequence_tokens:
            raise _too_long(position, longest, f"the server's limit is {limits.max_sequence_tokens}")
        if item.card is not None and item.card.max_tokens is not None and longest > item.card.max_tokens:
            raise _too_long(position, longest, f"{item.card.name} has {item.card.max_tokens} positions")
    if cost.result_bytes > limits.max_result_bytes:
        raise TooLarge(
            f"the result would be {cost.result_bytes} bytes, the limit is {limits.max_result_bytes}; ask for "
            "fewer outputs, layers, heads or rows, top_k in place of weights, or send fewer inputs",
            code="result_too_large",
        )
    predicting = any(not PREDICTED.isdisjoint(item.selection.outputs) for item in items)
    counted = "tokens, with what predicting words is worth," if predicting else "tokens"
    for what, actual, limit in (
        (counted, cost.tokens, limits.max_queued_tokens),
        ("score elements", cost.scores, limits.max_queued_scores),
    ):
        if actual > limit:
            raise TooLarge(
                f"the request's {len(items)} inputs have {actual} {what} together, the limit "
                f"is {limit}; send fewer or shorter ones{', or choose rows' if predicting else ''}",
                code="sequence_too_long",
            )


def _too_long(position: int, longest: int, limit: str) -> TooLarge:
    return TooLarge(
        f"inputs[{position}] has {longest} tokens, {limit}; send a shorter sequence", code="sequence_too_long"
    )


def _overloaded(admitted: int, what: str, wanted: int, limit: int, seconds: float) -> Overloaded:
    return Overloaded(
        f"the queue holds {admitted} {what}, {wanted} more would pass the limit of {limit}; "
        f"try again in {seconds:.0f} s",
        retry_after_seconds=seconds,
    )


class Admission:
    """What is admitted now."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.admitted = 0  # requests, ever
        self.requests = 0
        self.tokens = 0
        self.scores = 0
        self.result_bytes = 0

    @property
    def full(self) -> bool:
        """Whether any request would be refused, whatever it asks; may be read without the lock."""
        return self.requests >= self._limits.max_queued_requests

    def require_place(self, retry_seconds: float) -> None:
        """Raise Overloaded where it is full."""
        if self.full:
            raise _overloaded(self.requests, "requests", 1, self._limits.max_queued_requests, retry_seconds)

    def acquire(self, cost: Cost, retry_seconds: Callable[[], float]) -> None:
        """Take the capacity for one request, all of it or none; raise Overloaded.

        `retry_seconds` says after how long trying again makes sense.
        """
        limits = self._limits
        for what, admitted, wanted, limit in (
            ("requests", self.requests, 1, limits.max_queued_requests),
            ("tokens", self.tokens, cost.tokens, limits.max_queued_tokens),
            ("score elements", self.scores, cost.scores, limits.max_queued_scores),
            ("result bytes", self.result_bytes, cost.result_bytes, limits.max_queued_result_bytes),
        ):
            if admitted + wanted > limit:
                raise _overloaded(admitted, what, wanted, limit, retry_seconds())
        self.admitted += 1
        self.requests += 1
        self.tokens += cost.tokens
        self.scores += cost.scores
        self.result_bytes += cost.result_bytes

    def release(self, cost: Cost) -> None:
        """Give back what `acquire` took."""
        self.requests -= 1
        self.tokens -= cost.tokens
        self.scores -= cost.scores
        self.result_bytes -= cost.result_bytes
        assert self.requests >= 0
