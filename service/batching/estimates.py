"""How long work takes, learned from the batches that ran: seconds of the whole device a sequence.

Sequences of one kind (same model, outputs and depth, sizes within a factor of two) cost about the same a
token, and kinds differ by orders of magnitude, so each has a rate of its own: what long ones cost says
nothing about short ones. A batch of several kinds is divided as was expected of them. The least that any
batch of the model takes is what starting one costs, and is not charged to its sequences: those that run alone
on a free device must not make many of them together look slow. Not thread-safe: the backlog calls it under
its lock.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from models.protocol import Item
from service.batching.cost import Cost
from service.batching.job import Job

MOST_KINDS = 1024  # remembered; the oldest go first
STEP = 0.3  # towards what a batch has shown, for a kind that was all of it
LEAST_RATIO, MOST_RATIO = 0.1, 3.0  # of measured to expected that one batch may show: a stall is no measure
TRUSTED_AFTER = 2.0  # batches, each counted by the part of it that the kind was
STALE_SECONDS, STALE_TIMES = 5.0, 50.0  # a kind is tried again then: at most 2% of the time are lost on it
MOST_START_SECONDS = 0.005
LEAST_CHARGED = 0.2  # of what a batch took to its sequences, whatever starting it costs
RISE = 1.02  # of the least batch, each batch: a machine may become slower
DECAY = 0.9  # of the rate of everything: about the last ten batches count
CAUTION = 4.0  # deviations that are allowed for
DEVIATION_STEP, MOST_DEVIATION = 0.1, 1.0


def kind_of(item: Item, cost: Cost) -> Hashable:
    """Return what sequences must have in common to cost about the same a token."""
    card, chosen = item.card, item.selection
    return (
        "" if card is None else card.name,
        max(chosen.layers),
        chosen.outputs,
        cost.tokens.bit_length(),
        cost.scores.bit_length(),
        cost.result_bytes.bit_length(),
    )


@dataclass(slots=True)
class _Rate:
    """Of one kind: seconds a token, the batches that it rests on, and when the last of them ended."""

    seconds: float
    batches: float
    at: float


class Estimates:
    """What is known of every kind, and of all of them together for those that are not."""

    def __init__(self) -> None:
        self._rates: dict[Hashable, _Rate] = {}
        self._least: dict[str, float] = {}  # by model: the shortest batch, slowly forgotten
        self._tokens = 0.0
        self._seconds = 0.0
        self._deviation = 0.0  # of batches from what was expected, on average

    def __len__(self) -> int:
        return len(self._rates)

    @property
    def seconds_per_token(self) -> float:
        """Of the last batches, whatever was in them; 0 when nothing has run."""
        return self._seconds / self._tokens if self._tokens else 0.0

    @property
    def caution(self) -> float:
        """By what factor a batch may take longer than expected, as they have lately."""
        return 1 + CAUTION * self._deviation

    def estimate(self, job: Job, now: float) -> None:
        """Set what a job is expected to take; raises nothing, whatever is known."""
        rate = self._rates.get(job.kind)
        if rate is None:
            job.seconds = job.cost.tokens * self.seconds_per_token
            return
        seconds = job.seconds = job.cost.tokens * rate.seconds
        age = now - rate.at
        stale = age > STALE_SECONDS and age > STALE_TIMES * seconds
        if not stale and rate.batches >= TRUSTED_AFTER:
            job.needs = seconds
            job.start = self._started(_model(job))

    def measured(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        """Learn from a batch that took so many seconds of the whole device, and ended `now`."""
        tokens = 0
        for job in jobs:
            tokens += job.cost.tokens
        self._tokens = DECAY * self._tokens + tokens
        self._seconds = DECAY * self._seconds + seconds
        if seconds <= 0:  # a clock that stands still measures nothing
            return
        start = self._note(_model(jobs[0]), seconds)
        expected: dict[Hashable, tuple[int, float]] = {}
        total = 0.0
        known = True
        for job in jobs:
            rate = self._rates.get(job.kind)
            known = known and rate is not None
            one = job.cost.tokens * (self.seconds_per_token if rate is None else rate.seconds)
            total += one
            of_kind, sooner = expected.get(job.kind, (0, 0.0))
            expected[job.kind] = of_kind + job.cost.tokens, sooner + one
        if known:
            off = min(abs(seconds / (start + total) - 1), MOST_DEVIATION)
            self._deviation += DEVIATION_STEP * (off - self._deviation)
        charged = max(seconds - start, LEAST_CHARGED * seconds)
        for kind, (of_kind, part) in expected.items():
            self._learn(kind, part / total, part / of_kind, charged / total, now)

    def _note(self, model: str, seconds: float) -> float:
        """Note a batch of a model; return what starting one costs, the part that is no work."""
        self._least[model] = min(seconds, RISE * self._least.get(model, seconds))
        if len(self._least) > MOST_KINDS:
            del self._least[next(iter(self._least))]
        return self._started(model)

    def _started(self, model: str) -> float:
        return min(self._least.get(model, 0.0), MOST_START_SECONDS)

    def _learn(self, kind: Hashable, part: float, rate: float, ratio: float, now: float) -> None:
        """`part`: of the batch; `rate`: as expected; `ratio`: of what was measured to what was expected."""
        known = self._rates.get(kind)
        if known is None:
            if len(self._rates) >= MOST_KINDS:
                del self._rates[next(iter(self._rates))]
            self._rates[kind] = _Rate(rate * ratio, part, now)
            return
        shown = min(max(ratio, LEAST_RATIO), MOST_RATIO)
        known.seconds *= 1 + STEP * part * (shown - 1)
        known.batches = min(known.batches + part, TRUSTED_AFTER)
        known.at = now


def _model(job: Job) -> str:
    return "" if job.item.card is None else job.item.card.name
