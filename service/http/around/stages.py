"""When a request was where: what `exchange` notes down for whoever counts it, or makes spans of it.

Beside the request line. Only a request that is traced has Stages in its scope.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from service.batching.draft import Draft
from service.batching.job import Completed, Ticket

STAGES, SPENT = "heed.stages", "heed.spent"  # in the scope


@dataclass(slots=True)
class Spent:
    """One request for inference, as far as it has come: where its `seconds` went, by stage."""

    sequences: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Stages:
    """One request's stations, as far as it has come; times in seconds of time.monotonic.

    `trace` is its span, as a traceparent. `submitted`, the end of decoding, is None until it is decoded,
    `queue_seconds` until it is answered, `encoded` until its reply is written. `run_seconds` is from the
    first batch to the last, `compute_seconds` what the device took of them, `encode_seconds` what was spent
    on writing, of the time from `encoding` to `encoded`.
    """

    trace: str
    sequences: int = 0
    tokens: int = 0
    decode_seconds: float = 0.0
    submitted: float | None = None
    queue_seconds: float | None = None
    run_seconds: float = 0.0
    compute_seconds: float = 0.0
    encoding: float = 0.0
    encoded: float | None = None
    encode_seconds: float = 0.0

    def drafted(self, draft: Draft, decode_seconds: float) -> Draft:
        """Note what was decoded; return the draft as it is admitted, which says whose it is."""
        self.submitted = time.monotonic()
        self.decode_seconds = decode_seconds
        self.sequences = len(draft.sequences)
        self.tokens = sum(item.input.queries for item, _ in draft.sequences)
        return replace(draft, trace=self.trace)

    def answered(self, ticket: Ticket, done: Completed) -> None:
        """Note where the time went until the answers were there."""
        self.submitted = ticket.submitted
        self.queue_seconds = done.queue_seconds
        self.run_seconds = done.batch_seconds + done.compute_seconds
        self.compute_seconds = done.compute_seconds
        self.encoding = time.monotonic()

    def written(self, seconds: float) -> None:
        """Note that the reply is written, and how long that took."""
        self.encoded = time.monotonic()
        self.encode_seconds = seconds


def noting(stages: Stages | None, spent: Spent, count: Callable[[float], object]) -> Callable[[float], None]:
    """Return what is told how long a reply took to write: `count`, `spent`, and `stages` where there are."""

    def note(seconds: float) -> None:
        count(seconds)
        spent.seconds["encode"] = seconds
        if stages is not None:
            stages.written(seconds)

    return note
