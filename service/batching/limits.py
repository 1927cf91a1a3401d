"""How much work one batch, one request and the whole queue may hold: plain numbers, given by `app`."""

from dataclasses import dataclass, fields

__all__ = ["Limits"]

MiB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of the engine; every one is positive but `max_wait_seconds` and `max_overtakes`, 0 or more.

    Batch budgets bound the time and the memory of one forward pass; a single sequence over one of them
    still runs, alone. Queue limits bound what is admitted and not let go of. `long_share` is the part of
    a batch budget from which a sequence counts as long, and does not ride with short ones.
    """

    max_batch_tokens: int = 16_384
    max_batch_scores: int = 1 << 27  # Σ H·T·S; 12 heads at T = 3,344
    max_batch_result_bytes: int = 256 * MiB
    max_queued_requests: int = 512
    max_queued_tokens: int = 1 << 18
    max_queued_scores: int = 1 << 36  # 64 heads at T = 32,768
    max_queued_result_bytes: int = 1024 * MiB
    max_result_bytes: int = 256 * MiB  # of one request
    max_sequence_tokens: int = 32_768
    max_wait_seconds: float = 0.0  # how long an unfilled batch may wait for company; 0 starts at once
    long_share: float = 1 / 8
    max_overtakes: int = 8  # batches that may go before the first job of a lower priority class

    interlude_share: float = 4.0  # seconds for short jobs between a long batch's steps, a second it works

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            may_be_zero = one.name in ("max_wait_seconds", "max_overtakes")
            if value < 0 or (value == 0 and not may_be_zero):
                raise ValueError(
                    f"{one.name} is {value}; give a number {'of at least' if may_be_zero else 'above'} 0"
                )
        if self.max_result_bytes > self.max_queued_result_bytes:
            raise ValueError(
                f"max_result_bytes {self.max_result_bytes} is over max_queued_result_bytes "
                f"{self.max_queued_result_bytes}: the largest result allowed could never be admitted"
            )
