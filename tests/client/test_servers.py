"""One client and several servers: whom it asks, when elsewhere, and who rests; no network and no clock."""

import gc
from itertools import pairwise

import httpx
import pytest

from heed_client import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    HeedError,
    Overloaded,
    Retries,
    Unavailable,
)
from heed_client.exchange import Call, Deadline, Outcome, Pause, Reply
from heed_client.servers.asking import answer
from heed_client.servers.choice import Servers, read_urls
from tests.client.test_exchange import OK, Clock, error

A, B, C = "http://a:1", "http://b:2", "http://c:3"
REFUSED, BROKEN = "refused", "broken"


class Fleet:
    """Servers that answer as they are told, and what they were asked."""

    def __init__(self, says: dict[str, "str | Reply"], **retries: int) -> None:
        self.says = says
        self.clock = Clock()
        self.servers = Servers(list(says), self.clock, shuffle=lambda _: None)
        self.retries = Retries(**retries)  # type: ignore[arg-type]
        self.calls: list[Call] = []
        self.pauses: list[float] = []

    @property
    def asked(self) -> list[str]:
        return [call.server for call in self.calls]

    def outcome(self, server: str) -> Outcome:
        said = self.says[server]
        if isinstance(said, Reply):
            return said
        return DeadlineExceeded("slow") if said == "slow" else ConnectionFailed(said, broken=said == BROKEN)

    def flow(self, deadline: float | None = None):
        return answer(
            lambda left: Call(method="GET", path="/", timeout_seconds=left),
            servers=self.servers,
            retries=self.retries,
            deadline=Deadline.after(deadline, clock=self.clock),
        )

    def ask(self, deadline: float | None = None) -> Reply:
        """Drive one call to its end; `calls` and `pauses` are of this call alone."""
        self.calls, self.pauses = [], []
        flow = self.flow(deadline)
        step = next(flow)
        try:
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.clock.now += step.seconds
                    step = flow.send(None)
                else:
                    self.calls.append(step)
                    step = flow.send(self.outcome(step.server))
        except StopIteration as end:
            reply: Reply = end.value
            return reply


def outstanding(fleet: Fleet) -> dict[str, int]:
    """Return how many requests are under way at each."""
    return {server.url: server.outstanding for server in fleet.servers._servers}


class TestChoice:
    def test_fewest_outstanding_requests_are_asked_first(self):
        servers = Servers([A, B, C], Clock())
        turns = [servers.take() for _ in range(6)]
        asked = [turn.server.url for turn in turns if turn]
        assert sorted(asked[:3]) == sorted(asked[3:]) == [A, B, C]
        for turn in turns:
            if turn and turn.server.url == B:
                servers.end(turn, well=True)
        again = [servers.take(), servers.take()]
        assert [turn.server.url for turn in again if turn] == [B, B]

    def test_servers_are_asked_in_turn_where_nothing_is_outstanding(self):
        fleet = Fleet({A: OK, B: OK})
        for _ in range(2):
            fleet.ask()
            first = fleet.asked
            fleet.ask()
            assert sorted(first + fleet.asked) == [A, B]

    def test_callers_who_leave_are_counted_out(self):
        fleet = Fleet({A: OK})
        flow = fleet.flow()
        next(flow)
        assert outstanding(fleet) == {A: 1}
        flow.close()
        assert outstanding(fleet) == {A: 0}

    @pytest.mark.parametrize("failing", [KeyboardInterrupt, RuntimeError])
    def test_call_that_ends_in_an_exception_is_counted_out_though_it_is_kept(self, failing):
        def handler(request: httpx.Request) -> httpx.Response:
            raise failing

        client = Client([A, B], transport=httpx.MockTransport(handler))
        kept = []
        for _ in range(3):
            with pytest.raises(failing) as caught:
                client.models()
            kept.append(caught.value)
        gc.collect()
        assert [server.outstanding for server in client._session.servers._servers] == [0, 0]


class TestElsewhere:
    @pytest.mark.parametrize(
        "first",
        [
            REFUSED,
            BROKEN,
            *(error(503, code) for code in ("draining", "not_ready", "device_failed", "out_of_memory")),
            error(429, retry_after="7"),
            Reply(status=503, headers={}, body=b"<html>no upstream</html>"),
        ],
        ids=lambda said: said if isinstance(said, str) else f"{said.status} {said.body[:34]!r}",
    )
    def test_another_server_is_asked_at_once(self, first):
        fleet = Fleet({A: first, B: OK})
        assert fleet.ask() == OK
        assert (fleet.asked, fleet.pauses) == ([A, B], [])

    @pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 504])
    def test_what_would_be_said_everywhere_is_not_asked_twice(self, status):
        fleet = Fleet({A: error(status), B: error(status)})
        with pytest.raises(HeedError):
            fleet.ask()
        assert len(fleet.asked) == 1

    def test_slow_answer_is_not_asked_for_a_second_time(self):
        fleet = Fleet({A: "slow", B: "slow"})
        with pytest.raises(DeadlineExceeded):
            fleet.ask()
        assert len(fleet.asked) == 1

    def test_any_number_that_cannot_be_reached_is_passed_over(self):
        fleet = Fleet(
            {f"http://{number}:1": REFUSED for number in range(9)} | {A: error(503, "draining"), B: OK}
        )
        for _ in range(30):
            assert fleet.ask() == OK
            assert fleet.pauses == []

    def test_request_that_breaks_two_servers_is_not_tried_at_a_third(self):
        fleet = Fleet({A: BROKEN, B: BROKEN, C: BROKEN})
        with pytest.raises(ConnectionFailed):
            fleet.ask()
        assert len(fleet.asked) == 2

    def test_alone_a_server_that_breaks_off_is_not_asked_again(self):
        fleet = Fleet({A: BROKEN})
        with pytest.raises(ConnectionFailed):
            fleet.ask()
        assert fleet.asked == [A]

    def test_full_fleet_is_asked_at_two_places_and_then_after_the_shorter_wait(self):
        fleet = Fleet(
            {url: error(429, retry_after=str(seconds)) for url, seconds in ((A, 3), (B, 3), (C, 3))}
        )
        fleet.says[C] = error(429, retry_after="2")
        with pytest.raises(Overloaded):
            fleet.ask()
        assert fleet.asked == [A, B, C, A, B, C, A, B]  # in turn, two a round
        assert fleet.pauses == [3.0, 2.0, 2.0]

    def test_error_tells_what_each_server_said_and_is_the_one_that_says_most(self):
        fleet = Fleet({"http://user:secret@a:1": error(503, "draining"), B: REFUSED}, attempts=1)
        with pytest.raises(Unavailable) as caught:
            fleet.ask()
        assert caught.value.code == "draining"
        assert dict(caught.value.asked) == {"http://a:1": "why (draining)", B: "refused"}
        assert "http://a:1: why (draining)" in str(caught.value)
        assert f"{B}: refused" in str(caught.value)
        assert "2 servers were asked" in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_error_of_one_server_says_what_it_said_and_no_more(self):
        with pytest.raises(ConnectionFailed) as caught:
            Fleet({A: REFUSED}, attempts=1).ask()
        assert str(caught.value) == "refused"


class TestRest:
    def test_server_that_failed_is_left_alone_and_for_twice_as_long_each_time(self):
        fleet = Fleet({A: REFUSED, B: OK})
        asked_at: list[float] = []
        began = fleet.clock.now
        while fleet.clock.now < began + 120:
            fleet.ask()
            if A in fleet.asked:
                asked_at.append(fleet.clock.now - began)
            fleet.clock.now += 0.01
        rests = [round(later - earlier, 1) for earlier, later in pairwise(asked_at)]
        assert rests[:6] == pytest.approx([0.25, 0.5, 1, 2, 4, 8], abs=0.06)
        assert set(rests[6:]) == {15.0}

    def test_rest_is_what_the_server_asks_for_where_that_is_longer(self):
        fleet = Fleet({A: error(503, "draining", retry_after="5"), B: OK})
        fleet.ask()
        fleet.clock.now += 4.9
        for _ in range(3):
            fleet.ask()
            assert fleet.asked == [B]
        fleet.clock.now += 0.2
        fleet.says[A] = OK
        assert {tuple(_asked(fleet)) for _ in range(4)} == {(A,), (B,)}

    def test_one_request_at_a_time_finds_out_whether_a_server_is_back(self):
        servers = Servers([A, B], clock := Clock())
        turns = [servers.take(), servers.take()]
        for turn in turns:
            assert turn is not None
            servers.end(turn, well=turn.server.url == B)
        clock.now += 0.3
        taken = [servers.take() for _ in range(5)]
        assert sorted(turn.server.url for turn in taken if turn) == [A, B, B, B, B]
        probe = next(turn for turn in taken if turn and turn.server.url == A)
        assert probe.probing
        servers.end(probe, well=True)
        after = [servers.take() for _ in range(4)]
        assert {turn.server.url for turn in after if turn} == {A}
        assert not any(turn.probing for turn in after if turn)

    def test_failures_of_requests_that_overlap_count_once(self):
        servers = Servers([A], clock := Clock())
        turns = [servers.take() for _ in range(8)]
        for turn in turns:
            assert turn is not None
            servers.end(turn, well=False)
        clock.now += 0.3
        other = servers.take()
        assert other is not None
        assert other.server.failures == 1

    def test_success_that_began_before_a_failure_says_nothing(self):
        servers = Servers([A, B], Clock())
        turns = {turn.server.url: turn for turn in [servers.take(), servers.take()] if turn}
        late = servers.take([turns[B].server])
        assert late is not None
        servers.end(turns[A], well=False)
        servers.end(late, well=True)
        assert late.server.rests_until > 0

    def test_servers_that_rest_are_asked_where_no_other_is_left(self):
        fleet = Fleet({A: REFUSED, B: REFUSED}, attempts=1)
        with pytest.raises(ConnectionFailed):
            fleet.ask()
        fleet.says[A] = OK
        assert fleet.ask() == OK

    def test_full_server_does_not_rest(self):
        fleet = Fleet({A: error(429), B: OK})
        for _ in range(4):
            fleet.ask()
        assert {server.failures for server in fleet.servers._servers} == {0}


class TestTime:
    def test_connecting_leaves_time_for_the_servers_that_are_left(self):
        fleet = Fleet({A: REFUSED, B: REFUSED, C: OK})
        fleet.ask(deadline=6)
        assert fleet.asked == [A, B, C]
        assert [call.connect_seconds for call in fleet.calls] == [2.0, 3.0, None]
        assert [call.timeout_seconds for call in fleet.calls] == [6.0, 6.0, 6.0]

    def test_server_that_has_just_rested_has_a_second_to_be_connected_to(self):
        fleet = Fleet({A: REFUSED, B: OK})
        fleet.ask()
        fleet.clock.now += 1
        first = fleet.calls
        fleet.ask()
        assert [call.server for call in first + fleet.calls] == [A, B, A, B]
        assert [call.connect_seconds for call in first + fleet.calls] == [None, None, 1.0, None]

    def test_deadline_is_kept_and_tells_what_was_said_until_then(self):
        fleet = Fleet({A: error(503, "x", retry_after="1"), B: error(503, "x", retry_after="1")}, attempts=9)
        with pytest.raises(Unavailable, match="2 servers"):
            fleet.ask(deadline=2.5)
        assert fleet.pauses == [1.0, 1.0]

    def test_connecting_is_bounded_by_the_shortest_of_all_bounds(self):
        seen: list[dict[str, float]] = []

        def handler(request: httpx.Request) -> httpx.Response:
            seen.append(request.extensions["timeout"])
            raise httpx.ConnectError("no", request=request)

        client = Client(
            [A, B], timeout=httpx.Timeout(60, connect=0.5), transport=httpx.MockTransport(handler)
        )
        with pytest.raises(ConnectionFailed):
            client.models(deadline=0.05)
        assert 0 < seen[0]["connect"] <= 0.025
        assert seen[0]["connect"] < seen[0]["read"] <= 0.05


def _asked(fleet: Fleet) -> list[str]:
    fleet.ask()
    return fleet.asked


@pytest.mark.parametrize(
    "urls", ["http://a:1,http://b:2", " http://a:1/ , http://b:2", ["http://a:1", "http://b:2/"]]
)
def test_several_urls_are_a_list_or_have_commas(urls):
    assert read_urls(urls) == [A, B]
    with Client(urls) as client:
        assert sorted(client.urls) == [A, B]


@pytest.mark.parametrize("urls", ["", "a:1", "http://a:1,", "http://", [], ["localhost"], "http://a:1,b:2"])
def test_what_is_no_url_is_refused_with_what_one_looks_like(urls):
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Client(urls)


def test_path_of_a_url_comes_before_the_routes():
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={"models": []})

    Client("http://a:1/heed/", transport=httpx.MockTransport(handler)).models()
    assert seen == ["http://a:1/heed/v1/models"]
