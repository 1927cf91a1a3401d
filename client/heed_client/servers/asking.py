"""One call: at another server where that one may answer, and again where that is worth a wait.

What this client asks for computes and changes nothing, so that it may be asked for twice. Each round asks
every server at most once, without a wait, and ends with the second that was reached: callers of a full fleet
would fill it further. What made two servers break off is not tried at a third.
"""

from collections.abc import Callable
from dataclasses import replace

from heed_client.errors import ConnectionFailed, DeadlineExceeded, HeedError, Refused
from heed_client.exchange import Call, Deadline, Flow, Pause, Reply, Retries, failure_of
from heed_client.servers.choice import PROBE_CONNECT_SECONDS, Server, Servers, Turn

__all__ = ["answer"]

MOST_REACHED = 2  # servers of a round that were reached and did not answer
MOST_BROKEN = 2  # servers that broke off, or whose device failed, at one request
_UNREADY = ("draining", "not_ready", "device_failed", "")  # codes of a 503; none: it is a proxy's


def answer(
    make: Callable[[float | None], Call], *, servers: Servers, retries: Retries, deadline: Deadline
) -> Flow[Reply]:
    """Send what `make` gives for the seconds left until a server answers; return the successful reply."""
    asked: dict[str, HeedError] = {}
    broken: set[Server] = set()
    attempt = 0
    while True:
        tried: list[Server] = []
        waits: list[float] = []
        reached = 0
        while reached < MOST_REACHED and (turn := servers.take(tried)) is not None:
            outcome = yield from _ask(turn, make, servers, deadline, asked, left=len(servers) - len(tried))
            if isinstance(outcome, Reply):
                return outcome
            tried.append(turn.server)
            asked[turn.server.name] = outcome
            if _broke_off(outcome):
                broken.add(turn.server)
            if not _passes(outcome) or len(broken) >= min(MOST_BROKEN, len(servers)):
                raise _telling(outcome, asked)
            reached += _was_reached(outcome)
            wait = retries.wait_seconds(attempt, outcome)
            waits += [] if wait is None else [wait]
        attempt += 1
        left = _left(deadline, asked)
        if not waits or (left is not None and min(waits) >= left):
            raise _telling(_most_telling(asked), asked)
        yield Pause(min(waits))


def _ask(
    turn: Turn,
    make: Callable[[float | None], Call],
    servers: Servers,
    deadline: Deadline,
    asked: dict[str, HeedError],
    *,
    left: int,
) -> Flow[Reply | HeedError]:
    """Ask one server, of `left` that may be asked yet; return its reply, or why there is none."""
    well, rest = None, None
    try:
        seconds = _left(deadline, asked)
        call = replace(make(seconds), server=turn.server.url, connect_seconds=_connect(seconds, turn, left))
        outcome = yield call
        assert outcome is not None
        failure = failure_of(outcome)
        if not isinstance(outcome, DeadlineExceeded):  # which a slow request is, at a good server
            well = not _is_unready(failure)
        rest = failure.retry_after if isinstance(failure, Refused) else None
        if failure is not None:
            return failure
        assert isinstance(outcome, Reply)
        return outcome
    finally:
        servers.end(turn, well=well, rest_seconds=rest)


def _connect(seconds: float | None, turn: Turn, left: int) -> float | None:
    """Return how long connecting may take, so that the servers that are left get their share of the time."""
    if left < 2:
        return None
    bounds = [PROBE_CONNECT_SECONDS] if turn.probing else []
    bounds += [seconds / left] if seconds is not None else []
    return min(bounds, default=None)


def _left(deadline: Deadline, asked: dict[str, HeedError]) -> float | None:
    try:
        return deadline.left()
    except DeadlineExceeded as error:
        raise _telling(error, asked) from None


def _passes(failure: HeedError) -> bool:
    """Return whether the same request may be answered by another server, or later."""
    if isinstance(failure, Refused):
        return failure.status in (429, 503)
    return isinstance(failure, ConnectionFailed)


def _broke_off(failure: HeedError) -> bool:
    if isinstance(failure, Refused):
        return failure.code == "device_failed"
    return isinstance(failure, ConnectionFailed) and failure.broken


def _is_unready(failure: HeedError | None) -> bool:
    """Return whether a server is to be left alone for a while."""
    if isinstance(failure, Refused):
        return failure.status == 503 and failure.code in _UNREADY
    return isinstance(failure, ConnectionFailed)


def _was_reached(failure: HeedError) -> bool:
    return _broke_off(failure) or not _is_unready(failure)


def _most_telling(asked: dict[str, HeedError]) -> HeedError:
    """Return the last refusal of those that were asked: it says more than a connection that failed."""
    failures = list(asked.values())
    return next((one for one in reversed(failures) if isinstance(one, Refused)), failures[-1])


def _telling(failure: HeedError, asked: dict[str, HeedError]) -> HeedError:
    failure.asked = {url: str(said) for url, said in asked.items()}
    return failure
