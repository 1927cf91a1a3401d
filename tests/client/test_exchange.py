"""When a call is tried again, and when it is not: flows driven by hand, no network and no clock."""

from collections.abc import Iterable

import pytest

from heed_client.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    HeedError,
    InvalidRequest,
    NotAuthorized,
    NotFound,
    Overloaded,
    Refused,
    TooLarge,
    Unavailable,
)
from heed_client.exchange import Call, Deadline, Pause, Reply, Retries
from heed_client.servers.asking import answer
from heed_client.servers.choice import Servers


class Clock:
    """Time passes when a flow pauses, and not otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def error(status: int, code: str = "x", **headers: str) -> Reply:
    body = b'{"error": {"code": "%s", "message": "why", "request_id": "r1"}}' % code.encode()
    return Reply(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}, body=body)


OK = Reply(status=200, headers={}, body=b"{}")


def drive(
    outcomes: Iterable[Reply | ConnectionFailed],
    *,
    deadline: float | None = None,
    retries: Retries | None = None,
) -> tuple[Reply, list[float], list[float | None]]:
    """Return the reply, the pauses and the seconds that each call was given."""
    clock = Clock()
    pauses: list[float] = []
    given: list[float | None] = []

    def make(left: float | None) -> Call:
        given.append(left)
        return Call(method="GET", path="/", timeout_seconds=left)

    flow = answer(
        make,
        servers=Servers("http://heed", clock),
        retries=retries or Retries(),
        deadline=Deadline.after(deadline, clock=clock),
    )
    waiting = iter(outcomes)
    step = next(flow)
    while True:
        try:
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                clock.now += step.seconds
                step = flow.send(None)
            else:
                step = flow.send(next(waiting))
        except StopIteration as end:
            return end.value, pauses, given


def test_success_is_returned_at_once():
    assert drive([OK]) == (OK, [], [None])


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_that_pass_are_tried_again_after_retry_after(status):
    reply, pauses, _ = drive([error(status, retry_after="7"), error(status, retry_after="2"), OK])
    assert (reply, pauses) == (OK, [7.0, 2.0])


def test_waits_double_where_the_server_names_none():
    _, pauses, _ = drive([error(503), ConnectionFailed("refused"), error(429, retry_after="soon"), OK])
    assert pauses == [0.1, 0.2, 0.4]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 406, 413, 415, 422, 500, 502, 504])
def test_other_refusals_are_not_tried_again(status):
    with pytest.raises(HeedError):
        drive([error(status, retry_after="1"), OK])


def test_dead_device_is_not_asked_again():
    with pytest.raises(Unavailable):
        drive([error(503, "device_failed"), OK])


def test_attempts_are_bounded_and_the_last_refusal_is_raised():
    with pytest.raises(Overloaded) as caught:
        drive([error(429, retry_after="1")] * 9, retries=Retries(attempts=3))
    assert caught.value.retry_after == 1


def test_one_attempt_means_no_retries():
    with pytest.raises(ConnectionFailed):
        drive([ConnectionFailed("refused"), OK], retries=Retries(attempts=1))


def test_server_that_asks_for_too_much_patience_is_taken_at_its_word():
    with pytest.raises(Overloaded):
        drive([error(429, retry_after="31"), OK])


def test_no_wait_goes_past_the_deadline():
    with pytest.raises(Overloaded):
        drive([error(429, retry_after="5"), OK], deadline=5)


def test_each_attempt_is_given_what_is_left_of_the_deadline():
    _, _, given = drive([error(429, retry_after="2"), OK], deadline=5)
    assert given == [5.0, 3.0]


@pytest.mark.parametrize("seconds", [0, -1])
def test_deadline_in_the_past_is_a_mistake(seconds):
    with pytest.raises(ValueError, match="more than 0"):
        drive([OK], deadline=seconds)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, NotAuthorized),
        (403, NotAuthorized),
        (404, NotFound),
        (413, TooLarge),
        (418, Refused),
        (422, InvalidRequest),
        (500, Unavailable),
    ],
)
def test_refusals_carry_the_servers_words(status, kind):
    with pytest.raises(kind) as caught:
        drive([error(status, "code_of_it")])
    failure = caught.value
    assert (failure.status, failure.code, failure.message, failure.request_id) == (
        status,
        "code_of_it",
        "why",
        "r1",
    )


def test_deadline_that_passed_at_the_server_is_the_callers_deadline():
    with pytest.raises(DeadlineExceeded):
        drive([error(504)])


@pytest.mark.parametrize("body", [b"", b"<html>gateway</html>", b"[]", b'{"error": "x"}', b"\xff"])
def test_refusals_of_another_server_are_refusals_all_the_same(body):
    with pytest.raises(Unavailable, match="HTTP 502"):
        drive([Reply(status=502, headers={}, body=body)])
